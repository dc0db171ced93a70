"""What a rank says about its run, as a small JSON file: written when it starts, and again, whole, when it ends."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from campaign.files import write_json
from campaign.paths import CampaignPaths, ShardName
from campaign.worker.processes import ProcessId

EXIT_STOPPED: Final = 75
"""Exit code of a rank or job that left early with everything finished on disk; sysexits.h calls it EX_TEMPFAIL."""

EXIT_FAILED: Final = 1
"""Exit code of a rank or job that raised."""


class RunState(StrEnum):
    """Where a rank or a job entry is. One that says `running` and whose process is gone was killed."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """It left early, with everything finished on disk."""
    FAILED = "failed"
    """It raised."""
    KILLED = "killed"
    """Someone else saw it end without a word."""

    @property
    def exit_code(self) -> int:
        """Code to exit with."""
        return {RunState.DONE: 0, RunState.STOPPED: EXIT_STOPPED}.get(self, EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class RankRecord:
    """One rank's run: times in seconds by part of the loop, steps and atoms × steps summed over its systems."""

    name: ShardName
    state: RunState
    process: ProcessId
    job_id: str | None
    started_unix_s: float
    ended_unix_s: float | None = None
    reason: str = ""
    error: str = ""
    device: str = ""
    threads: int = 1
    outcomes: dict[str, int] = field(default_factory=dict)
    n_claims: int = 0
    n_steps: int = 0
    atom_steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    device_seconds: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def structures_per_s(self) -> float:
        """Finished systems over the time of the whole run, start-up included."""
        wall = (self.ended_unix_s or self.started_unix_s) - self.started_unix_s
        return sum(self.outcomes.values()) / wall if wall > 0 else 0.0

    def write(self, paths: CampaignPaths) -> None:
        """Write the record, replacing an earlier one of the same run."""
        values = asdict(self) | {"structures_per_s": self.structures_per_s}
        file = paths.rank_record(self.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, values)


def read_rank_records(paths: CampaignPaths, round_: int) -> list[RankRecord]:
    """Return the records of a round, sorted by shard name.

    Raises:
        OSError: a record cannot be read.
    """
    folder = paths.rank_records(round_)
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    return [read_rank_record(file) for file in files]


def read_rank_record(file: Path) -> RankRecord:
    """Return the record in a file.

    Raises:
        OSError, ValueError, KeyError, TypeError: it cannot be read.
    """
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    values.pop("structures_per_s")
    fixed = {"name": ShardName(**values["name"]), "state": RunState(values["state"]), "process": ProcessId(**values["process"])}
    return RankRecord(**{**values, **fixed})
