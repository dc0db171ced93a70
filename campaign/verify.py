"""The arrow that trusts nothing: `campaign verify` decodes every chunk, counts every input and recomputes a sample with ASE.

It collects findings instead of stopping at the first; an empty list means that the store is what a campaign promises: each input once, each
outcome with its reason, each converged structure below its thresholds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from campaign.fields import INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS, TRAJECTORY_FIELDS, Field, decode_error
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.recompute import recompute_sample
from campaign.removal import removal_advice
from campaign.spec import CampaignSpec, read_frozen_spec
from campaign.store.audit import Finding, audit_store
from campaign.store.csr import split_by_budget
from campaign.store.reader import StoreReader

_BLOCK_BYTES: Final = 64 * 2**20
_FEW: Final = 5
_CONSOLIDATE: Final = "Run `campaign consolidate`."
_REPAIR: Final = "`campaign repair` keeps what is good of it, and says what is computed again."
_RESUME: Final = "Run `campaign resume`, then `campaign consolidate`."


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at, and everything that was not as it should be."""

    ok: bool
    n_systems: int
    n_bytes: int
    n_recomputed: int
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """What was looked at, in a few words."""
        recomputed = f", {self.n_recomputed} recomputed with ASE" if self.n_recomputed else ""
        return f"{self.n_systems} structures, each once; {self.n_bytes / 1e6:.1f} MB read back{recomputed}"

    def to_json(self) -> dict[str, Any]:
        """What `campaign verify --json` prints."""
        return asdict(self)


OnLook = Callable[[str, int, int], None]
"""Called with what is looked at, how much of it is done and how much there is."""


def run_verify(paths: CampaignPaths, recompute: int = 0, seed: int = 0, on_look: OnLook | None = None) -> VerifyReport:
    """Check `store.zarr` and what it was made from.

    So many converged systems as `recompute` says, chosen by `seed`, are recomputed with an independent ASE calculator.

    Raises:
        SpecError: the campaign's own spec cannot be read.
        MissingDependencyError: the model of the campaign is not installed and `recompute` asks for it.
    """
    spec = read_frozen_spec(paths)
    look = on_look or _say_nothing
    sources = [*_sources(paths), (paths.store, STORE_FIELDS, _REPAIR if paths.store.exists() else _CONSOLIDATE)]
    findings: list[Finding] = []
    n_bytes = 0
    for at, (folder, fields, advice) in enumerate(sources):
        is_store = folder == paths.store
        audit = audit_store(folder, fields, advice, partial(look, "store") if is_store else None)
        findings += audit.findings
        n_bytes += audit.n_bytes
        if not is_store:
            look("shards", at + 1, len(sources) - 1)
    if findings:
        # What is damaged cannot be counted; what follows would only repeat it.
        return VerifyReport(False, 0, n_bytes, 0, tuple(findings))
    inputs, store = StoreReader.open(paths.inputs), StoreReader.open(paths.store)
    findings += _count_inputs(paths, inputs, store)
    findings += _check_rows(paths, spec, inputs, store, partial(look, "rows"))
    n_recomputed = 0
    if recompute > 0 and not findings:
        n_recomputed, found = recompute_sample(store, spec, recompute, seed, partial(look, "recompute"))
        findings += found
    return VerifyReport(not findings, store.n_systems, n_bytes, n_recomputed, tuple(findings))


def _say_nothing(what: str, n_done: int, n_total: int) -> None:
    del what, n_done, n_total


def _sources(paths: CampaignPaths) -> Iterator[tuple[Path, tuple[Field, ...], str]]:
    """What the store was made from, and the trajectories: folder, fields, and what to do where it is damaged."""
    yield (
        paths.inputs,
        INPUT_FIELDS,
        "`campaign repair` reads it anew from its sources if these are as they were; else restore it from a copy.",
    )
    for name in paths.shard_names():
        yield paths.shard(name), RESULT_FIELDS, _REPAIR
        if paths.trajectory_shard(name).is_dir():
            yield paths.trajectory_shard(name), TRAJECTORY_FIELDS, _REPAIR
    if paths.trajectory.is_dir():
        yield paths.trajectory, TRAJECTORY_FIELDS, _REPAIR


def _count_inputs(paths: CampaignPaths, inputs: StoreReader, store: StoreReader) -> Iterator[Finding]:
    """Each input is once in the store, in the order of `system_id`."""
    own = inputs.read_system("system_id")[:, 0]
    if not np.array_equal(own, np.arange(len(own))):
        yield Finding("Inputs are not numbered by their rows.", str(paths.inputs / "custom/system_id"), "Restore it from a copy.")
    ids = store.read_system("system_id")[:, 0]
    where = str(paths.store / "custom/system_id")
    expected = np.arange(inputs.n_systems)
    if np.array_equal(ids, expected):
        return
    known, counts = np.unique(ids, return_counts=True)
    missing = np.setdiff1d(expected, known)
    for what, some, advice in (
        ("missing", missing, _RESUME),
        ("there more than once", known[counts > 1], _CONSOLIDATE),
        ("no input", np.setdiff1d(known, expected), _CONSOLIDATE),
    ):
        if len(some):
            yield Finding(f"{len(some)} of {len(expected)} inputs: {_few(some)} {'is' if len(some) == 1 else 'are'} {what}.", where, advice)
    if np.any(ids[1:] < ids[:-1]):
        yield Finding("Rows are not sorted by system_id.", where, _CONSOLIDATE)


def _check_rows(
    paths: CampaignPaths, spec: CampaignSpec, inputs: StoreReader, store: StoreReader, on_rows: Callable[[int, int], None]
) -> Iterator[Finding]:
    """Rules that every row keeps; each is named once, with how many rows break it and the first few of them."""
    broken: dict[tuple[str, str], list[int]] = {}
    bytes_per_atom = sum(np.dtype(field.dtype).itemsize * int(np.prod(field.trailing)) for field in STORE_FIELDS if field.level == "atom")
    for start, stop in split_by_budget(store.n_atoms() * bytes_per_atom + 1024, _BLOCK_BYTES):
        block = _Block(store, inputs, slice(start, stop))
        for column, rule, mask in block.broken_rules(spec):
            for system_id in block.ids[mask].tolist():
                broken.setdefault((column, rule), []).append(system_id)
        on_rows(stop, store.n_systems)
    shard_of = _shards_of(paths, {system_id for system_ids in broken.values() for system_id in system_ids})
    for (column, rule), system_ids in broken.items():
        text = f"{len(system_ids)} systems break the rule that {rule}: system_id {_few(system_ids)}."
        names = {shard_of[system_id] for system_id in system_ids if system_id in shard_of}
        advice = f"Look at them with `campaign show`. To relax them anew: {removal_advice(paths, names)}"
        yield Finding(text, str(paths.store / column), advice)


def _shards_of(paths: CampaignPaths, system_ids: Collection[int]) -> dict[int, ShardName]:
    """The shard that counts for each system, for those that are in one."""
    found: dict[int, ShardName] = {}
    for name in paths.shard_names() if system_ids else ():
        for system_id in StoreReader.open(paths.shard(name)).read_system("system_id")[:, 0].tolist():
            if system_id in system_ids:
                found.setdefault(system_id, name)
    return found


class _Block:
    """Some rows of the store beside their inputs, and the rules they keep."""

    def __init__(self, store: StoreReader, inputs: StoreReader, rows: slice) -> None:
        self.ids = store.read_system("system_id", rows)[:, 0]
        inside = (self.ids >= 0) & (self.ids < inputs.n_systems)
        self._inputs, self._rows, self._store = inputs, rows, store
        self._known = inside
        self._columns: dict[str, NDArray[Any]] = {}
        self.n_atoms = store.n_atoms(rows)

    def broken_rules(self, spec: CampaignSpec) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
        """Yield column, rule and the rows that break it."""
        outcome = self._scalar("outcome")
        converged = outcome == Outcome.CONVERGED
        relaxed = outcome != Outcome.INVALID
        yield "custom/outcome", "an outcome is one of the table", ~np.isin(outcome, [int(value) for value in Outcome])
        yield "custom/outcome", "a reject of ingest, and nothing else, is invalid", relaxed == self._is_reject()
        yield "custom/error", "what is not converged has a reason in words", ~converged & ~self._has_reason()
        yield "custom/n_steps", "steps lie between 0 and max_steps", self._outside_steps(spec.relax.max_steps)
        yield "meta/atoms_ptr", "a system has the atoms of its input", self._differs("atomic_numbers")
        yield "core/pbc", "periodicity is that of the input", self._differs("pbc")
        finite = np.isfinite(self._scalar("energy")) & self._all_finite("forces") & self._all_finite("positions") & self._all_finite("cell")
        yield "core/energy", "what is converged has finite numbers", converged & ~finite
        limit = spec.relax.fmax_ev_per_ang
        yield "custom/fmax", f"what is converged has fmax ≤ {limit} eV/Å", converged & ~(self._scalar("fmax") <= limit)
        # float32 models sum in another order than we do here.
        yield "core/forces", f"what is converged has forces ≤ {limit} eV/Å", converged & self._has_force_beyond(limit * (1 + 1e-5))
        if spec.relax.cell != "fixed":
            limit = spec.relax.smax_ev_per_ang3
            yield "custom/smax", f"what is converged has smax ≤ {limit} eV/Å³", converged & ~(self._scalar("smax") <= limit)

    def _scalar(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self._column(name)[:, 0]
        return values

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            self._columns[name] = self._store.read(self._rows, [name])[name]
        return self._columns[name]

    def _is_reject(self) -> NDArray[np.bool_]:
        rejected = np.zeros(len(self.ids), dtype=bool)
        rejected[self._known] = self._inputs.read_system("outcome", self.ids[self._known])[:, 0] == Outcome.INVALID
        return rejected

    def _has_reason(self) -> NDArray[np.bool_]:
        return np.array([bool(decode_error(row.tobytes()).strip()) for row in self._column("error")], dtype=bool)

    def _outside_steps(self, most: int) -> NDArray[np.bool_]:
        steps = self._scalar("n_steps")
        return np.asarray((steps < 0) | (steps > most))

    def _differs(self, name: str) -> NDArray[np.bool_]:
        """Rows whose `name` is not that of their input; for a field per atom, or which have another number of atoms."""
        differs = ~self._known
        at = np.flatnonzero(self._known)
        ours = self._column(name)
        theirs = self._inputs.read(self.ids[at], [name])[name]
        if name == "pbc":
            differs[at] = np.any(ours[at] != theirs, axis=1)
            return differs
        counts = self._inputs.n_atoms(self.ids[at])
        same_size = self.n_atoms[at] == counts
        differs[at] = ~same_size
        if same_size.all() and len(at) == len(self.ids):
            differs |= self._per_system(ours != theirs)
        return differs

    def _all_finite(self, name: str) -> NDArray[np.bool_]:
        finite = np.isfinite(self._column(name)).reshape(len(self._column(name)), -1).all(axis=1)
        return finite if name == "cell" else ~self._per_system(~finite)

    def _has_force_beyond(self, limit: float) -> NDArray[np.bool_]:
        free = np.where(self._column("fixed"), 0.0, self._column("forces"))
        # Rejects have no forces, diverged systems any: no number is larger than all numbers.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._per_system(~(np.linalg.norm(free, axis=1) <= limit))

    def _per_system(self, atom_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Systems with an atom for which the mask holds."""
        hit = np.zeros(len(self.ids), dtype=bool)
        hit[self._owner()[atom_mask]] = True
        return hit

    def _owner(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.ids)), self.n_atoms)


def _few(system_ids: Any) -> str:
    shown = ", ".join(str(int(system_id)) for system_id in itertools.islice(system_ids, _FEW))
    return f"{shown}, …" if len(system_ids) > _FEW else shown
