"""The arrow that keeps what is good of a damaged campaign: `campaign repair`.

Every file is read. Of a damaged shard or store the rows whose every field is whole go into a new one; the damaged one is moved to
`damaged/`, and never changed or removed. What has no outcome then, `campaign resume` computes. `inputs.zarr` cannot be computed; it is
read anew from the files that the spec names, and taken if that gives what is left of it, bit by bit. Records of jobs are for people and
for going on; a damaged one is moved away.

Each step leaves a campaign that is at least as good as before, so a repair may be killed and called again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from campaign.consolidate import run_consolidate
from campaign.errors import CampaignError, StoreError
from campaign.fields import FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS, TRAJECTORY_FIELDS, Field, Level
from campaign.files import write_json
from campaign.ingest import write_inputs
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths
from campaign.progress import is_at_work
from campaign.repair_records import damaged_records, readable_rank_records
from campaign.spec import CampaignSpec, read_frozen_spec
from campaign.store.aside import Aside, finish_earlier
from campaign.store.durable import exclusive_lock
from campaign.store.reader import StoreReader
from campaign.store.salvage import Salvage, assess, write_salvaged

_FEW: Final = 5
_RUNNING: Final = "Wait for it, or `campaign cancel`; then repair."

OnLook = Callable[[str, int, int], None]
"""Called with what is looked at, how many such were, and how many there are."""


@dataclass(frozen=True, slots=True)
class RepairStep:
    """One thing that was damaged: its path below the campaign directory, what was seen, and what is done about it.

    `n_kept` and `n_lost` count rows; `lost_ids` are the systems of those lost, as far as they are known.
    """

    path: str
    seen: tuple[str, ...]
    does: str
    n_kept: int = 0
    n_lost: int = 0
    lost_ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        more = f" (and {len(self.seen) - _FEW} more)" if len(self.seen) > _FEW else ""
        return f"{self.path}: {'; '.join(self.seen[:_FEW])}{more}. {self.does}"


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found and did, or in a dry run would do.

    `to_compute` are the inputs without an outcome that is whole: those that `campaign resume` computes. `unsolved` says what only a person
    can bring back; `ok` is that there is no such thing.
    """

    ok: bool
    dry_run: bool
    n_inputs: int
    n_looked_at: int
    steps: tuple[RepairStep, ...]
    unsolved: tuple[str, ...]
    to_compute: tuple[int, ...]
    consolidated: bool

    def to_json(self) -> dict[str, Any]:
        """What `campaign repair --json` prints."""
        return asdict(self)


def run_repair(paths: CampaignPaths, dry_run: bool = False, on_look: OnLook | None = None) -> RepairReport:
    """Keep what is good of a campaign that does not run, and say what is not; a sound campaign stays as it is.

    With `dry_run` nothing below the campaign directory is changed.

    Raises:
        StoreError: the campaign runs, or is being consolidated or repaired, or a store of it was made by a newer release.
        SpecError: `campaign.toml` cannot be read; without it nothing can be said of the rest.
        FileWriteError: something cannot be moved or written. Calling it again goes on.
    """
    with exclusive_lock(paths.store_lock) as is_ours:
        if not is_ours:
            raise StoreError(f"{paths.store} is being consolidated or repaired by another process. {_RUNNING}")
        _refuse_running(paths)
        spec = read_frozen_spec(paths)
        if not dry_run:
            finish_earlier(paths.root, paths.damaged)
        repair = _Repair(paths, spec, dry_run, on_look)
        repair.run()
    if repair.wants_consolidation and not dry_run and not repair.unsolved:
        try:
            run_consolidate(paths)
        except CampaignError as error:
            repair.unsolved.append(str(error))
    return RepairReport(
        not repair.unsolved,
        dry_run,
        repair.n_inputs,
        repair.n_looked_at,
        tuple(repair.steps),
        tuple(repair.unsolved),
        tuple(np.flatnonzero(~repair.done).tolist()),
        repair.wants_consolidation and not repair.unsolved,
    )


def _refuse_running(paths: CampaignPaths) -> None:
    for record in readable_rank_records(paths):
        if is_at_work(paths, record):
            raise StoreError(
                f"{paths.root} runs: rank {record.name.rank} of round {record.name.round} is at work as process {record.process.pid} on "
                f"{record.process.host}. {_RUNNING}"
            )


@dataclass
class _Repair:
    """One repair at work: looks at everything in turn, and does at once, unless it is dry, what it has found to do."""

    paths: CampaignPaths
    spec: CampaignSpec
    dry_run: bool
    on_look: OnLook | None
    steps: list[RepairStep] = field(default_factory=list)
    unsolved: list[str] = field(default_factory=list)
    n_inputs: int = 0
    n_looked_at: int = 0
    done: Bool[ndarray, " N"] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    wants_consolidation: bool = False

    def run(self) -> None:
        """Repair records, inputs, shards and stores, in this order: each needs those before it."""
        self._aside = Aside(self.paths.root, self.paths.damaged)
        self._repair_records()
        inputs = self._repair_inputs()
        if inputs is None:
            return
        self.n_inputs, self._sizes, self._inputs = inputs.n_systems, inputs.n_atoms(), inputs
        self.done = inputs.read_system("outcome")[:, 0] == Outcome.INVALID
        names = self.paths.shard_names()
        for at, name in enumerate(names):
            self._look("shards", at, len(names))
            self._repair_rows(self.paths.shard(name), RESULT_FIELDS)
            if self.paths.trajectory_shard(name).is_dir():
                self._repair_rows(self.paths.trajectory_shard(name), TRAJECTORY_FIELDS)
        self._look("store", 0, 1)
        self._repair_store()
        self._repair_trajectory(can_be_made=any(self.paths.trajectory_shard(name).is_dir() for name in names))
        lacks_store = not self.paths.store.is_dir() or any(step.path == self.paths.store.name for step in self.steps)
        lacks_frames = any(step.path == self.paths.trajectory.name for step in self.steps)
        self.wants_consolidation = bool(self.done.all()) and (lacks_store or lacks_frames) and bool(self.steps)

    # Rows: shards, trajectories, the store

    def _repair_rows(self, folder: Path, fields: Sequence[Field]) -> None:
        """Replace a damaged shard by one of its whole rows; rows of results count as done."""
        salvage = assess(folder, fields, self._sizes)
        self.n_looked_at += 1
        good, faults = self._believable(salvage)
        counts = fields is RESULT_FIELDS
        if not faults:
            if counts:
                self.done[salvage.system_ids] = True
            return
        if salvage.attributes is None:
            # Without them nobody knows which model computed its rows.
            salvage_attributes = self._attributes_of(folder.name)
            if salvage_attributes is None and counts:
                good[:] = False
                faults = (*faults, "what computed it is not known")
        else:
            salvage_attributes = salvage.attributes
        rows = np.flatnonzero(good)
        if counts:
            self.done[salvage.system_ids[rows]] = True
        lost = salvage.n_systems - len(rows)
        what = "rows" if counts else "frames"
        does = f"{len(rows)} of {salvage.n_systems} {what} are whole and kept, {lost} are lost."
        self._replace(folder, salvage, rows, fields, salvage_attributes or {}, faults, does)

    def _repair_store(self) -> None:
        """Of a damaged store keep the rows that no shard has; all others it gets from them anew."""
        store = self.paths.store
        if not store.is_dir():
            return
        salvage = assess(store, STORE_FIELDS, self._sizes)
        self.n_looked_at += 1
        good, faults = self._believable(salvage)
        inside = (salvage.system_ids >= 0) & (salvage.system_ids < self.n_inputs)
        if not faults:
            self.done[salvage.system_ids] = True
            return
        needed = good & inside
        needed[inside] &= ~self.done[salvage.system_ids[inside]]
        if salvage.attributes is None and needed.any():
            needed[:] = False
            faults = (*faults, "which model computed it is not known")
        rows = np.flatnonzero(needed)
        self.done[salvage.system_ids[rows]] = True
        does = "It is made anew from the shards."
        if len(rows):
            does = f"{len(rows)} whole rows that no shard has are kept; the others are made anew from the shards."
        self._replace(store, salvage, rows, STORE_FIELDS, salvage.attributes or {}, faults, does, only_lost=True)

    def _repair_trajectory(self, can_be_made: bool) -> None:
        folder = self.paths.trajectory
        if not folder.is_dir():
            return
        salvage = assess(folder, TRAJECTORY_FIELDS, self._sizes)
        self.n_looked_at += 1
        good, faults = self._believable(salvage)
        if not faults:
            return
        rows = np.zeros(0, dtype=np.int64) if can_be_made else np.flatnonzero(good)
        does = "It is made anew from the trajectory shards."
        if not can_be_made:
            does = f"{len(rows)} of {salvage.n_systems} frames are whole and kept; the others are nowhere else."
        self._replace(folder, salvage, rows, TRAJECTORY_FIELDS, salvage.attributes or {}, faults, does, only_lost=can_be_made)

    def _replace(
        self,
        live: Path,
        salvage: Salvage,
        rows: Int64[ndarray, " M"],
        fields: Sequence[Field],
        attributes: dict[str, Any],
        faults: tuple[str, ...],
        does: str,
        only_lost: bool = False,
    ) -> None:
        kept = np.zeros(salvage.n_systems, dtype=bool)
        kept[rows] = True
        ids = salvage.system_ids[~kept]
        lost = np.unique(ids[(ids >= 0) & (ids < self.n_inputs)])
        if only_lost:
            lost = lost[~self.done[lost]]
        n_lost = len(lost) if only_lost else int(np.count_nonzero(~kept))
        self._step(live, faults, does, len(rows), n_lost, tuple(lost.tolist()))
        if self.dry_run:
            return
        if len(rows):
            note = {"repaired": {"from": str(self._aside.place(live).relative_to(self.paths.root)), "n_lost": n_lost}}
            write_salvaged(salvage, rows, self._aside.staging(live), fields, {**attributes, **note})
            self._aside.replace(live)
        else:
            self._aside.take_out(live)

    def _believable(self, salvage: Salvage) -> tuple[Bool[ndarray, " N"], tuple[str, ...]]:
        """Rows that are whole and of an input: known id, its number of atoms, its elements; and all faults."""
        good = salvage.intact.copy()
        ids = salvage.system_ids
        known = (ids >= 0) & (ids < self.n_inputs)
        good &= known
        rows = np.flatnonzero(good)
        good[rows] = salvage.n_atoms(rows) == self._sizes[ids[rows]]
        numbers = FIELDS["atomic_numbers"]
        for block in salvage.blocks(np.flatnonzero(good)):
            ours, theirs = salvage.read(numbers, block), self._inputs.read_atoms("atomic_numbers", ids[block])[1]
            owner = np.repeat(block, salvage.n_atoms(block))
            good[owner[ours != theirs]] = False
        n_foreign = int(np.count_nonzero(salvage.intact & ~good))
        faults = salvage.faults
        if n_foreign:
            faults = (*faults, f"{n_foreign} rows are not of an input of this campaign")
        return good, faults

    def _attributes_of(self, shard: str) -> dict[str, Any] | None:
        """What the published store says of the provenance of a shard."""
        try:
            provenance = StoreReader.open(self.paths.store).attributes["provenance"]
            own = {**provenance["shared"], **provenance["shards"][shard]}
        except (CampaignError, KeyError, TypeError):
            return None
        own.pop("n_systems", None)
        return own

    # Inputs

    def _repair_inputs(self) -> StoreReader | None:
        """Return the inputs, sound or made anew; None if only a person can bring them back."""
        live = self.paths.inputs
        self._look("inputs", 0, 1)
        if not live.exists() and not self.paths.shard_names():
            self.unsolved.append(f"{live} is not there, and no shard is. `campaign resume` ingests and begins anew.")
            return None
        salvage = assess(live, INPUT_FIELDS) if live.is_dir() else None
        self.n_looked_at += 1
        if salvage is not None and not salvage.faults:
            return StoreReader.open(live)
        faults = ("it is missing",) if salvage is None else salvage.faults
        advice = "Restore it from a copy, or the files that the spec names as they were, and repair again. Nothing else was looked at."
        if self.dry_run:
            self._step(live, faults, "It is read anew from the files that the spec names, and taken if that gives what is left of it.")
            self.unsolved.append("What else is damaged is not known before inputs.zarr is whole.")
            return None
        staged = self._aside.staging(live)
        try:
            write_inputs(self.spec, staged)
        except CampaignError as error:
            self.unsolved.append(f"{live} is damaged: {'; '.join(faults[:_FEW])}. Its sources cannot be read anew: {error} {advice}")
            return None
        made = StoreReader.open(staged)
        differs = self._differs(made, salvage)
        if differs:
            shutil.rmtree(staged)
            seen = f"The files that the spec names give other inputs than before: {differs}."
            self.unsolved.append(f"{live} is damaged: {'; '.join(faults[:_FEW])}. {seen} {advice}")
            return None
        self._step(live, faults, "It was read anew from the files that the spec names, which gave all that is left of it.", made.n_systems)
        self._aside.replace(live)
        return StoreReader.open(live)

    def _differs(self, made: StoreReader, salvage: Salvage | None) -> str:
        """Say in what inputs made anew differ from each chunk that is left of the old ones, and from the results; "" if in nothing."""
        if salvage is not None and salvage.n_systems:
            if salvage.n_systems != made.n_systems:
                return f"{made.n_systems} structures where there were {salvage.n_systems}"
            for known in salvage.fields:
                n_rows = made.n_systems if known.level is Level.SYSTEM else int(made.atoms_ptr[-1])
                for first, rows in salvage.whole(known, n_rows):
                    if not _equal(rows, made.read_block(known.path, first, first + len(rows))):
                        return f"another {known.name}"
        sizes = made.n_atoms()
        for name in self.paths.shard_names():
            shard = assess(self.paths.shard(name), RESULT_FIELDS, sizes)
            rows = np.flatnonzero(shard.intact)
            ids = shard.system_ids[rows]
            if np.any((ids < 0) | (ids >= made.n_systems)) or np.any(shard.n_atoms(rows) != sizes[ids]):
                return f"structures that are not those of {name}"
            for block in shard.blocks(rows):
                theirs = made.read_atoms("atomic_numbers", shard.system_ids[block])[1]
                if not np.array_equal(shard.read(FIELDS["atomic_numbers"], block), theirs):
                    return f"other elements than {name} has"
        return ""

    def _repair_records(self) -> None:
        for found in damaged_records(self.paths):
            self._step(found.file, (found.seen,), found.does)
            if self.dry_run:
                continue
            if found.replacement is None:
                self._aside.take_out(found.file)
            else:
                write_json(self._aside.staging(found.file), found.replacement)
                self._aside.replace(found.file)

    def _step(self, live: Path, seen: tuple[str, ...], does: str, n_kept: int = 0, n_lost: int = 0, lost_ids: tuple[int, ...] = ()) -> None:
        self.steps.append(RepairStep(str(live.relative_to(self.paths.root)), seen, does, n_kept, n_lost, lost_ids))

    def _look(self, what: str, n_done: int, n_total: int) -> None:
        if self.on_look is not None:
            self.on_look(what, n_done, n_total)


def _equal(first: ndarray[Any, Any], second: ndarray[Any, Any]) -> bool:
    return bool(np.array_equal(first, second, equal_nan=first.dtype.kind == "f" and second.dtype.kind == "f"))
