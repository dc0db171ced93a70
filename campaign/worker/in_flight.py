"""What a rank is working on at this moment, on disk, so that a process that dies without a word leaves word of what it died with.

A rank writes the ids in its batch whenever others come into it, and removes the file when it leaves, for whatever reason it can tell. So
a file that is there when its rank is gone means a death. What killed a process that died of its own doing (SIGSEGV, SIGFPE, SIGABRT,
SIGBUS, SIGILL) Python's faulthandler writes to a second file in its last moment; one that was killed from outside, by the scheduler or
together with another rank, leaves that one empty. A process whose GPU is lost by what ran there can say so, and leaves both files all the
same: it cannot work any more, and whatever did it is among what it was working on.
"""

from __future__ import annotations

import faulthandler
import json
import re
import signal
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Final, Self

from campaign.errors import DeviceLostError
from campaign.files import write_volatile, writing
from campaign.paths import CampaignPaths, ShardName
from campaign.worker.records import RunState, read_rank_records

__all__ = ["Death", "InFlight", "died_by_itself", "read_deaths"]

_SIGNALS: Final = {
    "segmentation fault": signal.SIGSEGV,
    "floating point exception": signal.SIGFPE,
    "aborted": signal.SIGABRT,
    "bus error": signal.SIGBUS,
    "illegal instruction": signal.SIGILL,
}

_LOST_DEVICE: Final = "Lost device"
"""What the second file begins with where a GPU was lost."""


@dataclass(frozen=True, slots=True)
class Death:
    """A rank's process that ended in the middle: the ids that it was working on, and what it did itself, if it did anything.

    That is a signal, or the loss of its GPU.
    """

    name: ShardName
    system_ids: frozenset[int]
    signal: int | None
    lost_device: bool = False

    @property
    def is_own_doing(self) -> bool:
        """Whether nobody else ended it."""
        return self.signal is not None or self.lost_device


class InFlight:
    """The file of a rank that runs, within a `with` block; leaving it in any way but death, or by a lost GPU, removes the file."""

    def __init__(self, paths: CampaignPaths, name: ShardName) -> None:
        self._file = paths.in_flight(name)
        self._fault_file = paths.fault(name)
        self._log: IO[bytes] | None = None

    def write(self, system_ids: Iterable[int]) -> None:
        """Say what is worked on from now on.

        The file is replaced as a whole but not forced to the disk: it is to outlive this process, not the machine, and then costs little.
        """
        write_volatile(self._file, json.dumps({"system_ids": sorted(system_ids)}).encode())

    def __enter__(self) -> Self:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if not faulthandler.is_enabled():  # someone else's handler stays; deaths are then without a signal
            with writing(self._fault_file):
                self._log = self._fault_file.open("wb")
            faulthandler.enable(self._log, all_threads=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._log is not None:
            faulthandler.disable()
            self._log.close()
        if isinstance(error, DeviceLostError) and error.by_kernel:
            with writing(self._fault_file):
                self._fault_file.write_text(f"{_LOST_DEVICE}: {error}\n", encoding="utf-8")
            return
        self._fault_file.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)


def read_deaths(paths: CampaignPaths, before: ShardName, system_ids: Collection[int]) -> list[Death]:
    """Return the deaths in earlier rounds, and in earlier attempts at the array task of `before`, that concern some of these ids.

    When a rank dies, MPI and SLURM take down the others of its array task. So where one died of its own doing, or could say what it raised,
    the others of that attempt died of it and count as innocent.
    """
    wanted = frozenset(system_ids)
    found: dict[tuple[int, int, int], list[Death]] = {}
    for round_ in [round_ for round_ in paths.rounds() if round_ <= before.round]:
        excused = _with_a_failure(paths, round_)
        for file in sorted(paths.in_flight_folder(round_).glob("*.json")):
            name = ShardName.parse(f"{file.stem}.zarr")
            if name is None or not _is_over(name, before):
                continue
            fault = _fault_in(paths, name)
            death = Death(name, _ids_in(file.read_bytes()), _signal_in(fault), fault.startswith(_LOST_DEVICE))
            attempt = name.round, name.array_task, name.attempt
            if death.system_ids & wanted and (death.is_own_doing or attempt not in excused):
                found.setdefault(attempt, []).append(death)
    deaths: list[Death] = []
    for of_attempt in found.values():
        by_itself = [death for death in of_attempt if death.is_own_doing]
        deaths += by_itself or of_attempt
    return deaths


def died_by_itself(paths: CampaignPaths, round_: int) -> bool:
    """Return whether some rank of a round died by a signal of its own doing, or lost its GPU."""
    names = [ShardName.parse(f"{file.stem}.zarr") for file in paths.in_flight_folder(round_).glob("*.json")]
    faults = [_fault_in(paths, name) for name in names if name is not None]
    return any(_signal_in(fault) is not None or fault.startswith(_LOST_DEVICE) for fault in faults)


def _is_over(name: ShardName, before: ShardName) -> bool:
    return name.round < before.round or (name.array_task == before.array_task and name.attempt < before.attempt)


def _with_a_failure(paths: CampaignPaths, round_: int) -> frozenset[tuple[int, int, int]]:
    records = read_rank_records(paths, round_)
    return frozenset(
        (record.name.round, record.name.array_task, record.name.attempt) for record in records if record.state is RunState.FAILED
    )


def _ids_in(data: bytes) -> frozenset[int]:
    try:
        return frozenset(int(system_id) for system_id in json.loads(data)["system_ids"])
    except (ValueError, KeyError, TypeError):
        return frozenset()  # the machine died with the process, before the file was on its disk


def _fault_in(paths: CampaignPaths, name: ShardName) -> str:
    try:
        return paths.fault(name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _signal_in(fault: str) -> int | None:
    match = re.match(r"Fatal Python error: ([\w -]+)", fault)
    number = _SIGNALS.get(match[1].strip().lower().replace("-", " ")) if match else None
    return None if number is None else int(number)
