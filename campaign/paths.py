"""Where everything in a campaign directory lies. No other module spells a path below it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from campaign.errors import CampaignNotFoundError

DIRECTORY_MODE: Final = 0o700
"""Campaign directories belong to their user alone."""

_SHARD: Final = re.compile(r"(\d{4})-(\d{5})-(\d{5})-(\d{3})\.zarr")


@dataclass(frozen=True, slots=True, order=True)
class ShardName:
    """Name of a per-rank shard: round, array task, rank and attempt, in that order of precedence."""

    round: int
    array_task: int
    rank: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.round:04d}-{self.array_task:05d}-{self.rank:05d}-{self.attempt:03d}.zarr"

    @classmethod
    def parse(cls, name: str) -> ShardName | None:
        """Return the parts of a folder name, or None if it is no shard's.

        >>> ShardName.parse("0001-00000-00003-000.zarr").rank
        3
        """
        match = _SHARD.fullmatch(name)
        return cls(*(int(part) for part in match.groups())) if match else None


@dataclass(frozen=True, slots=True)
class CampaignPaths:
    """The files of one campaign directory, `root`."""

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> CampaignPaths:
        """Return the paths of an existing campaign.

        Raises:
            CampaignNotFoundError: `root` holds no campaign.toml.
        """
        paths = cls(Path(root).absolute())
        if not paths.spec.is_file():
            raise CampaignNotFoundError(
                f"{paths.root} is no campaign directory: it has no {paths.spec.name}. Give the directory that `campaign run` printed."
            )
        return paths

    @property
    def spec(self) -> Path:
        """The frozen spec."""
        return self.root / "campaign.toml"

    @property
    def inputs(self) -> Path:
        """All inputs, rejects included."""
        return self.root / "inputs.zarr"

    @property
    def plans(self) -> Path:
        """Folder of the plan files, one a round."""
        return self.root / "plans"

    def plan(self, round_: int) -> Path:
        """Plan of a round, counted from 1."""
        return self.plans / f"{round_:04d}.json"

    @property
    def jobs(self) -> Path:
        """What submitit writes: scripts, logs."""
        return self.root / "jobs"

    def round_jobs(self, round_: int) -> Path:
        """submitit's folder of one round."""
        return self.jobs / f"{round_:04d}"

    def submission(self, round_: int) -> Path:
        """Record of what was submitted for a round."""
        return self.round_jobs(round_) / "submission.json"

    def claims(self, round_: int, array_task: int, attempt: int) -> Path:
        """Folder of the claim files of one attempt of one array task."""
        return self.round_jobs(round_) / "claims" / f"{array_task:05d}-{attempt:03d}"

    def rank_record(self, name: ShardName) -> Path:
        """What a rank says about its run: times, steps, hardware."""
        return self.rank_records(name.round) / f"{Path(str(name)).stem}.json"

    def rank_records(self, round_: int) -> Path:
        """Folder of all rank records of a round."""
        return self.round_jobs(round_) / "ranks"

    def in_flight(self, name: ShardName) -> Path:
        """What a rank is working on; there only while it runs, and after it died."""
        return self.in_flight_folder(name.round) / f"{Path(str(name)).stem}.json"

    def fault(self, name: ShardName) -> Path:
        """What a rank's process wrote when it died of its own doing."""
        return self.in_flight(name).with_suffix(".fault")

    def in_flight_folder(self, round_: int) -> Path:
        """Folder of what the ranks of a round are working on."""
        return self.round_jobs(round_) / "in_flight"

    def job_record(self, round_: int, array_task: int, attempt: int) -> Path:
        """What the job entry of one attempt of an array task says about itself."""
        return self.job_records(round_) / f"{array_task:05d}-{attempt:03d}.json"

    def job_records(self, round_: int) -> Path:
        """Folder of all job records of a round."""
        return self.round_jobs(round_) / "array_tasks"

    def stop_request(self, round_: int, array_task: int, attempt: int) -> Path:
        """Present while the ranks of one attempt of an array task are asked to leave."""
        return self.claims(round_, array_task, attempt) / "stop"

    @property
    def shards(self) -> Path:
        """Folder of the per-rank shards."""
        return self.root / "shards"

    def shard(self, name: ShardName) -> Path:
        """One per-rank shard."""
        return self.shards / str(name)

    @property
    def trajectory_shards(self) -> Path:
        """Folder of the per-rank trajectories."""
        return self.root / "trajectory_shards"

    def trajectory_shard(self, name: ShardName) -> Path:
        """Trajectory frames of one rank."""
        return self.trajectory_shards / str(name)

    def shard_names(self) -> list[ShardName]:
        """All per-rank shards there are, sorted."""
        if not self.shards.is_dir():
            return []
        return sorted(name for entry in self.shards.iterdir() if (name := ShardName.parse(entry.name)))

    def rounds(self) -> list[int]:
        """Rounds that have a plan, sorted."""
        if not self.plans.is_dir():
            return []
        return sorted(int(entry.stem) for entry in self.plans.glob("[0-9][0-9][0-9][0-9].json"))

    @property
    def store(self) -> Path:
        """The published store."""
        return self.root / "store.zarr"

    @property
    def store_staging(self) -> Path:
        """The store while consolidation writes it; renamed to `store` when whole."""
        return self.root / "store.zarr.partial"

    @property
    def store_lock(self) -> Path:
        """Locked by the one process that consolidates; it stays, since whoever removed it could let two in."""
        return self.root / ".store.zarr.lock"

    @property
    def trajectory(self) -> Path:
        """The published trajectories."""
        return self.root / "trajectory.zarr"

    @property
    def trajectory_staging(self) -> Path:
        """The trajectories while consolidation writes them."""
        return self.root / "trajectory.zarr.partial"

    @property
    def damaged(self) -> Path:
        """What `campaign repair` took out of use, a numbered folder a repair; nothing in it is ever changed or removed."""
        return self.root / "damaged"

    @property
    def timings(self) -> Path:
        """Seconds that each arrow took, appended by whoever drives the campaign."""
        return self.root / "timings.json"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.html"

    @property
    def cancel(self) -> Path:
        """Present while someone wants the campaign to stop."""
        return self.root / "cancel"
