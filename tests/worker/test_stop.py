from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from campaign.worker.processes import ProcessId
from campaign.worker.stop import CHECK_INTERVAL_S, STOP_SIGNALS, StopReason, StopRequests


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self) -> None:
        self.now += CHECK_INTERVAL_S


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_sets_the_flag_and_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopRequests()
    with stop.signals():
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert stop.reason is StopReason.SIGNAL
    assert signal.getsignal(number) == before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with StopRequests().signals():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []


def test_files_are_looked_at_now_and_then(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "cancel"
    stop = StopRequests({file: StopReason.CANCELLED}, clock=clock)
    assert not stop()
    file.touch()
    assert not stop(), "looked at a moment ago"
    clock.advance()
    assert stop()
    assert stop.reason is StopReason.CANCELLED
    file.unlink()
    assert stop(), "a request is not withdrawn"


def test_the_deadline() -> None:
    clock = Clock()
    stop = StopRequests(deadline_unix_s=clock.now + 2 * CHECK_INTERVAL_S, clock=clock)
    seen = []
    for _ in range(4):
        seen.append(stop())
        clock.advance()
    assert seen == [False, False, True, True]
    assert stop.reason is StopReason.DEADLINE


def test_a_supervisor_that_is_gone() -> None:
    alive = StopRequests(supervisor=ProcessId.this())
    assert not alive()
    gone = StopRequests(supervisor=replace(ProcessId.this(), started_unix_s=0.0))
    assert gone()
    assert gone.reason is StopReason.ORPHANED


def test_a_parent_that_is_gone(tmp_path: Path) -> None:
    """The middle process of three is killed: the last one has another parent then, though its supervisor lives."""
    program = f"""
import os, sys, time
from pathlib import Path
from campaign.worker.processes import ProcessId
from campaign.worker.stop import StopRequests
if os.fork():
    time.sleep(60)
stop = StopRequests(supervisor=ProcessId.of({os.getpid()}))
Path({str(tmp_path / "ready")!r}).touch()
while not stop():
    time.sleep(0.05)
written = Path({str(tmp_path / "reason")!r} + ".partial")
written.write_text(stop.reason.name)
written.rename({str(tmp_path / "reason")!r})
"""
    middle = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program])
    wait_for(tmp_path / "ready")
    middle.kill()
    middle.wait()
    wait_for(tmp_path / "reason")
    assert (tmp_path / "reason").read_text() == "ORPHANED"


def wait_for(file: Path) -> None:
    for _ in range(1000):
        if file.exists():
            return
        threading.Event().wait(0.02)
    raise AssertionError(f"{file} did not appear")
