"""What a store looks like: its groups, arrays, attributes and chunk sizes, as plain JSON documents of Zarr v3.

Everything here is pure. The layout is that of nvalchemi-toolkit 0.2.0 (`AtomicDataZarrReader`), so that its reader opens our stores as
its own; what is ours goes to attributes and groups that it does not look at:

    zarr.json                 num_samples, fields {core, custom}; ours: format, format_version, labels, and what the caller adds
    meta/atoms_ptr            int64 [N+1]
    meta/edges_ptr            int64 [N+1], zeros: we store no edges
    meta/samples_mask         bool [N], true; meta/atoms_mask bool [A], true; meta/edges_mask bool [0]
    core/…, custom/…          numbers, listed in `fields` with their level
    labels/…                  text, listed in `labels` only: the other reader turns every array of core and custom into a tensor

All chunks are compressed and end with a CRC-32C, so damage is seen when it is read. Metadata is written by us rather than by
zarr-python because a commit is then one small file, and because its helper re-reads what it has just written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from campaign.errors import FieldError, StoreError
from campaign.fields import FIELDS, Field, Group, Level

FORMAT: Final = "relax-campaign/csr"
FORMAT_VERSION: Final = 3
"""A promise: today's reader reads every version up to this one; `tests/store/data` keeps a sample of each."""

SYSTEM_CHUNK_ROWS: Final = 4096
ATOM_CHUNK_ROWS: Final = 65536
"""Rows of a chunk, which is what a reader decodes at least; 65,536 positions are 1.5 MB."""

CHUNKS_PER_FILE: Final = 16
"""Chunks in one file of a shard: few files, and still small enough to rewrite the last one at a flush.
A published store, whose chunks are smaller, has more: `CHUNKS_PER_SHARD` in `consolidation_plan.py`."""

COMPRESSION: Final[dict[str, Any]] = {"cname": "lz4", "clevel": 5, "blocksize": 0}
"""Blosc: LZ4 after a shuffle of bytes. Chosen by measurement, see docs/decisions/0006-codec.md."""

_CRC32C: Final[dict[str, Any]] = {"name": "crc32c"}
_BYTES: Final[dict[str, Any]] = {"name": "bytes", "configuration": {"endian": "little"}}

SAMPLES_MASK: Final = "meta/samples_mask"
"""The array whose length the other reader takes for the number of systems."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

RESERVED_ATTRIBUTES: Final = frozenset({"format", "format_version", "num_samples", "fields", "labels", "checksum"})
"""Root attributes that are the layout's own."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """Rows of a chunk for system and for atom arrays, and of the files that hold several chunks (0: a file for each chunk)."""

    system_rows: int = SYSTEM_CHUNK_ROWS
    atom_rows: int = ATOM_CHUNK_ROWS
    system_shard_rows: int = 0
    atom_shard_rows: int = 0

    def __post_init__(self) -> None:
        for rows, shard_rows in ((self.system_rows, self.system_shard_rows), (self.atom_rows, self.atom_shard_rows)):
            if rows < 1 or shard_rows % rows:
                seen = f"chunks of {rows} rows in output shards of {shard_rows} rows"
                raise StoreError(f"{seen} do not fit: an output shard is a whole number of chunks. Choose such numbers.")

    @classmethod
    def of_shards(cls, system_rows: int = SYSTEM_CHUNK_ROWS, atom_rows: int = ATOM_CHUNK_ROWS) -> Self:
        """Return chunks of so many rows, `CHUNKS_PER_FILE` of them in a file.

        >>> Chunking.of_shards(atom_rows=10).atom_shard_rows
        160
        """
        return cls(system_rows, atom_rows, CHUNKS_PER_FILE * system_rows, CHUNKS_PER_FILE * atom_rows)

    def rows(self, level: Level) -> tuple[int, int]:
        """Rows of a chunk and of a file that holds several, at `level`."""
        if level is Level.SYSTEM:
            return self.system_rows, self.system_shard_rows
        return self.atom_rows, self.atom_shard_rows


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a store: where it lies, what a row of it is and which rows one file holds."""

    path: str
    level: Level
    dtype: str
    trailing: tuple[int, ...]
    chunk_rows: int
    shard_rows: int = 0

    @property
    def object_rows(self) -> int:
        """Rows in one file: the output shard where there is one, else the chunk."""
        return self.shard_rows or self.chunk_rows

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Type of the values in memory."""
        return np.dtypes.StringDType() if self.dtype == "string" else np.dtype(self.dtype)

    @property
    def chunks_per_file(self) -> int:
        """Chunks in one file."""
        return self.object_rows // self.chunk_rows

    @property
    def compression(self) -> dict[str, Any]:
        """Configuration of the codec "blosc"; bytes of numbers are shuffled, which single bytes and text do not need."""
        size = 1 if self.dtype == "string" else np.dtype(self.dtype).itemsize
        return {**COMPRESSION, "typesize": size, "shuffle": "shuffle" if size > 1 else "noshuffle"}

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory; of text, a guess."""
        item = 64 if self.dtype == "string" else np.dtype(self.dtype).itemsize
        return item * int(np.prod(self.trailing, dtype=np.int64))

    def chunk_key(self, index: int) -> str:
        """Key of the file of rows `index * object_rows` onwards."""
        return "/".join([self.path, "c", str(index), *("0" for _ in self.trailing)])

    def document(self, n_rows: int) -> dict[str, Any]:
        """The array's zarr.json when it has `n_rows` rows."""
        fill: Any = {"bool": False, "string": ""}.get(self.dtype, 0.0 if self.dtype.startswith("float") else 0)
        serializer = {"name": "vlen-utf8", "configuration": {}} if self.dtype == "string" else _bytes_codec(self.dtype)
        codecs = [serializer, {"name": "blosc", "configuration": self.compression}, _CRC32C]
        if self.shard_rows:
            inner = {
                "chunk_shape": [self.chunk_rows, *self.trailing],
                "codecs": codecs,
                "index_codecs": [_BYTES, _CRC32C],
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": inner}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [n_rows, *self.trailing],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.object_rows, *self.trailing]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": codecs,
            "attributes": {},
            "storage_transformers": [],
        }


def _bytes_codec(dtype: str) -> dict[str, Any]:
    # A single byte has no order, and zarr-python writes none.
    return {"name": "bytes"} if np.dtype(dtype).itemsize == 1 else _BYTES


def field_array(field: Field, chunking: Chunking) -> ArraySpec:
    """Return the array that holds `field`."""
    return ArraySpec(field.path, field.level, field.dtype, field.trailing, *chunking.rows(field.level))


def meta_arrays(chunking: Chunking) -> tuple[ArraySpec, ...]:
    """Return the arrays of `meta/`, in the order in which a commit extends them.

    `samples_mask` is last, see there.
    """
    system, atom = chunking.rows(Level.SYSTEM), chunking.rows(Level.ATOM)
    return (
        ArraySpec("meta/atoms_mask", Level.ATOM, "bool", (), *atom),
        ArraySpec("meta/edges_mask", Level.EDGE, "bool", (), *atom),
        ArraySpec("meta/edges_ptr", Level.SYSTEM, "int64", (), *system),
        ArraySpec("meta/atoms_ptr", Level.SYSTEM, "int64", (), *system),
        ArraySpec(SAMPLES_MASK, Level.SYSTEM, "bool", (), *system),
    )


def root_document(fields: Sequence[Field], num_samples: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the root's zarr.json, whose `num_samples` alone says what exists.

    Raises:
        StoreError: `attributes` has a name that is the layout's own.
    """
    clash = sorted(RESERVED_ATTRIBUTES & attributes.keys())
    if clash:
        own = ", ".join(sorted(RESERVED_ATTRIBUTES))
        raise StoreError(f"attribute {clash[0]!r} was given for a store; {own} are the layout's own. Rename it.")
    levels: dict[str, dict[str, str]] = {group: {} for group in Group}
    for field in fields:
        levels[field.group][field.name] = str(field.level)
    return group_document(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "num_samples": num_samples,
            "fields": {"core": levels[Group.CORE], "custom": levels[Group.CUSTOM]},
            "labels": levels[Group.LABELS],
            **attributes,
        }
    )


def group_document(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a group's zarr.json."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def consolidated(root: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the root document with the documents of all members inside, so that opening a store is one read."""
    inline = {"kind": "inline", "must_understand": False, "metadata": {path: dict(members[path]) for path in sorted(members)}}
    return {**root, "consolidated_metadata": inline}


def group_names(fields: Iterable[Field]) -> tuple[str, ...]:
    """Return the groups of a store; the first three are always there, since the other reader asks for them."""
    names = ["meta", "core", "custom"]
    if any(field.group is Group.LABELS for field in fields):
        names.append("labels")
    return tuple(names)


def check_fields(fields: Sequence[Field]) -> tuple[Field, ...]:
    """Return `fields` in order, each checked to be as the table has it, at atom or system level, once.

    A sink also stores keys that a user put on a batch: a name that the table does not know, declared by the caller in the group `custom`.

    Raises:
        FieldError: otherwise.
    """
    seen: set[str] = set()
    for field in fields:
        of_caller = field.name not in FIELDS and field.group is Group.CUSTOM
        if of_caller and (not _NAME.fullmatch(field.name) or np.dtype(field.dtype).kind not in "biuf"):
            seen_one = f"field {field.name!r} of {field.dtype}"
            raise FieldError(f"{seen_one} cannot be stored: names are letters, digits and _, values numbers or bool. Rename or convert it.")
        if FIELDS.get(field.name) != field and not of_caller:
            raise FieldError(f"field {field.name!r} is not in the table of campaign/fields.py. Declare it there, or leave it out.")
        if field.level is Level.EDGE:
            raise FieldError(f"field {field.name!r} is per edge; a store holds fields per atom and per system. Leave it out.")
        if field.name in seen:
            raise FieldError(f"field {field.name!r} is named twice. Name each field once.")
        seen.add(field.name)
    return tuple(fields)
