"""What the ranks of a campaign say about their runs: when they worked, what they finished, where the time went.

Each rank leaves a small JSON record (`campaign.worker.records` writes it). It is read here key by key, since a record may lack anything:
the rank was killed before it wrote its end, or another release wrote it. What is not there counts as nothing, and a record without times
is left out of what needs times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from campaign.paths import CampaignPaths, ShardName

PARTS: Final = ("startup", "steps", "model", "neighbours", "optimizer", "sink", "waiting for disk", "other")
"""What a rank's time is spent on, in the order in which figures show it; records may have further ones."""


@dataclass(frozen=True, slots=True)
class RankRun:
    """One rank's run: of one round, array task and attempt."""

    name: ShardName
    state: str = ""
    host: str = ""
    device: str = ""
    threads: int = 1
    started_at: datetime | None = None
    ended_at: datetime | None = None
    seconds: tuple[tuple[str, float], ...] = ()
    n_finished: int = 0
    n_steps: int = 0
    atom_steps: int = 0
    peak_memory_bytes: int = 0

    @property
    def label(self) -> str:
        """Round, array task, rank and, from the second on, attempt: `1/0/3`, `1/0/3 #1`."""
        parts = f"{self.name.round}/{self.name.array_task}/{self.name.rank}"
        return f"{parts} #{self.name.attempt}" if self.name.attempt else parts

    @property
    def wall_s(self) -> float:
        """Seconds between start and end, or the sum of the parts where these are not known."""
        if self.started_at and self.ended_at:
            return max((self.ended_at - self.started_at).total_seconds(), 0.0)
        return sum(value for _, value in self.seconds)

    @property
    def structures_per_s(self) -> float:
        """Structures finished per second of its run; 0 where that is not known."""
        return self.n_finished / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(frozen=True)
class RankRuns:
    """All records of a campaign, by name, and how many files were no records."""

    runs: tuple[RankRun, ...] = ()
    n_unreadable: int = 0

    @property
    def timed(self) -> tuple[RankRun, ...]:
        """Those that know when they ran."""
        return tuple(run for run in self.runs if run.started_at and run.ended_at and run.wall_s > 0)

    @property
    def core_s(self) -> float:
        """Seconds of all ranks, each times its threads."""
        return sum(run.wall_s * run.threads for run in self.runs)

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one rank worked: the span without the gaps between rounds."""
        total, until = 0.0, float("-inf")
        for start, end in sorted((r.started_at.timestamp(), r.ended_at.timestamp()) for r in self.timed if r.started_at and r.ended_at):
            total += max(end - max(start, until), 0.0)
            until = max(until, end)
        return total

    def seconds_by_part(self) -> dict[str, float]:
        """Seconds of all ranks by part, in the order of `PARTS`, further ones after them."""
        found = dict.fromkeys(PARTS, 0.0)
        for run in self.runs:
            for name, value in run.seconds:
                found[name] = found.get(name, 0.0) + value
        return {name: value for name, value in found.items() if value > 0}


def read_rank_runs(paths: CampaignPaths, threads: int = 1) -> RankRuns:
    """Return what all ranks of all rounds left; a file that cannot be read is counted, not raised.

    `threads` is how many a rank had where its record does not say.
    """
    runs: dict[ShardName, RankRun] = {}
    n_unreadable = 0
    for round_ in sorted({*paths.rounds(), *(name.round for name in paths.shard_names())}):
        folder = paths.rank_records(round_)
        for path in sorted(folder.glob("[0-9]*.json")) if folder.is_dir() else ():
            name = ShardName.parse(f"{path.stem}.zarr")
            try:
                value = json.loads(path.read_bytes())
            except (OSError, ValueError):
                value = None
            if name is None or not isinstance(value, dict):
                n_unreadable += 1
            else:
                runs[name] = parse_run(name, value, threads)
    return RankRuns(tuple(runs[name] for name in sorted(runs)), n_unreadable)


def parse_run(name: ShardName, value: Mapping[str, Any], threads: int = 1) -> RankRun:
    """Return a rank's run from the JSON object it left, whatever that lacks.

    >>> parse_run(ShardName(1, 0, 3, 0), {"outcomes": {"converged": 12}}).n_finished
    12
    """
    parts, outcomes = _numbers(value.get("seconds")), _numbers(value.get("outcomes"))
    process = value.get("process")
    known = [part for part in PARTS if part in parts]
    return RankRun(
        name=name,
        state=str(value.get("state") or ""),
        host=str((process.get("host") if isinstance(process, dict) else value.get("host")) or ""),
        device=str(value.get("device") or ""),
        threads=int(_number(value.get("threads"))) or threads,
        started_at=_moment(value.get("started_unix_s", value.get("started_at"))),
        ended_at=_moment(value.get("ended_unix_s", value.get("ended_at"))),
        seconds=tuple((part, parts[part]) for part in [*known, *sorted(set(parts) - set(known))]),
        n_finished=int(_number(value.get("n_finished")) or sum(outcomes.values())),
        n_steps=int(_number(value.get("n_steps"))),
        atom_steps=int(_number(value.get("atom_steps"))),
        peak_memory_bytes=int(_number(value.get("peak_memory_bytes"))),
    )


def throughput(runs: Sequence[RankRun]) -> tuple[Float[ndarray, " T"], Float[ndarray, "R T"]]:
    """Return times in seconds since the first start, and each rank's structures/s at them, for lines that are drawn straight.

    A rank says what it finished and when it ran, so its rate is its mean; it jumps at its start and end, where a time stands twice.
    """
    spans = np.array([[r.started_at.timestamp(), r.ended_at.timestamp()] for r in runs if r.started_at and r.ended_at]).reshape(-1, 2)
    if not len(spans):
        return np.zeros(0), np.zeros((0, 0))
    spans -= spans.min()
    edges = np.unique(spans)
    rates = np.array([run.structures_per_s for run in runs if run.started_at and run.ended_at])
    times = np.repeat(edges, 2)
    middles = (edges[:-1] + edges[1:]) / 2
    active = (spans[:, :1] < middles) & (middles < spans[:, 1:])
    values = np.zeros((len(spans), len(times)))
    values[:, 1:-1] = np.repeat(active * rates[:, None], 2, axis=1)
    return times, values


def _number(value: Any) -> float:
    """A finite number of 0 or more, or 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    return 0.0


def _numbers(value: Any) -> dict[str, float]:
    return {str(key): _number(item) for key, item in value.items()} if isinstance(value, dict) else {}


def _moment(value: Any) -> datetime | None:
    """A time from seconds since 1970 or ISO 8601, UTC where it does not say."""
    try:
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
