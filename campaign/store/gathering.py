"""Bringing the rows of one array together from many stores: each chunk is read and decoded once, and its rows go to their places.

What lies in chunks of our own is read chunk by chunk; other codecs, and fields that a source does not have, go through the reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from jaxtyping import Int32, Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import StoreDamagedError, StoreError
from campaign.fields import FIELDS, Field, Level
from campaign.store.chunk_codec import ChunkCodec
from campaign.store.chunk_files import ChunkFiles
from campaign.store.consolidation_plan import ConsolidationPlan, OutputRange, ShardIndex
from campaign.store.csr import check_pointers, pointers, split_by_budget
from campaign.store.reader import READ_BYTES, StoreReader

_Read = TypeVar("_Read", bytes, NDArray[Any])

_LENGTH: Final = re.compile(rb'"shape": *\[\s*(\d+)')
"""The number of rows in an array's document; `"chunk_shape"` does not match."""


@dataclass(frozen=True, slots=True, eq=False)
class RowMap:
    """Where each row of the new store comes from. `by_source` lists its rows source by source, in the order that they have there."""

    folders: tuple[str, ...]
    source: Int32[ndarray, " N"]
    row: Int64[ndarray, " N"]
    atom_start: Int64[ndarray, " N"]
    system_ids: Int64[ndarray, " N"]
    ptr: Int64[ndarray, " N+1"]
    by_source: Int64[ndarray, " N"]
    source_ptr: Int64[ndarray, " S+1"]

    @classmethod
    def of(cls, plan: ConsolidationPlan, folders: Sequence[str]) -> RowMap:
        """Return the map of a plan whose sources lie in `folders`."""
        counts = np.bincount(plan.source, minlength=len(folders)).astype(np.int64)
        order = np.lexsort((plan.row, plan.source))
        return cls(tuple(folders), plan.source, plan.row, plan.atom_start, plan.system_ids, pointers(plan.n_atoms), order, pointers(counts))

    def of_source(self, number: int, part: OutputRange) -> Int64[ndarray, " M"]:
        """Return the systems of a range that come from a source, in its order."""
        at = self.by_source[self.source_ptr[number] : self.source_ptr[number + 1]]
        if part.last - part.first < len(self.source):
            at = at[(at >= part.first) & (at < part.last)]
        return at

    def n_atoms(self, at: Int64[ndarray, " M"]) -> Int64[ndarray, " M"]:
        """Return the number of atoms of systems of the new store."""
        counts: Int64[ndarray, " M"] = self.ptr[at + 1] - self.ptr[at]
        return counts


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Rows `begin:end` of a source that go to `place` and what follows; sorted, none of them overlap."""

    begin: Int64[ndarray, " M"]
    end: Int64[ndarray, " M"]
    place: Int64[ndarray, " M"]


def gather(rows: RowMap, part: OutputRange, field: Field, carried: bool) -> NDArray[Any]:
    """Return the rows of a range of the array `field`.

    With `carried` they come from source 0 at the row `system_id`, and are 0 if that is of an older format version, which has no such field;
    else they come from where the plan says, and where source 0 or one of an older format version has no such field they are NaN or 0.

    Raises:
        StoreDamagedError: a source has a chunk that is missing or damaged, or is shorter than planned.
    """
    out = np.empty((part.stop - part.start, *field.trailing), dtype=object if field.dtype == "string" else field.dtype)
    if carried:
        at = np.arange(part.first, part.last)
        inputs = StoreReader.open(rows.folders[0])
        if field.since > inputs.format_version:
            out[...] = 0
            return out
        _read_through_reader(out, rows, part, field, inputs, at, rows.system_ids[at])
        return out
    for number, folder in enumerate(rows.folders):
        at = rows.of_source(number, part)
        if not len(at):
            continue
        array = _field_chunks(folder, field)
        if array is not None and part.level is Level.SYSTEM:
            array.copy_rows(out, rows.row[at], at - part.start)
            continue
        if array is not None:
            array.copy_into(out, _pieces(rows, part, at))
            continue
        reader = StoreReader.open(folder)
        if all(field.name != known.name for known in reader.fields) and (number == 0 or field.since > reader.format_version):
            _fill(out, _pieces(rows, part, at), np.nan if field.dtype.startswith("float") else 0)
            continue
        _read_through_reader(out, rows, part, field, reader, at, rows.row[at])
    return out


def copied_chunks(rows: RowMap, field: Field, codec: ChunkCodec) -> Chunks | None:
    """Return the chunks of source 0 if those of the new array have the very same bytes: all of its rows, and the same codec."""
    if not _is_range(rows.system_ids):
        return None
    array = _field_chunks(rows.folders[0], field)
    n_rows = len(rows.source) if field.level is Level.SYSTEM else int(rows.ptr[-1])
    return array if array is not None and array.codec.has_chunks_of(codec) and array.n_rows == n_rows else None


@dataclass(frozen=True, slots=True)
class Chunks:
    """An array of `n_rows` rows, chunk by chunk; none is read twice, so none is kept."""

    folder: str
    path: str
    n_rows: int
    codec: ChunkCodec
    files: ChunkFiles

    def raw(self, chunk: int) -> bytes:
        """Return the bytes of a chunk whose checksum is right.

        Raises:
            StoreDamagedError: it is missing or damaged; the text names its file.
            StoreError: it cannot be read.
        """
        return self._read(self.files.raw, chunk)

    def rows(self, chunk: int) -> NDArray[Any]:
        """Return the rows of a chunk; beyond the end of the array they mean nothing.

        Raises:
            StoreDamagedError, StoreError: see `raw`.
        """
        return self._read(self.files.decoded, chunk)

    def head(self, n_rows: int) -> NDArray[Any]:
        """Return the first rows of the array.

        Raises:
            StoreDamagedError: a chunk is missing or damaged; the text names its file.
        """
        n_chunks = -(-n_rows // self.codec.chunk_rows)
        parts = [np.zeros((0, *self.codec.trailing), dtype=self.codec.dtype), *(self.rows(chunk) for chunk in range(n_chunks))]
        found: NDArray[Any] = np.concatenate(parts)[:n_rows]
        return found

    def copy_into(self, out: NDArray[Any], pieces: Pieces) -> None:
        """Copy pieces of the array to their places in `out`.

        Raises:
            StoreDamagedError: a chunk is missing or damaged, or the array is too short.
        """
        begin, end, place = pieces.begin, pieces.end, pieces.place
        if not len(begin):
            return
        self._check_length(int(end[-1]))
        size = self.codec.chunk_rows
        for chunk in range(int(begin[0]) // size, -(-int(end[-1]) // size)):
            low, high = chunk * size, (chunk + 1) * size
            # Pieces that have rows in this chunk; the first and the last may be cut by its borders.
            first, last = int(np.searchsorted(end, low, side="right")), int(np.searchsorted(begin, high, side="left"))
            if first >= last:
                continue
            start = np.maximum(begin[first:last], low)
            stop = np.minimum(end[first:last], high)
            _scatter(out, self.rows(chunk), start - low, stop - start, place[first:last] + (start - begin[first:last]))

    def copy_rows(self, out: NDArray[Any], rows: Int64[ndarray, " M"], places: Int64[ndarray, " M"]) -> None:
        """Copy rows of the array, sorted, to their places in `out`.

        Raises:
            StoreDamagedError: a chunk is missing or damaged, or the array is too short.
        """
        self._check_length(int(rows[-1]) + 1)
        size = self.codec.chunk_rows
        for chunk in range(int(rows[0]) // size, int(rows[-1]) // size + 1):
            first, last = np.searchsorted(rows, [chunk * size, (chunk + 1) * size])
            if first < last:
                out[places[first:last]] = self.rows(chunk)[rows[first:last] - chunk * size]

    def _check_length(self, n_rows: int) -> None:
        if n_rows > self.n_rows:
            raise StoreDamagedError(
                f"{self.folder}/{self.path} has {self.n_rows} rows, but row {n_rows - 1} is committed. "
                "The file was changed, cut or lost: restore it, or drop this store and compute its rows again."
            )

    def _read(self, how: Callable[[str, ChunkCodec, int], _Read], chunk: int) -> _Read:
        try:
            return how(self.path, self.codec, chunk)
        except OSError as error:
            raise StoreError(f"reading {self.folder}/{self.path}: {error}. Check that the place can be reached and read.") from error


def open_chunks(folder: str, path: str, dtype: str, trailing: tuple[int, ...]) -> Chunks | None:
    """Return an array of such rows if it lies in chunks of our own codecs."""
    try:
        with open(f"{folder}/{path}/zarr.json", "rb", buffering=0) as file:  # noqa: PTH123
            raw = file.read()
        # Documents of one array in thousands of shards differ in the number of rows alone; the rest is parsed once.
        length = _LENGTH.search(raw)
        if length is None:
            return None
        codec = _parsed(raw[: length.start(1)] + b"0" + raw[length.end(1) :])
        n_rows = int(length.group(1))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # the reader says what is wrong with it
    if codec is None or (codec.dtype, codec.trailing) != (dtype, trailing):
        return None
    return Chunks(folder, path, n_rows, codec, ChunkFiles(folder))


@lru_cache(maxsize=256)
def _parsed(raw: bytes) -> ChunkCodec | None:
    return ChunkCodec.of(json.loads(raw))


def _field_chunks(folder: str, field: Field) -> Chunks | None:
    return open_chunks(folder, field.path, field.dtype, field.trailing)


def _pieces(rows: RowMap, part: OutputRange, at: Int64[ndarray, " M"]) -> Pieces:
    """Return what the systems `at` of a range, in the order of their source, have of it."""
    if part.level is Level.SYSTEM:
        return Pieces(rows.row[at], rows.row[at] + 1, at - part.start)
    begin, place, counts = rows.atom_start[at], rows.ptr[at] - part.start, rows.n_atoms(at)
    # The first and the last system of a range may reach beyond it.
    skip = np.maximum(-place, 0)
    keep = np.minimum(counts, part.stop - part.start - place)
    has_any = keep > skip
    begin, place, skip, keep = begin[has_any], place[has_any], skip[has_any], keep[has_any]
    return Pieces(begin + skip, begin + keep, place + skip)


def _scatter(
    out: NDArray[Any], values: NDArray[Any], start: Int64[ndarray, " M"], counts: Int64[ndarray, " M"], place: Int64[ndarray, " M"]
) -> None:
    """Copy `counts` rows of `values` from each `start` on to each `place` of `out`."""
    end = start + counts
    gapless = bool((start[1:] == end[:-1]).all())
    if gapless and bool((place[1:] == place[:-1] + counts[:-1]).all()):
        out[place[0] : place[0] + end[-1] - start[0]] = values[start[0] : end[-1]]
        return
    if gapless:
        chosen = values[start[0] : end[-1]]
    else:
        chosen = values[np.repeat(start - pointers(counts)[:-1], counts) + np.arange(int(counts.sum()))]
    out[np.repeat(place - pointers(counts)[:-1], counts) + np.arange(len(chosen))] = chosen


def _fill(out: NDArray[Any], pieces: Pieces, value: float) -> None:
    for begin, end, place in zip(pieces.begin.tolist(), pieces.end.tolist(), pieces.place.tolist(), strict=True):
        out[place : place + end - begin] = value


def _read_through_reader(
    out: NDArray[Any],
    rows: RowMap,
    part: OutputRange,
    field: Field,
    reader: StoreReader,
    at: Int64[ndarray, " M"],
    source_rows: Int64[ndarray, " M"],
) -> None:
    """Let the reader give systems of a source, a bounded number of rows at a time."""
    row_bytes = 64 if field.dtype == "string" else np.dtype(field.dtype).itemsize
    row_bytes *= int(np.prod(field.trailing, dtype=np.int64))
    counts = rows.n_atoms(at) if part.level is Level.ATOM else np.ones(len(at), dtype=np.int64)
    for first, last in split_by_budget(counts * row_bytes, READ_BYTES):
        if part.level is Level.SYSTEM:
            out[at[first:last] - part.start] = reader.read_system(field.name, source_rows[first:last])
            continue
        values = reader.read_atoms(field.name, source_rows[first:last])[1]
        place, own = rows.ptr[at[first:last]] - part.start, counts[first:last]
        places = np.repeat(place - pointers(own)[:-1], own) + np.arange(len(values))
        inside = (places >= 0) & (places < len(out))
        out[places[inside]] = values[inside]


def _is_range(system_ids: Int64[ndarray, " N"]) -> bool:
    # Sorted and each once, so its ends say it all.
    return not len(system_ids) or int(system_ids[-1]) == len(system_ids) - 1


def read_index(name: str, folder: Path, with_steps: bool = False) -> tuple[ShardIndex, dict[str, Any]]:
    """Return what a plan needs to know of a shard, and the attributes of its root.

    Raises:
        StoreNotFoundError, StoreDamagedError: there is no such shard, or it does not add up.
        StoreError: it was made by a newer release.
    """
    reader = StoreReader.open(folder)
    n_systems, attributes = reader.n_systems, reader.attributes
    ids = _column(reader, str(folder), FIELDS["system_id"])
    steps = _column(reader, str(folder), FIELDS["step"]) if with_steps else None
    pointed = open_chunks(f"{folder}", "meta/atoms_ptr", "int64", ()) if n_systems else None
    if pointed is None or pointed.n_rows <= n_systems:
        return ShardIndex(name, ids, reader.n_atoms(), steps), attributes
    ptr = pointed.head(n_systems + 1)
    check_pointers(ptr, int(ptr[-1]), f"{folder}/meta/atoms_ptr")
    return ShardIndex(name, ids, np.diff(ptr), steps), attributes


def _column(reader: StoreReader, folder: str, field: Field) -> NDArray[np.int64]:
    array = _field_chunks(folder, field)
    if array is None or array.n_rows < reader.n_systems:
        return reader.read_system(field.name)[:, 0]
    return array.head(reader.n_systems)[:, 0]
