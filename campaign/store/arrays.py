"""One array of a store being written: whole files, always, so that nothing is ever read back.

Zarr would read a chunk, change some of its rows and write it again. Here the rows of the last chunk, which is not full yet, and the
encoded chunks of the last file stay in memory; each write replaces whole files. Rows that a reader saw before have the same bytes after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from campaign.errors import FieldError
from campaign.fields import Field, Level
from campaign.store.chunk_codec import codec_of
from campaign.store.layout import ArraySpec
from campaign.store.targets import set_all


def write_array(store: Store, spec: ArraySpec, rows: NDArray[Any]) -> None:
    """Write all rows of an array, in whole files; the last chunk is padded with zeros."""
    set_all(store, [lambda: GrowingArray(spec).extend([rows])])


class GrowingArray:
    """An array to which rows are added. It begins with `n_zeros` rows of zeros, in file number `first_object`."""

    def __init__(self, spec: ArraySpec, n_zeros: int = 0, first_object: int = 0) -> None:
        self.spec = spec
        self.n_rows = first_object * spec.object_rows + int(n_zeros)
        self.unfinished_bytes = 0
        """Bytes of the last file while rows can still be added to it: what the next rows make us write again."""
        self._chunks: list[bytes] = []
        self._tail = np.zeros((int(n_zeros), *spec.trailing), dtype=spec.numpy_dtype)

    def begin(self) -> dict[str, bytes]:
        """Return the file, by key, with the rows with which the array begins; none if it begins with none."""
        return self._files(self._tail) if len(self._tail) else {}

    def extend(self, parts: Sequence[NDArray[Any]]) -> dict[str, bytes]:
        """Add the rows of `parts`; return the files to write, by key. They hold all the rows that files of these keys had before."""
        rows = np.concatenate([self._tail, *parts])
        return self._files(rows) if len(rows) > len(self._tail) else {}

    def _files(self, rows: NDArray[Any]) -> dict[str, bytes]:
        spec = self.spec
        first_object = (self.n_rows - len(self._tail)) // spec.object_rows
        codec = codec_of(spec)
        chunks = [*self._chunks, *codec.encode_all(rows)]
        groups = [chunks[at : at + spec.chunks_per_file] for at in range(0, len(chunks), spec.chunks_per_file)]
        files = {spec.chunk_key(first_object + number): codec.join(group) for number, group in enumerate(groups)}
        self.n_rows += len(rows) - len(self._tail)
        self._tail = rows[len(rows) - self.n_rows % spec.chunk_rows :].copy()
        whole = len(chunks) - bool(len(self._tail))
        self._chunks = chunks[whole - whole % spec.chunks_per_file : whole]
        self.unfinished_bytes = len(next(reversed(files.values()))) if self.n_rows % spec.object_rows else 0
        return files


def check_columns(
    fields: Sequence[Field], n_atoms: NDArray[np.int64], columns: Mapping[str, NDArray[Any]], where: str
) -> dict[str, NDArray[Any]]:
    """Return `columns` as the fields declare them, copied, for systems of `n_atoms` atoms.

    Raises:
        FieldError: a column is missing, unknown, of another length or shape, or of a dtype that cannot be held without loss.
    """
    known = [field.name for field in fields]
    missing = [name for name in known if name not in columns]
    unknown = sorted(columns.keys() - set(known))
    if missing or unknown:
        seen = " and ".join([*(f"{name!r} is missing" for name in missing), *(f"{name!r} is unknown" for name in unknown)])
        raise FieldError(f"write to {where}: {seen}. It takes exactly {', '.join(known)}. Nothing was written; give these.")
    counts = np.asarray(n_atoms)
    if counts.ndim != 1 or not np.can_cast(counts.dtype, np.int64, "safe") or (len(counts) and counts.min() < 0):
        seen = f"n_atoms is {counts.dtype}{list(counts.shape)}"
        raise FieldError(f"write to {where}: {seen}. It is one count of 0 or more per system. Nothing was written.")
    rows = {Level.SYSTEM: len(counts), Level.ATOM: int(counts.sum())}
    return {field.name: _checked(field, columns[field.name], rows[field.level], where) for field in fields}


def _checked(field: Field, values: Any, n_rows: int, where: str) -> NDArray[Any]:
    declared = np.dtype(np.dtypes.StringDType()) if field.dtype == "string" else np.dtype(field.dtype)
    array = np.asarray(values)
    shape = (n_rows, *field.trailing)
    # Copied: the caller may change its buffers while the rows wait for the background thread.
    if array.dtype == declared and array.shape == shape:
        return array.copy(order="C")
    if array.shape != shape:
        raise FieldError(
            f"write to {where}: {field.name!r} has shape {list(array.shape)}; {list(shape)} is needed, one row per {field.level}. "
            "Nothing was written."
        )
    if field.dtype == "string":
        is_text = array.dtype.kind in "UT" or all(isinstance(value, str) for value in array.flat)
        if not is_text:
            raise FieldError(f"write to {where}: {field.name!r} has dtype {array.dtype}; text is needed. Nothing was written.")
        return array.astype(np.dtypes.StringDType())
    if not np.can_cast(array.dtype, declared, "safe"):
        raise FieldError(
            f"write to {where}: {field.name!r} has dtype {array.dtype}; {declared} is needed, or one that fits in it. Nothing was written."
        )
    return np.array(array, dtype=declared, order="C")
