"""What consolidation will do, worked out on integers before a single array is opened.

A plan says for each row of the new store which row of which source it is, and cuts each array of the new store into ranges of whole
output shards, as long as the memory budget allows:

    positions  0         1M          2M            energy  0          64k        128k
               ├─────────┴───────────┼─────┤               ├──────────┴──────────┴──┤
                      range 0           1                            range 2

Each range is one Dask task. It reads the chunks that its rows lie in, each once, and writes output shards that no other touches; an atom
range may begin and end inside a system. Shards hold their systems in the order in which they finished, so a range needs nearly all of
them, and long ranges mean few reads of the same chunk. Source 0 is `inputs.zarr`, from which the rejects come; sources 1… are the
per-rank shards in the order of their names. Where several have a row for the same key, the first source, and in it the first row, wins:
earliest round, array task, rank, attempt. So the result depends on neither the order nor the number of shards, as long as their rows agree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
"""Chunks in a full output shard. A file then holds up to 65,536 systems or 524,288 atoms: 13 MB of positions.
More than the `CHUNKS_PER_FILE` of a shard, since chunks are smaller here and no file is written twice."""

DEFAULT_BUDGET_BYTES: Final = 2**31
"""Memory that one process of a consolidation may have, the interpreter and all of its Dask tasks included."""

PROCESS_BYTES: Final = 128 * 2**20
"""Of these, what a process has before it begins: Python, numpy, zarr, dask."""

SYSTEM_BYTES: Final = 160
"""And what each system takes: 44 bytes in the plan, the rest while it is made."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """What the plan needs to know of one per-rank shard: its name and, row by row, system, size and, in a trajectory, step.

    `rows` are the rows that count, if that is not all of them, and `atom_start` then says where the atoms of each begin.
    """

    name: str
    system_ids: Int64[ndarray, " M"]
    n_atoms: Int64[ndarray, " M"]
    steps: Int64[ndarray, " M"] | None = None
    rows: Int64[ndarray, " M"] | None = None
    atom_start: Int64[ndarray, " M"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InputIndex:
    """What the plan needs to know of `inputs.zarr`: its name, the size of each input, and whether it is a reject."""

    name: str
    n_atoms: Int64[ndarray, " N"]
    reject_mask: Bool[ndarray, " N"]


@dataclass(frozen=True, slots=True)
class OutputRange:
    """Rows `start:stop` of one array: whole output shards. They belong to the systems `first:last` of the store."""

    field: str
    level: Level
    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class ConsolidationPlan:
    """A whole consolidation. `source`, `row`, `atom_start`, `system_ids` and `n_atoms` have one entry per row of the new store.

    `n_parallel` Dask tasks of at most `peak_bytes` each may run at the same time in a process that has `fixed_bytes` besides; together
    they stay within `budget_bytes`.
    """

    sources: tuple[str, ...]
    source: Int32[ndarray, " N"]
    row: Int64[ndarray, " N"]
    atom_start: Int64[ndarray, " N"]
    system_ids: Int64[ndarray, " N"]
    n_atoms: Int64[ndarray, " N"]
    n_duplicates: int
    n_missing: int
    chunking: Chunking
    ranges: tuple[OutputRange, ...]
    peak_bytes: int
    fixed_bytes: int
    n_parallel: int
    budget_bytes: int

    @property
    def n_systems(self) -> int:
        """Rows of the new store."""
        return len(self.source)

    def to_json(self) -> str:
        """Return the plan as JSON, arrays included."""
        return json.dumps(asdict(self), default=_plain)

    def __str__(self) -> str:
        return (
            f"{self.n_systems} systems with {int(self.n_atoms.sum())} atoms from {len(self.sources)} sources, "
            f"{self.n_duplicates} duplicates, {self.n_missing} missing; {len(self.ranges)} ranges of up to {_mib(self.peak_bytes)} MiB, "
            f"{self.n_parallel} at a time, and {_mib(self.fixed_bytes)} MiB besides, within {_mib(self.budget_bytes)} MiB"
        )


def plan_consolidation(
    inputs: InputIndex,
    shards: Sequence[ShardIndex],
    fields: Sequence[Field],
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    allow_incomplete: bool = False,
    n_threads: int = 1,
    n_processes: int = 1,
) -> ConsolidationPlan:
    """Plan a store that has each input once, sorted by `system_id`, made by `n_threads` in each of `n_processes`.

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
    starts = pointers(inputs.n_atoms)[rejects]
    indices = [ShardIndex(inputs.name, rejects, inputs.n_atoms[rejects], rows=rejects, atom_start=starts), *ordered]
    for index in ordered:
        _check_against_inputs(index, inputs)
    ids, source, row, atom_start = _joined(indices)
    system_ids, chosen = np.unique(ids, return_index=True)
    n_missing = len(inputs.n_atoms) - len(system_ids)
    if n_missing and not allow_incomplete:
        absent = np.setdiff1d(np.arange(len(inputs.n_atoms)), system_ids, assume_unique=True)
        few = ", ".join(str(system_id) for system_id in absent[:5].tolist())
        raise IncompleteError(
            f"{n_missing} of {len(inputs.n_atoms)} inputs have no outcome (system_id {few}{', …' if n_missing > 5 else ''}); "
            "the store has each input once. Run `campaign resume`, or consolidate with --allow-incomplete (allow_incomplete)."
        )
    rows = Chosen(source[chosen], row[chosen], atom_start[chosen], system_ids, inputs.n_atoms[system_ids])
    names = tuple(index.name for index in indices)
    return _cut(names, rows, len(ids) - len(chosen), n_missing, fields, budget_bytes, n_threads, n_processes)


def plan_trajectory(
    shards: Sequence[ShardIndex],
    winner: Sequence[str | None],
    fields: Sequence[Field],
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    n_threads: int = 1,
    n_processes: int = 1,
) -> ConsolidationPlan:
    """Plan a store of frames sorted by `system_id`, then step.

    A system's frames all come from the shard named in `winner` at its `system_id`, which is the one that its result came from: frames of an
    attempt that was killed are left out, so a trajectory never mixes two runs.

    Raises:
        StoreDamagedError: a shard has no steps.
        ResourceError: one Dask task would need more than the budget.
    """
    ordered = sorted(shards, key=lambda shard: shard.name)
    ids, source, row, atom_start = _joined(ordered)
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
    rows = Chosen(source[chosen], row[chosen], atom_start[chosen], ids[chosen], n_atoms[chosen])
    names = tuple(index.name for index in ordered)
    return _cut(names, rows, len(ids) - len(chosen), 0, fields, budget_bytes, n_threads, n_processes)


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


def range_bytes(n_rows: int, row_bytes: int, chunk_rows: int, object_rows: int) -> int:
    """Return the memory that writing a range of `n_rows` rows of one array takes at its worst.

    It holds the rows in their places; the output shard that is being encoded, as chunks and as a whole; a chunk that is read, encoded,
    decoded and with the place of each of its rows; and what the reader decodes at a time, twice, where Zarr has to read.
    """
    return row_bytes * (n_rows + 3 * object_rows + 3 * chunk_rows) + 48 * chunk_rows + 2 * READ_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The rows that a store is made of: where each comes from, and which system it is."""

    source: Int64[ndarray, " N"]
    row: Int64[ndarray, " N"]
    atom_start: Int64[ndarray, " N"]
    system_ids: Int64[ndarray, " N"]
    n_atoms: Int64[ndarray, " N"]


def _cut(
    names: tuple[str, ...],
    rows: Chosen,
    n_duplicates: int,
    n_missing: int,
    fields: Sequence[Field],
    budget_bytes: int,
    n_threads: int,
    n_processes: int,
) -> ConsolidationPlan:
    ptr = pointers(rows.n_atoms)
    chunking = choose_chunking(len(rows.source), int(ptr[-1]))
    arrays = {field.name: field_array(field, chunking) for field in fields}
    n_rows = {Level.SYSTEM: len(ptr) - 1, Level.ATOM: int(ptr[-1])}
    least = max((range_bytes(spec.object_rows, spec.row_bytes, spec.chunk_rows, spec.object_rows) for spec in arrays.values()), default=0)
    fixed = PROCESS_BYTES + SYSTEM_BYTES * len(rows.source)
    if fixed + least > budget_bytes:
        raise ResourceError(
            f"consolidation needs {_mib(fixed + least)} MiB for one Dask task, but its budget is {budget_bytes // 2**20} MiB. "
            f"Give it at least {_mib(fixed + least)} MiB."
        )
    n_parallel = max(min(n_threads, (budget_bytes - fixed) // max(least, 1)), 1)
    share = (budget_bytes - fixed) // n_parallel
    # Two ranges for each that can work, or one would be left with the largest while the others wait.
    even = sum(spec.row_bytes * n_rows[spec.level] for spec in arrays.values()) // (2 * n_parallel * n_processes)
    ranges: list[OutputRange] = []
    for name, spec in arrays.items():
        over = range_bytes(0, spec.row_bytes, spec.chunk_rows, spec.object_rows)
        n_objects = min(share - over, even) // (spec.row_bytes * spec.object_rows)
        ranges += _ranges(name, spec.level, ptr, max(n_objects, 1) * spec.object_rows)
    # The largest first: who is done early takes a small one.
    ranges.sort(key=lambda part: -(part.stop - part.start) * arrays[part.field].row_bytes)
    sizes = [(part.stop - part.start, arrays[part.field]) for part in ranges]
    peak = max((range_bytes(rows_of, spec.row_bytes, spec.chunk_rows, spec.object_rows) for rows_of, spec in sizes), default=0)
    return ConsolidationPlan(
        names,
        rows.source.astype(np.int32),
        rows.row,
        rows.atom_start,
        rows.system_ids,
        rows.n_atoms,
        n_duplicates,
        n_missing,
        chunking,
        tuple(ranges),
        peak,
        fixed,
        n_parallel,
        budget_bytes,
    )


def _ranges(field: str, level: Level, ptr: Int64[ndarray, " N+1"], step: int) -> list[OutputRange]:
    n_systems, n_atoms = len(ptr) - 1, int(ptr[-1])
    ranges = []
    if level is Level.SYSTEM:
        for start in range(0, n_systems, step):
            stop = min(start + step, n_systems)
            ranges.append(OutputRange(field, level, start, stop, start, stop))
        return ranges
    for start in range(0, n_atoms, step):
        stop = min(start + step, n_atoms)
        ranges.append(OutputRange(field, level, start, stop, *systems_of_atoms(ptr, start, stop)))
    return ranges


def systems_of_atoms(ptr: Int64[ndarray, " N+1"], start: int, stop: int) -> tuple[int, int]:
    """Return the first system that has one of the atoms `start:stop`, and the one behind the last.

    >>> systems_of_atoms(np.array([0, 2, 2, 5]), 1, 3)
    (0, 3)
    """
    return int(np.searchsorted(ptr, start, side="right")) - 1, int(np.searchsorted(ptr, stop, side="left"))


def _mib(n_bytes: int) -> int:
    return -(-n_bytes // 2**20)


def _joined(
    indices: Sequence[ShardIndex],
) -> tuple[Int64[ndarray, " M"], Int64[ndarray, " M"], Int64[ndarray, " M"], Int64[ndarray, " M"]]:
    """Return of all rows of all sources the system, the source, the row there, and where the atoms begin there."""
    none = np.zeros(0, dtype=np.int64)
    lengths = np.array([len(index.system_ids) for index in indices], dtype=np.int64)
    ids = np.concatenate([none, *(index.system_ids for index in indices)])
    source = np.repeat(np.arange(len(indices)), lengths)
    rows = [np.arange(len(index.system_ids)) if index.rows is None else index.rows for index in indices]
    starts = [pointers(index.n_atoms)[:-1] if index.atom_start is None else index.atom_start for index in indices]
    return ids, source, np.concatenate([none, *rows]), np.concatenate([none, *starts])


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
