"""Which process is meant, also after its number has been given to another one."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import psutil

START_TOLERANCE_S: Final = 2.0
"""Start times come from the boot time and a clock that is adjusted now and then; a number is not reused this quickly."""


class Life(StrEnum):
    """Whether a process lives."""

    ALIVE = "alive"
    GONE = "gone"
    ELSEWHERE = "elsewhere"
    """It ran on another host, so this one cannot know."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process for ever: number, start time and host.

    >>> ProcessId.of(os.getpid()).life()
    <Life.ALIVE: 'alive'>
    """

    pid: int
    started_unix_s: float
    host: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the process that has this number now, or None."""
        try:
            return cls(pid, psutil.Process(pid).create_time(), socket.gethostname())
        except psutil.NoSuchProcess:
            return None

    @classmethod
    def this(cls) -> ProcessId:
        """The calling process."""
        return cls(os.getpid(), psutil.Process().create_time(), socket.gethostname())

    def life(self) -> Life:
        """Say whether the process lives. One that is dead and not yet waited for is gone."""
        if self.host != socket.gethostname():
            return Life.ELSEWHERE
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_unix_s) < START_TOLERANCE_S
            return Life.ALIVE if same and process.status() != psutil.STATUS_ZOMBIE else Life.GONE
        except psutil.NoSuchProcess:
            return Life.GONE
