"""Looking at everything that a store holds: every chunk is decoded, every array compared with the table of fields.

An audit collects what it finds instead of raising, so one damaged chunk does not hide another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from zarr.abc.store import Store

from campaign.errors import StoreError
from campaign.fields import FIELDS, Field, Level
from campaign.store.layout import Chunking, group_names, meta_arrays
from campaign.store.reader import READ_BYTES, StoreReader
from campaign.store.targets import Target, describe, get_document, open_target

_MOST_THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be: what was seen, where, and what to do about it."""

    what: str
    where: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.advice}"


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit saw: how much was decoded, and what was wrong."""

    n_systems: int
    n_bytes: int
    findings: tuple[Finding, ...]


OnFile = Callable[[int, int], None]
"""Called with how many files of a store were looked at, and how many there are."""


def audit_store(target: Target, fields: Sequence[Field], advice: str, on_file: OnFile | None = None) -> Audit:
    """Decode every chunk of a store that must have exactly those of `fields` that its format version has, on all cores.

    Looked at is every file that has committed rows, to its end: the chunks of an output shard behind the last row too. Each finding carries
    `advice`. Memory is a few files, whatever the size of the store.

    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> from campaign.store.writer import write_store
    >>> target = MemoryStore()
    >>> write_store(target, [FIELDS["energy"]], np.array([2]), {"energy": np.array([[-1.0]])})
    >>> audit_store(target, [FIELDS["energy"]], "").findings
    ()
    """
    where = describe(target)
    try:
        reader = StoreReader.open(target)
        store = open_target(target, read_only=True)
    except StoreError as error:
        return Audit(0, 0, (Finding(str(error), where, advice),))
    findings = [Finding(text, where, advice) for text in (*_field_faults(reader, fields), *_group_faults(store, where, reader))]
    try:
        differing = reader.differing_copies()
        findings += [Finding("It is not what the root's zarr.json says it is.", f"{where}/{path}/zarr.json", advice) for path in differing]
    except StoreError as error:
        findings.append(Finding(str(error), where, advice))
    n_atoms: int | None = None
    try:
        n_atoms = int(reader.atoms_ptr[-1])
    except StoreError as error:
        findings.append(Finding(str(error), f"{where}/meta/atoms_ptr", advice))
    files: list[tuple[str, int, int]] = []
    n_bytes = 0
    for path, level, is_pointer in _arrays(reader):
        # Without pointers nobody knows how many atom rows are committed: look at all there are.
        n_rows = n_atoms if level is Level.ATOM else reader.n_systems + is_pointer if level is Level.SYSTEM else 0
        faults, parts = _document_faults(reader, path, n_rows)
        findings += [Finding(text, f"{where}/{path}", advice) for text in faults]
        files += parts
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        for at, (faults, seen) in enumerate(pool.map(lambda part: _audit_file(reader, *part), files)):
            findings += [Finding(text, f"{where}/{files[at][0]}", advice) for text in faults]
            n_bytes += seen
            if on_file is not None:
                on_file(at + 1, len(files))
    return Audit(reader.n_systems, n_bytes, tuple(findings))


def _arrays(reader: StoreReader) -> Iterator[tuple[str, Level, bool]]:
    for spec in meta_arrays(Chunking()):
        yield spec.path, spec.level, spec.path.endswith("_ptr")
    for field in reader.fields:
        yield field.path, field.level, False


def _field_faults(reader: StoreReader, fields: Sequence[Field]) -> Iterator[str]:
    present, wanted = {field.name for field in reader.fields}, {field.name for field in fields if field.since <= reader.format_version}
    for name in sorted(wanted - present):
        yield f"The field {name!r} is missing."
    for name in sorted(present - wanted):
        yield f"The field {name!r} does not belong here."


def _group_faults(store: Store, where: str, reader: StoreReader) -> Iterator[str]:
    for name in group_names(reader.fields):
        try:
            document = get_document(store, f"{name}/zarr.json", where)
        except StoreError as error:
            yield str(error)
            continue
        if document is None or document.get("node_type") != "group":
            yield f"{name}/zarr.json is missing or no document of a group; other programs cannot open the store."


def _document_faults(reader: StoreReader, path: str, n_rows: int | None) -> tuple[list[str], list[tuple[str, int, int]]]:
    """What is wrong with an array as a whole, and its files: path, first row, last row + 1."""
    try:
        array = reader.array(path)
    except StoreError as error:
        return [str(error)], []
    faults = []
    group, name = path.split("/")
    field = FIELDS.get(name) if group != "meta" else None
    if field is not None:
        dtype = "string" if array.dtype.kind not in "biuf" else str(array.dtype)
        if (dtype, array.shape[1:]) != (field.dtype, field.trailing):
            faults.append(f"Rows are {dtype}{list(array.shape[1:])}; {field.dtype}{list(field.trailing)} is declared.")
    if n_rows is None:
        n_rows = array.shape[0]
    if array.shape[0] < n_rows:
        return [*faults, f"It has {array.shape[0]} rows; {n_rows} are committed."], []
    file_rows = (array.shards or array.chunks)[0]
    return faults, [(path, begin, min(begin + file_rows, n_rows)) for begin in range(0, n_rows, file_rows)]


def _audit_file(reader: StoreReader, path: str, begin: int, end: int) -> tuple[list[str], int]:
    """Faults of one file of an array, and the bytes of its committed rows."""
    array = reader.array(path)
    row_bytes = max(int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize, 1)
    is_mask = path.startswith("meta/") and path.endswith("_mask")
    try:
        is_checked = reader.check_file(path, begin // (array.shards or array.chunks)[0])
        if is_mask or not is_checked:
            # Whole chunks, a bounded number of bytes at a time.
            step = max(READ_BYTES // row_bytes // array.chunks[0], 1) * array.chunks[0]
            for start in range(begin, end, step):
                if is_mask and not reader.read_block(path, start, min(start + step, end)).all():
                    return ["Rows are marked as deleted; nothing of ours deletes rows."], 0
                if not is_mask:
                    reader.read_block(path, start, min(start + step, end))
    except StoreError as error:
        return [str(error)], 0
    return [], (end - begin) * row_bytes
