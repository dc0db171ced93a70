"""What consolidation will do, worked out on integers before a single array is opened.

A plan says for each row of the new store which row of which source it is, and cuts the new store into ranges of whole output shards:

    systems  0         64k        128k        atoms  0          1M          2M
             ├──────────┼──────────┼──┤              ├───────────┼───────────┼────┤
               range 0    range 1   2                  range 3     range 4     5

Each range is one Dask task that writes the output shards of all fields of its level and touches no other; an atom range may begin and
end inside a system. Source 0 is `inputs.zarr`, from which the rejects come; sources 1… are the per-rank shards in the order of their
names. Where several have a row for the same key, the first source, and in it the first row, wins: earliest round, array task, rank,
attempt. So the result depends on neither the order nor the number of shards, as long as their rows agree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Int32, Int64
from numpy import ndarray

from campaign.errors import IncompleteError, ResourceError, StoreDamagedError
from campaign.fields import Field, Level
from campaign.store.csr import pointers
from campaign.store.layout import Chunking, field_array
from campaign.store.reader import READ_BYTES

SYSTEM_CHUNK_ROWS: Final = 1024
ATOM_CHUNK_ROWS: Final = 8192
"""Rows of a chunk of the published store, which is read one structure at a time too: that decodes a chunk of each field, 28 in all.
Compared with 4096 and 65,536 rows, the sizes of shards, it takes half the time; smaller ones gain little more."""

CHUNKS_PER_SHARD: Final = 64
"""Chunks in a full output shard. A file then holds up to 65,536 systems or 524,288 atoms: 13 MB of positions."""

DEFAULT_BUDGET_BYTES: Final = 2**30
"""Memory that consolidation may use for data, over all Dask tasks that run at the same time in one process."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """What the plan needs to know of one per-rank shard: its name and, row by row, system, size and, in a trajectory, step.

    `rows` are the rows that count, if that is not all of them.
    """

    name: str
    system_ids: Int64[ndarray, " M"]
    n_atoms: Int64[ndarray, " M"]
    steps: Int64[ndarray, " M"] | None = None
    rows: Int64[ndarray, " M"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InputIndex:
    """What the plan needs to know of `inputs.zarr`: its name, the size of each input, and whether it is a reject."""

    name: str
    n_atoms: Int64[ndarray, " N"]
    reject_mask: Bool[ndarray, " N"]


@dataclass(frozen=True, slots=True)
class OutputRange:
    """Rows `start:stop` of all arrays of one level: whole output shards. They belong to the systems `first:last` of the store."""

    level: Level
    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class ConsolidationPlan:
    """A whole consolidation. `source`, `row`, `system_ids` and `n_atoms` have one entry per row of the new store."""

    sources: tuple[str, ...]
    source: Int32[ndarray, " N"]
    row: Int64[ndarray, " N"]
    system_ids: Int64[ndarray, " N"]
    n_atoms: Int64[ndarray, " N"]
    n_duplicates: int
    n_missing: int
    chunking: Chunking
    ranges: tuple[OutputRange, ...]
    peak_bytes: int
    budget_bytes: int

    @property
    def n_systems(self) -> int:
        """Rows of the new store."""
        return len(self.source)

    @property
    def n_parallel(self) -> int:
        """Dask tasks that may run at the same time in one process within the budget."""
        return max(self.budget_bytes // max(self.peak_bytes, 1), 1)

    def to_json(self) -> str:
        """Return the plan as JSON, arrays included."""
        return json.dumps(asdict(self), default=_plain)

    def __str__(self) -> str:
        return (
            f"{self.n_systems} systems with {int(self.n_atoms.sum())} atoms from {len(self.sources)} sources, "
            f"{self.n_duplicates} duplicates, {self.n_missing} missing; {len(self.ranges)} ranges, {self.peak_bytes / 2**20:.0f} MiB each, "
            f"{self.n_parallel} at a time within {self.budget_bytes / 2**20:.0f} MiB"
        )


def plan_consolidation(
    inputs: InputIndex,
    shards: Sequence[ShardIndex],
    fields: Sequence[Field],
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    allow_incomplete: bool = False,
) -> ConsolidationPlan:
    """Plan a store that has each input once, sorted by `system_id`.

    Raises:
        IncompleteError: inputs have no outcome and `allow_incomplete` is not set.
        StoreDamagedError: a shard has a system that is no input, or one of another size than its input.
        ResourceError: one Dask task would need more than the budget.

    >>> inputs = InputIndex("inputs.zarr", np.array([2, 3]), np.array([False, True]))
    >>> shard = ShardIndex("0001-00000-00000-000.zarr", np.array([0, 0]), np.array([2, 2]))
    >>> plan = plan_consolidation(inputs, [shard], [])
    >>> plan.source.tolist(), plan.row.tolist(), plan.n_duplicates
    ([1, 0], [0, 1], 1)
    """
    ordered = sorted(shards, key=lambda shard: shard.name)
    rejects = np.flatnonzero(inputs.reject_mask)
    indices = [ShardIndex(inputs.name, rejects, inputs.n_atoms[rejects], rows=rejects), *ordered]
    for index in ordered:
        _check_against_inputs(index, inputs)
    ids, source, row = _joined(indices)
    system_ids, chosen = np.unique(ids, return_index=True)
    n_missing = len(inputs.n_atoms) - len(system_ids)
    if n_missing and not allow_incomplete:
        absent = np.setdiff1d(np.arange(len(inputs.n_atoms)), system_ids, assume_unique=True)
        few = ", ".join(str(system_id) for system_id in absent[:5].tolist())
        raise IncompleteError(
            f"{n_missing} of {len(inputs.n_atoms)} inputs have no outcome (system_id {few}{', …' if n_missing > 5 else ''}); "
            "the store has each input once. Run `campaign resume`, or consolidate with --allow-incomplete (allow_incomplete)."
        )
    chosen_source, chosen_row = source[chosen], row[chosen]
    n_atoms = inputs.n_atoms[system_ids]
    return _cut(
        tuple(index.name for index in indices),
        chosen_source,
        chosen_row,
        system_ids,
        n_atoms,
        len(ids) - len(chosen),
        n_missing,
        fields,
        budget_bytes,
    )


def plan_trajectory(
    shards: Sequence[ShardIndex], winner: Sequence[str | None], fields: Sequence[Field], budget_bytes: int = DEFAULT_BUDGET_BYTES
) -> ConsolidationPlan:
    """Plan a store of frames sorted by `system_id`, then step.

    A system's frames all come from the shard named in `winner` at its `system_id`, which is the one that its result came from: frames of an
    attempt that was killed are left out, so a trajectory never mixes two runs.

    Raises:
        StoreDamagedError: a shard has no steps.
        ResourceError: one Dask task would need more than the budget.
    """
    ordered = sorted(shards, key=lambda shard: shard.name)
    ids, source, row = _joined(ordered)
    parts = []
    for index in ordered:
        if index.steps is None:
            raise StoreDamagedError(f"{index.name} has no steps, which frames of a trajectory have. Remove it, or run its systems again.")
        parts.append(index.steps)
    steps = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    n_atoms = np.concatenate([index.n_atoms for index in ordered]) if ordered else np.zeros(0, dtype=np.int64)
    number = {index.name: position for position, index in enumerate(ordered)}
    wanted = np.array([-1 if name is None else number.get(name, -1) for name in winner], dtype=np.int64)
    inside = (ids >= 0) & (ids < len(wanted))
    usable = np.flatnonzero(inside & (wanted[np.where(inside, ids, 0)] == source)) if len(wanted) else np.zeros(0, dtype=np.int64)
    order = usable[np.lexsort((row[usable], steps[usable], ids[usable]))]
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (ids[order][1:] == ids[order][:-1]) & (steps[order][1:] == steps[order][:-1])
    chosen = order[~again]
    names = tuple(index.name for index in ordered)
    return _cut(names, source[chosen], row[chosen], ids[chosen], n_atoms[chosen], len(ids) - len(chosen), 0, fields, budget_bytes)


def replace_budget(plan: ConsolidationPlan, budget_bytes: int) -> ConsolidationPlan:
    """Return the plan with another budget, which decides how many Dask tasks run at the same time.

    Raises:
        ResourceError: one Dask task would need more.
    """
    _check_budget(plan.peak_bytes, budget_bytes)
    return replace(plan, budget_bytes=budget_bytes)


def choose_chunking(n_systems: int, n_atoms: int) -> Chunking:
    """Return chunk and output shard sizes; they depend on what is stored alone, so equal contents have equal bytes.

    A store that fits into fewer chunks has smaller output shards, since those are written out to their end.
    """

    def shard_rows(n_rows: int, chunk_rows: int) -> int:
        return chunk_rows * min(max(-(-n_rows // chunk_rows), 1), CHUNKS_PER_SHARD)

    # The pointers have one row more than there are systems.
    return Chunking(
        SYSTEM_CHUNK_ROWS,
        ATOM_CHUNK_ROWS,
        shard_rows(n_systems + 1, SYSTEM_CHUNK_ROWS),
        shard_rows(n_atoms, ATOM_CHUNK_ROWS),
    )


def range_bytes(part: OutputRange, n_rows: int, fields: Sequence[Field], chunking: Chunking) -> int:
    """Return the memory that writing one range takes at its worst; `n_rows` rows are gathered for it.

    Fields are written one after the other. The widest one is held as gathered, as sorted into place, as the padded block and as the encoded
    shard; besides there is what the reader decodes at a time, twice, and 48 bytes a row of positions.
    """
    arrays = [field_array(field, chunking) for field in fields if field.level is part.level]
    widest = max((array.row_bytes for array in arrays), default=8)
    object_rows = chunking.rows(part.level)[1]
    return widest * (2 * n_rows + 2 * max(part.stop - part.start, object_rows)) + 2 * READ_BYTES + 48 * n_rows


def _cut(
    names: tuple[str, ...],
    source: Int64[ndarray, " N"],
    row: Int64[ndarray, " N"],
    system_ids: Int64[ndarray, " N"],
    n_atoms: Int64[ndarray, " N"],
    n_duplicates: int,
    n_missing: int,
    fields: Sequence[Field],
    budget_bytes: int,
) -> ConsolidationPlan:
    ptr = pointers(n_atoms)
    chunking = choose_chunking(len(source), int(ptr[-1]))
    ranges = tuple(_ranges(ptr, chunking))
    rows = [part.stop - part.start if part.level is Level.SYSTEM else int(ptr[part.last] - ptr[part.first]) for part in ranges]
    peak = max((range_bytes(part, n, fields, chunking) for part, n in zip(ranges, rows, strict=True)), default=0)
    _check_budget(peak, budget_bytes)
    return ConsolidationPlan(
        names, source.astype(np.int32), row, system_ids, n_atoms, n_duplicates, n_missing, chunking, ranges, peak, budget_bytes
    )


def _check_budget(peak_bytes: int, budget_bytes: int) -> None:
    if peak_bytes > budget_bytes:
        raise ResourceError(
            f"consolidation needs {peak_bytes / 2**20:.0f} MiB for one Dask task, but its budget is {budget_bytes / 2**20:.0f} MiB. "
            f"Give it at least {-(-peak_bytes // 2**20)} MiB."
        )


def _ranges(ptr: Int64[ndarray, " N+1"], chunking: Chunking) -> list[OutputRange]:
    n_systems, n_atoms = len(ptr) - 1, int(ptr[-1])
    ranges = []
    for start in range(0, n_systems, chunking.system_shard_rows):
        stop = min(start + chunking.system_shard_rows, n_systems)
        ranges.append(OutputRange(Level.SYSTEM, start, stop, start, stop))
    for start in range(0, n_atoms, chunking.atom_shard_rows):
        stop = min(start + chunking.atom_shard_rows, n_atoms)
        first = int(np.searchsorted(ptr, start, side="right")) - 1
        last = int(np.searchsorted(ptr, stop, side="left"))
        ranges.append(OutputRange(Level.ATOM, start, stop, first, last))
    return ranges


def _joined(indices: Sequence[ShardIndex]) -> tuple[Int64[ndarray, " M"], Int64[ndarray, " M"], Int64[ndarray, " M"]]:
    lengths = np.array([len(index.system_ids) for index in indices], dtype=np.int64)
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *(index.system_ids for index in indices)])
    source = np.repeat(np.arange(len(indices)), lengths)
    rows = [np.arange(len(index.system_ids)) if index.rows is None else index.rows for index in indices]
    return ids, source, np.concatenate([np.zeros(0, dtype=np.int64), *rows])


def _check_against_inputs(index: ShardIndex, inputs: InputIndex) -> None:
    n_inputs = len(inputs.n_atoms)
    outside = np.flatnonzero((index.system_ids < 0) | (index.system_ids >= n_inputs))
    advice = "The shard is damaged or belongs to another campaign: remove it, then `campaign resume`."
    if len(outside):
        at = int(outside[0])
        raise StoreDamagedError(f"{index.name} row {at} has system_id {index.system_ids[at]}, but there are {n_inputs} inputs. {advice}")
    differs = np.flatnonzero(index.n_atoms != inputs.n_atoms[index.system_ids])
    if len(differs):
        at = int(differs[0])
        system_id = int(index.system_ids[at])
        seen = f"{index.name} row {at} has {index.n_atoms[at]} atoms for system_id {system_id}"
        raise StoreDamagedError(f"{seen}, whose input has {inputs.n_atoms[system_id]}. {advice}")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form. A plan holds ints, text and arrays of ints.")
