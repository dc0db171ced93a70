"""What a job entry is told: one array task, as a small JSON text that is the same for all executors."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from campaign.paths import CampaignPaths
from campaign.spec import CampaignSpec
from campaign.worker.environment import read_environment
from slurm.parameters import signal_delay_s


@dataclass(frozen=True, slots=True)
class ArrayJob:
    """One array task of a round; `cuda_visible_devices` is what the submitting process saw."""

    directory: str
    round: int
    array_task: int
    executor: str
    launcher: str
    n_ranks: int
    threads: int | None = None
    time_limit_s: float | None = None
    leave_before_s: float = 0.0
    cuda_visible_devices: str | None = None

    @property
    def paths(self) -> CampaignPaths:
        """Paths of the campaign."""
        return CampaignPaths(Path(self.directory))

    def to_json(self) -> str:
        """The job as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ArrayJob:
        """Inverse of `to_json`.

        >>> job = ArrayJob("/data/my campaign", 1, 0, "local", "none", n_ranks=2)
        >>> ArrayJob.from_json(job.to_json()) == job
        True
        """
        return cls(**json.loads(text))


def plan_array_job(paths: CampaignPaths, spec: CampaignSpec, round_: int, array_task: int) -> ArrayJob:
    """Return what the entry of an array task is told."""
    execution = spec.execution
    limits: dict[str, Any] = {}
    if execution.executor == "slurm":
        limits = {"time_limit_s": execution.slurm.time_min * 60.0, "leave_before_s": float(signal_delay_s(spec))}
    return ArrayJob(
        directory=str(paths.root),
        round=round_,
        array_task=array_task,
        executor=execution.executor,
        launcher=execution.slurm.launcher if execution.executor == "slurm" else execution.launcher,
        n_ranks=execution.ranks_per_task,
        threads=execution.threads_per_rank,
        cuda_visible_devices=read_environment().cuda_visible_devices,
        **limits,
    )
