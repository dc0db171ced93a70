"""Reasons for a rank to leave before its work is done. Handlers set a flag and files are looked at now and then; the loop acts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Final

from campaign.worker.processes import Life, ProcessId

CHECK_INTERVAL_S: Final = 1.0
"""How often files, parents and the clock are looked at; a look is a few microseconds and one or two stat calls."""

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Each means: commit what is finished and leave. Schedulers differ in which one they send first."""


class StopReason(StrEnum):
    """Why a rank left early."""

    SIGNAL = "a signal asked it to leave"
    CANCELLED = "the campaign was cancelled"
    ASKED = "its job was asked to leave"
    DEADLINE = "its time was up"
    ORPHANED = "the process that started it is gone"


class StopRequests:
    """Call it after each step: True when it is time to leave.

    >>> requests = StopRequests(files={Path("/nonexistent/cancel"): StopReason.CANCELLED})
    >>> requests()
    False
    >>> requests.request(StopReason.SIGNAL)
    >>> requests(), requests.reason.name
    (True, 'SIGNAL')
    """

    def __init__(
        self,
        files: dict[Path, StopReason] | None = None,
        deadline_unix_s: float | None = None,
        supervisor: ProcessId | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files or {}
        self._deadline_unix_s = deadline_unix_s
        self._supervisor = supervisor
        self._parent = os.getppid()
        self._clock = clock
        self._next_check = 0.0
        self.reason: StopReason | None = None

    def __call__(self) -> bool:
        """Say whether to leave; `reason` then says why."""
        if self.reason is None and (now := self._clock()) >= self._next_check:
            self._next_check = now + CHECK_INTERVAL_S
            self.reason = self._look(now)
        return self.reason is not None

    def request(self, reason: StopReason) -> None:
        """Ask to leave; the first reason stands."""
        self.reason = self.reason or reason

    def _look(self, now: float) -> StopReason | None:
        for file, reason in self._files.items():
            if file.exists():
                return reason
        if self._deadline_unix_s is not None and now >= self._deadline_unix_s:
            return StopReason.DEADLINE
        if self._supervisor is not None and (os.getppid() != self._parent or self._supervisor.life() is Life.GONE):
            return StopReason.ORPHANED
        return None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within this block the stop signals set the flag. Outside the main thread, where Python allows no handlers, nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            del number, frame
            self.request(StopReason.SIGNAL)

        before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
