from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from campaign.worker.processes import Life, ProcessId


def test_life_of_a_process() -> None:
    assert ProcessId.this() == ProcessId.of(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = ProcessId.of(child.pid)
    assert process is not None
    assert process.life() is Life.ALIVE
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.life() is Life.GONE, "dead and not yet waited for"
    child.communicate()
    assert process.life() is Life.GONE
    assert ProcessId.of(child.pid) is None


def test_a_number_that_was_given_to_another_process_is_not_the_first() -> None:
    earlier = replace(ProcessId.this(), started_unix_s=ProcessId.this().started_unix_s - 3600)
    assert earlier.life() is Life.GONE


def test_a_process_of_another_host_is_unknown_here() -> None:
    assert replace(ProcessId.this(), host="elsewhere.example").life() is Life.ELSEWHERE
