"""How far a campaign is, from its files alone: ids and outcomes of `inputs.zarr` and of every per-rank shard, and nothing else of them.

Each input counts once, whatever the number of shards that hold it; as in consolidation the reject, else the first shard by name, is
the one that counts. Shards may be written meanwhile: a store has what its root document says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from campaign.errors import StoreDamagedError, StoreNotFoundError
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.worker.processes import Life
from campaign.worker.records import RankRecord, RunState, read_rank_records

STALE_S: Final = 300.0
"""A rank on another host that has neither started nor committed anything for so long is taken to be gone."""


class CampaignState(StrEnum):
    """Where a campaign is, as far as its files say."""

    NEW = "new"
    """Nothing was submitted yet."""
    WAITING = "waiting"
    """A round was submitted and no rank has started."""
    RUNNING = "running"
    """Ranks are at work."""
    STOPPED = "stopped"
    """Nothing runs and inputs are left: `campaign resume`."""
    CANCELLED = "cancelled"
    """Someone asked it to stop, and inputs are left."""
    COMPLETE = "complete"
    """Every input has an outcome."""


@dataclass(frozen=True, slots=True, eq=False)
class InputOutcomes:
    """What every input has: its outcome or −1, its number of atoms, and the round that its outcome comes from, 0 for ingest."""

    outcome: Int64[ndarray, " N"]
    n_atoms: Int64[ndarray, " N"]
    round: Int64[ndarray, " N"]

    @property
    def done_mask(self) -> Bool[ndarray, " N"]:
        """Which inputs have an outcome."""
        return np.asarray(self.outcome >= 0)

    def counts(self) -> dict[str, int]:
        """Inputs by outcome, every label present."""
        return {outcome.label: int(np.count_nonzero(self.outcome == outcome)) for outcome in Outcome}


@dataclass(frozen=True, slots=True)
class RoundProgress:
    """One round: how many inputs got their outcome in it, and from when to when it worked (seconds since 1970; 0 if it has not begun)."""

    round: int
    n_done: int
    n_shards: int
    began_unix_s: float
    ended_unix_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is. `structures_per_s` is 0 until something is relaxed; `eta_s` is None unless it runs."""

    n_inputs: int
    outcomes: Mapping[str, int]
    structures_per_s: float
    eta_s: float | None
    state: CampaignState
    rounds: tuple[RoundProgress, ...] = ()

    @property
    def n_done(self) -> int:
        """Inputs that have an outcome."""
        return sum(self.outcomes.values())

    @property
    def n_left(self) -> int:
        """Inputs without an outcome."""
        return self.n_inputs - self.n_done

    def to_json(self) -> dict[str, Any]:
        """What `campaign status --json` prints; the keys n_inputs, outcomes, structures_per_s and state are a promise."""
        return {
            "n_inputs": self.n_inputs,
            "outcomes": dict(self.outcomes),
            "structures_per_s": self.structures_per_s,
            "state": str(self.state),
            "n_done": self.n_done,
            "n_left": self.n_left,
            "eta_s": self.eta_s,
            "rounds": [asdict(part) for part in self.rounds],
        }


def read_progress(paths: CampaignPaths) -> Progress:
    """Return how far a campaign is; a campaign without inputs has 0 of 0.

    Raises:
        StoreDamagedError: a shard does not add up; the text names it.

    >>> read_progress(CampaignPaths.open("runs/cu-au")).to_json()["state"]  # doctest: +SKIP
    'complete'
    """
    try:
        found = read_outcomes(paths)
    except StoreNotFoundError:
        return Progress(0, dict.fromkeys((outcome.label for outcome in Outcome), 0), 0.0, None, CampaignState.NEW)
    names = paths.shard_names()
    records = {round_: _records(paths, round_) for round_ in sorted({*paths.rounds(), *(name.round for name in names)})}
    rounds = tuple(_round(paths, round_, names, of_round, found) for round_, of_round in records.items())
    n_relaxed = sum(part.n_done for part in rounds)
    worked_s = sum(part.ended_unix_s - part.began_unix_s for part in rounds)
    per_s = n_relaxed / worked_s if n_relaxed and worked_s > 0 else 0.0
    counts = found.counts()
    n_left = len(found.outcome) - sum(counts.values())
    state = _state(paths, n_left, records)
    eta_s = n_left / per_s if per_s and state is CampaignState.RUNNING else None
    return Progress(len(found.outcome), counts, per_s, eta_s, state, rounds)


def read_outcomes(paths: CampaignPaths) -> InputOutcomes:
    """Return what is committed for every input.

    Shards may have been removed after consolidation; the published store then says what they said.

    Raises:
        StoreNotFoundError: there is no `inputs.zarr`.
        StoreDamagedError: a shard has a system that is no input.
    """
    from campaign.store import StoreReader  # brings zarr, which the vocabulary above and the command line's help do without

    inputs = StoreReader.open(paths.inputs)
    outcome = inputs.read_system("outcome").reshape(-1).astype(np.int64)
    round_of = np.zeros(len(outcome), dtype=np.int64)

    def take(reader: StoreReader, place: str, round_: int) -> None:
        ids = reader.read_system("system_id").reshape(-1)
        values = reader.read_system("outcome").reshape(-1)
        outside = np.flatnonzero((ids < 0) | (ids >= len(outcome)))
        if len(outside):
            raise StoreDamagedError(
                f"{place} row {outside[0]} has system_id {ids[outside[0]]}, but there are {len(outcome)} inputs. "
                "It is damaged or belongs to another campaign: remove it, then `campaign resume`."
            )
        first_ids, first_rows = np.unique(ids, return_index=True)
        new = outcome[first_ids] < 0
        outcome[first_ids[new]] = values[first_rows[new]]
        round_of[first_ids[new]] = round_

    for name in paths.shard_names():
        try:
            reader = StoreReader.open(paths.shard(name))
        except StoreNotFoundError:
            # Removed between listing and opening.
            continue
        take(reader, str(paths.shard(name)), name.round)
    if (outcome < 0).any() and paths.store.is_dir():
        take(StoreReader.open(paths.store), str(paths.store), 0)
    return InputOutcomes(outcome, inputs.n_atoms(), round_of)


def _records(paths: CampaignPaths, round_: int) -> list[RankRecord]:
    try:
        return read_rank_records(paths, round_)
    except (OSError, ValueError, KeyError, TypeError):
        # Records are for people; the shards alone say what is done.
        return []


def _round(paths: CampaignPaths, round_: int, names: list[ShardName], records: list[RankRecord], found: InputOutcomes) -> RoundProgress:
    own = [name for name in names if name.round == round_]
    begins = [record.started_unix_s for record in records] or [_changed_unix_s(paths.plan(round_))]
    ends = [record.ended_unix_s or 0.0 for record in records] + [_changed_unix_s(paths.shard(name) / "zarr.json") for name in own]
    began = min(begins) if own or records else 0.0
    ended = max(began, *ends) if ends else began
    return RoundProgress(round_, int(np.count_nonzero(found.round == round_)), len(own), began, ended)


def _changed_unix_s(file: Any) -> float:
    try:
        return float(file.stat().st_mtime)
    except OSError:
        return 0.0


def _state(paths: CampaignPaths, n_left: int, records: Mapping[int, list[RankRecord]]) -> CampaignState:
    if n_left == 0:
        return CampaignState.COMPLETE
    if any(is_at_work(paths, record) for of_round in records.values() for record in of_round):
        return CampaignState.RUNNING
    if paths.cancel.exists():
        return CampaignState.CANCELLED
    if not records:
        return CampaignState.NEW
    last = max(records)
    if not records[last] and _is_pending(paths, last):
        return CampaignState.WAITING
    return CampaignState.STOPPED if any(paths.submission(round_).exists() or records[round_] for round_ in records) else CampaignState.NEW


def _is_pending(paths: CampaignPaths, round_: int) -> bool:
    """Whether a round was submitted and its end was not seen. The record is written by whoever submits; only its state is looked at."""
    try:
        return bool(json.loads(paths.submission(round_).read_bytes()).get("state") != "ended")
    except (OSError, ValueError, AttributeError):
        return False


def is_at_work(paths: CampaignPaths, record: RankRecord) -> bool:
    """Say whether a rank works, as far as its process, or on another host its files, tell."""
    if record.state is not RunState.RUNNING:
        return False
    life = record.process.life()
    if life is not Life.ELSEWHERE:
        return life is Life.ALIVE
    last = max(record.started_unix_s, _changed_unix_s(paths.shard(record.name) / "zarr.json"))
    return time.time() - last < STALE_S
