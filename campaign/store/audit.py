"""Looking at everything that a store holds: every chunk is decoded, every array compared with the table of fields.

An audit collects what it finds instead of raising, so one damaged chunk does not hide another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from campaign.errors import StoreDamagedError, StoreError
from campaign.fields import FIELDS, Field, Level
from campaign.store.layout import Chunking, meta_arrays
from campaign.store.reader import READ_BYTES, StoreReader
from campaign.store.targets import Target, describe


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


def audit_store(target: Target, fields: Sequence[Field], advice: str) -> Audit:
    """Decode all committed rows of a store that must have exactly those of `fields` that its format version has.

    Each finding carries `advice`.

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
    except StoreError as error:
        return Audit(0, 0, (Finding(str(error), where, advice),))
    findings = [Finding(text, where, advice) for text in _field_faults(reader, fields)]
    try:
        differing = reader.differing_copies()
        findings += [Finding("It is not what the root's zarr.json says it is.", f"{where}/{path}/zarr.json", advice) for path in differing]
    except StoreError as error:
        findings.append(Finding(str(error), where, advice))
    n_bytes = 0
    n_atoms: int | None = None
    try:
        n_atoms = int(reader.atoms_ptr[-1])
    except StoreError as error:
        findings.append(Finding(str(error), f"{where}/meta/atoms_ptr", advice))
    for path, level, is_pointer in _arrays(reader):
        n_rows = n_atoms if level is Level.ATOM else reader.n_systems + is_pointer if level is Level.SYSTEM else 0
        # Without pointers nobody knows how many atom rows are committed: look at all there are.
        faults, seen = _audit_array(reader, path, n_rows)
        n_bytes += seen
        findings += [Finding(text, f"{where}/{path}", advice) for text in faults]
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


def _audit_array(reader: StoreReader, path: str, n_rows: int | None) -> tuple[list[str], int]:
    try:
        array = reader.array(path)
    except StoreError as error:
        return [str(error)], 0
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
        return [*faults, f"It has {array.shape[0]} rows; {n_rows} are committed."], 0
    n_bytes = 0
    file_rows = (array.shards or array.chunks)[0]
    row_bytes = max(int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize, 1)
    # Whole chunks, a bounded number of bytes at a time, never across a file: then each damaged file is named once.
    step = max(READ_BYTES // row_bytes // array.chunks[0], 1) * array.chunks[0]
    for begin in range(0, n_rows, file_rows):
        end = min(begin + file_rows, n_rows)
        try:
            for start in range(begin, end, step):
                block = reader.read_block(path, start, min(start + step, end))
                n_bytes += block.nbytes
                if name.endswith("_mask") and group == "meta" and not block.all():
                    faults.append("Rows are marked as deleted; nothing of ours deletes rows.")
        except StoreDamagedError as error:
            faults.append(str(error))
        except StoreError as error:
            return [*faults, str(error)], n_bytes
    return faults, n_bytes
