"""What is still good in a damaged store: which committed rows have every field whole, and a new store of these.

Nothing here trusts more than it has to. A chunk counts if its checksum is right; a row counts if all chunks that it lies in do, and its
atoms can be found. Documents of arrays say nothing that `fields.py` and the arrays beside them do not, so a lost one costs no row. A lost
root document costs the number of rows, which the other documents tell too, and the attributes, which nothing else does.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from jaxtyping import Bool, Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import StoreDamagedError, StoreError
from campaign.fields import Field, Level
from campaign.store.chunk_codec import ChunkCodec, codec_of
from campaign.store.chunk_files import ChunkFiles
from campaign.store.csr import pointers, split_by_budget
from campaign.store.layout import (
    FORMAT,
    FORMAT_VERSION,
    RESERVED_ATTRIBUTES,
    ArraySpec,
    Chunking,
    field_array,
    group_names,
    meta_arrays,
)
from campaign.store.writer import ShardWriter

BLOCK_BYTES: Final = 64 * 2**20
"""Rows that are copied at a time."""

_UNKNOWN: Final = -1


@dataclass(frozen=True, eq=False)
class Salvage:
    """The N committed rows of a store, as far as they can be read.

    `faults` name each damaged file with what is wrong; without any the store is sound. `intact` are the rows whose every field is whole;
    `system_ids` is −1 where it is not known. `attributes` are those of the root without the layout's own, None if they are lost.
    """

    folder: Path
    fields: tuple[Field, ...]
    faults: tuple[str, ...]
    attributes: dict[str, Any] | None
    intact: Bool[ndarray, " N"]
    system_ids: Int64[ndarray, " N"]
    ptr: Int64[ndarray, " N+1"]
    arrays: Mapping[str, _Array]

    @property
    def n_systems(self) -> int:
        """Committed rows, whole or not."""
        return len(self.intact)

    def n_atoms(self, rows: Int64[ndarray, " M"]) -> Int64[ndarray, " M"]:
        """Number of atoms of each of some intact rows."""
        counts: NDArray[np.int64] = self.ptr[rows + 1] - self.ptr[rows]
        return counts

    def read(self, field: Field, rows: Int64[ndarray, " M"]) -> NDArray[Any]:
        """Return a field of some intact rows, in rising order; atom fields have the atoms one row behind the other."""
        parts = []
        for start, stop in _spans(rows):
            if field.level is Level.ATOM:
                start, stop = int(self.ptr[start]), int(self.ptr[stop])
            parts.append(self.arrays[field.path].read(start, stop))
        return np.concatenate(parts) if parts else np.zeros((0, *field.trailing), object if field.dtype == "string" else field.dtype)

    def whole(self, field: Field, n_rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield first row and rows of each chunk of a field that can be read, up to row `n_rows`, whatever is damaged beside it."""
        return self.arrays[field.path].whole(n_rows)

    def blocks(self, rows: Int64[ndarray, " M"]) -> Iterator[Int64[ndarray, " K"]]:
        """Cut rows into blocks of bounded memory."""
        atom_bytes = sum(field_array(field, Chunking()).row_bytes for field in self.fields if field.level is Level.ATOM)
        for start, stop in split_by_budget(self.n_atoms(rows) * atom_bytes + 1024, BLOCK_BYTES):
            yield rows[start:stop]


def assess(folder: Path, fields: Sequence[Field], sizes: Int64[ndarray, " I"] | None = None) -> Salvage:
    """Read everything in a store that should have `fields`, and say what is good.

    `sizes` are the numbers of atoms by system_id; with them rows are found whose pointers are lost.

    Raises:
        StoreError: it was made by a newer release, or cannot be read for a reason that is no damage, such as a missing right.
    """
    faults: list[str] = []
    version, n_systems, attributes = _root(folder, faults)
    present = tuple(field for field in fields if field.since <= version)
    for name in group_names(present):
        if _document(folder / name / "zarr.json", "group") is None:
            faults.append(f"{name}/zarr.json is missing or no document of a group")
    arrays = _arrays(folder, present, faults)
    if n_systems is None:
        n_systems = _rows_by_documents(arrays, present)
    intact = np.ones(n_systems, dtype=bool)
    ids = _read_known(arrays["custom/system_id"], n_systems, _UNKNOWN, faults, column=True)
    ptr = _located(arrays["meta/atoms_ptr"], n_systems, ids, sizes, faults)
    known = (ptr[:-1] != _UNKNOWN) & (ptr[1:] != _UNKNOWN)
    intact &= known & (ptr[1:] >= ptr[:-1])
    stop = int(ptr.max(initial=0))
    for field in present:
        array = arrays[field.path]
        for first, last in array.damaged(n_systems if field.level is Level.SYSTEM else stop, faults):
            if field.level is Level.SYSTEM:
                intact[first:last] = False
            else:
                intact &= ~((ptr[:-1] < last) & (ptr[1:] > first) & (ptr[1:] > ptr[:-1]))
    for spec in meta_arrays(Chunking()):
        if spec.path != "meta/atoms_ptr":  # these hold nothing that rows need
            counted = {Level.SYSTEM: n_systems + spec.path.endswith("_ptr"), Level.ATOM: stop, Level.EDGE: 0}
            for _ in arrays[spec.path].damaged(counted[spec.level], faults):
                pass
    return Salvage(folder, present, tuple(dict.fromkeys(faults)), attributes, intact, ids, ptr, arrays)


def write_salvaged(salvage: Salvage, rows: Int64[ndarray, " M"], target: Path, fields: Sequence[Field], attributes: dict[str, Any]) -> None:
    """Write a new store of some intact rows, in rising order, with `fields`; one that the old store did not have yet is NaN or 0.

    Raises:
        ResourceError, StoreError: it cannot be written.
    """
    with ShardWriter.create(target, fields, attributes, flush_s=3600.0) as writer:
        for block in salvage.blocks(rows):
            n_atoms = salvage.n_atoms(block)
            columns = {}
            for field in fields:
                if field in salvage.fields:
                    columns[field.name] = salvage.read(field, block)
                else:
                    n_rows = len(block) if field.level is Level.SYSTEM else int(n_atoms.sum())
                    columns[field.name] = np.full((n_rows, *field.trailing), np.nan if field.dtype.startswith("float") else 0, field.dtype)
            writer.append(n_atoms, columns)


class _Array:
    """One array of a damaged store, chunk by chunk."""

    def __init__(self, folder: Path, spec: ArraySpec, n_rows: int | None, codec: ChunkCodec | None, files: ChunkFiles) -> None:
        self.spec, self.n_rows = spec, n_rows
        self._codec, self._files, self._folder = codec, files, folder
        self._zarr: zarr.Array[Any] | None = None
        if codec is None:  # codecs that only Zarr knows, under a document that is whole
            self._zarr = zarr.open_array(folder / spec.path, mode="r")
        self._chunk_rows = codec.chunk_rows if codec is not None else int((self._zarr.chunks if self._zarr is not None else (1,))[0])

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows; raises StoreDamagedError where a chunk is damaged."""
        if self._codec is not None:
            return np.array(self._files.read(self.spec.path, self._codec, start, stop)) if stop > start else self._none()
        try:
            return np.asarray(self._zarr[start:stop] if self._zarr is not None else self._none())
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise StoreDamagedError(f"{self._folder}/{self.spec.path}: {error}") from error

    def whole(self, n_rows: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield first row and rows of each chunk that can be decoded."""
        for first in range(0, n_rows, self._chunk_rows):
            try:
                yield first, self.read(first, min(first + self._chunk_rows, n_rows))
            except (StoreDamagedError, OSError):
                continue

    def damaged(self, n_rows: int, faults: list[str]) -> Iterator[tuple[int, int]]:
        """Yield the rows of each chunk, up to row `n_rows`, that cannot be decoded; its file joins `faults`."""
        there = n_rows if self.n_rows is None else min(self.n_rows, n_rows)
        if there < n_rows:
            faults.append(f"{self.spec.path} has {there} rows; {n_rows} are committed")
            yield there, n_rows
        for first in range(0, there, self._chunk_rows):
            last = min(first + self._chunk_rows, there)
            try:
                self.read(first, last)
            except StoreDamagedError as error:
                faults.append(_relative(self._folder, str(error)))
                yield first, last
            except OSError as error:
                if error.errno != errno.EIO:
                    raise StoreError(f"reading {self._folder}/{self.spec.path}: {error}. See that it can be read.") from error
                faults.append(f"{self.spec.path}: {error.strerror}")
                yield first, last

    def _none(self) -> NDArray[Any]:
        return np.zeros((0, *self.spec.trailing), dtype=object if self.spec.dtype == "string" else self.spec.dtype)


def _root(folder: Path, faults: list[str]) -> tuple[int, int | None, dict[str, Any] | None]:
    """Version, number of rows and attributes by the root document; its attributes alone if it was cut behind them."""
    attributes: Any = None
    document = _document(folder / "zarr.json", "group")
    if document is not None:
        attributes = document.get("attributes")
    else:
        faults.append("zarr.json is missing, cut or no document of a store")
        attributes = _cut_attributes(folder / "zarr.json")
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        if document is not None:
            faults.append("zarr.json has no attributes of a store of ours")
        return FORMAT_VERSION, None, None
    version, count = attributes.get("format_version"), attributes.get("num_samples")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StoreError(
            f"{folder} has format_version {version}; this release reads 1 to {FORMAT_VERSION}. Install a newer relax-campaign."
        )
    own = {key: value for key, value in attributes.items() if key not in RESERVED_ATTRIBUTES}
    if not isinstance(count, int) or count < 0 or not isinstance(version, int) or version < 1:
        faults.append(f"zarr.json has num_samples {count!r} and format_version {version!r}")
        return FORMAT_VERSION, None, own
    return version, count, own


def _cut_attributes(file: Path) -> Any:
    try:
        text = file.read_bytes().decode(errors="replace")
        start = text.index('"attributes":') + len('"attributes":')
        return json.JSONDecoder().raw_decode(text[start:].lstrip())[0]
    except (OSError, ValueError):
        return None


def _document(file: Path, node_type: str) -> dict[str, Any] | None:
    try:
        document = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    is_one = isinstance(document, dict) and document.get("zarr_format") == 3 and document.get("node_type") == node_type
    return document if is_one else None


def _arrays(folder: Path, fields: Sequence[Field], faults: list[str]) -> dict[str, _Array]:
    """All arrays; one whose document is lost is read as those of its level are."""
    files = ChunkFiles(folder)
    chunking = Chunking.of_shards()
    specs = [*(field_array(field, chunking) for field in fields), *meta_arrays(chunking)]
    documents = {spec.path: _array_document(folder, spec) for spec in specs}
    codecs = {path: None if document is None else ChunkCodec.of(document) for path, document in documents.items()}
    beside = {spec.level: codec for spec in specs if (codec := codecs[spec.path]) is not None}
    made = {}
    for spec in specs:
        document = documents[spec.path]
        if document is not None:
            made[spec.path] = _Array(folder, spec, int(document["shape"][0]), codecs[spec.path], files)
            continue
        faults.append(f"{spec.path}/zarr.json is missing, cut, or not what fields.py says")
        # Encoded as the arrays beside it. If none is left, as shards are today.
        codec = replace(beside.get(spec.level, codec_of(spec)), dtype=spec.dtype, trailing=spec.trailing)
        made[spec.path] = _Array(folder, spec, None, codec, files)
    return made


def _array_document(folder: Path, spec: ArraySpec) -> dict[str, Any] | None:
    document = _document(folder / spec.path / "zarr.json", "array")
    if document is None:
        return None
    try:
        same = document["data_type"] == spec.dtype and tuple(document["shape"][1:]) == spec.trailing
        grid = document["chunk_grid"]["configuration"]["chunk_shape"]
        return document if same and int(document["shape"][0]) >= 0 and int(grid[0]) > 0 and document["codecs"] else None
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _rows_by_documents(arrays: Mapping[str, _Array], fields: Sequence[Field]) -> int:
    """Rows that were on disk when the masks were last extended, which is after all of their fields and pointers were."""
    counts = [arrays[field.path].n_rows for field in fields if field.level is Level.SYSTEM]
    counts.append(arrays["meta/samples_mask"].n_rows)
    pointers_there = arrays["meta/atoms_ptr"].n_rows
    counts.append(None if pointers_there is None else max(pointers_there - 1, 0))
    return min((count for count in counts if count is not None), default=0)


def _read_known(array: _Array, n_rows: int, unknown: int, faults: list[str], column: bool = False) -> Int64[ndarray, " N"]:
    """Return whole numbers, `unknown` where they cannot be read."""
    values = np.full(n_rows, unknown, dtype=np.int64)
    bad = np.zeros(n_rows, dtype=bool)
    for first, last in array.damaged(n_rows, faults):
        bad[first:last] = True
    good = np.flatnonzero(~bad)
    for first, last in _spans(good):
        rows = array.read(first, last)
        values[first:last] = rows[:, 0] if column else rows
    return values


def _located(
    array: _Array, n_systems: int, ids: Int64[ndarray, " N"], sizes: Int64[ndarray, " I"] | None, faults: list[str]
) -> Int64[ndarray, " N+1"]:
    """Pointers, −1 where unknown; lost ones follow from ids and sizes where these agree with all that are left."""
    ptr = _read_known(array, n_systems + 1, _UNKNOWN, faults)
    lost = ptr == _UNKNOWN
    if lost.any() and sizes is not None and np.all((ids >= 0) & (ids < len(sizes))):
        made = pointers(sizes[ids])
        if np.array_equal(made[~lost], ptr[~lost]):
            return made
    falls = np.flatnonzero((ptr[1:] < ptr[:-1]) & ~lost[1:] & ~lost[:-1])
    if len(falls):
        faults.append(f"meta/atoms_ptr falls at position {int(falls[0]) + 1}")
    return ptr


def _spans(rows: Int64[ndarray, " M"]) -> Iterator[tuple[int, int]]:
    """Cut rising rows into runs `first, last + 1` without a gap."""
    if not len(rows):
        return
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True):
        yield int(rows[first]), int(rows[last - 1]) + 1


def _relative(folder: Path, text: str) -> str:
    return text.replace(f"{folder}/", "").split(". ", 1)[0]
