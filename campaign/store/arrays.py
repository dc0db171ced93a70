"""One array of a store being written: whole chunks, always, so that nothing is ever read back.

Zarr would read a chunk, change some of its rows and write it again. Here the rows of the last chunk, which is not full yet, stay in
memory; each write encodes whole chunks from memory and replaces their files. Rows that a reader saw before have the same bytes after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr import AsyncArray
from zarr.abc.store import Store
from zarr.core.array_spec import ArrayConfig
from zarr.storage import StorePath

from campaign.errors import FieldError
from campaign.fields import Field, Level
from campaign.store.layout import ArraySpec

# Zarr arrays have a shape; writing beyond it is refused. The array object that encodes chunks is given this many chunks, the
# document on disk has the real number of rows.
_MANY_CHUNKS = 2**40


def encoder(store: Store, spec: ArraySpec) -> AsyncArray[Any]:
    """Return the array object that encodes and stores whole chunks of `spec`, whatever the number of rows on disk."""
    document = spec.document(_MANY_CHUNKS * spec.object_rows)
    # A chunk of zeros is stored like any other: a file that is missing is then always damage, never zeros.
    config = ArrayConfig(order="C", write_empty_chunks=True)
    array = AsyncArray.from_dict(StorePath(store, spec.path), document)
    return AsyncArray(array.metadata, array.store_path, config=config)


async def write_objects(array: AsyncArray[Any], spec: ArraySpec, first_object: int, rows: NDArray[Any]) -> None:
    """Write `rows` from the beginning of file number `first_object` on; the last file is padded with zeros."""
    n_objects = -(-len(rows) // spec.object_rows)
    if not n_objects:
        return
    block = np.zeros((n_objects * spec.object_rows, *spec.trailing), dtype=spec.numpy_dtype)
    block[: len(rows)] = rows
    begin = first_object * spec.object_rows
    await array.setitem((slice(begin, begin + len(block)), ...), block)


class GrowingArray:
    """An array to which rows are added and whose last, partial chunk stays in memory. It begins with `n_zeros` rows of zeros."""

    def __init__(self, store: Store, spec: ArraySpec, n_zeros: int = 0) -> None:
        self.spec = spec
        self.n_rows = int(n_zeros)
        self._array = encoder(store, spec)
        self._tail = np.zeros((self.n_rows, *spec.trailing), dtype=spec.numpy_dtype)

    async def write_tail(self) -> None:
        """Write the rows with which the array begins."""
        await write_objects(self._array, self.spec, 0, self._tail)

    async def extend(self, parts: Sequence[NDArray[Any]]) -> None:
        """Add the rows of `parts`. If this raises, the rows that were there before are intact on disk."""
        if not any(len(part) for part in parts):
            return
        rows = np.concatenate([self._tail, *parts])
        first = self.n_rows - len(self._tail)
        await write_objects(self._array, self.spec, first // self.spec.object_rows, rows)
        self.n_rows = first + len(rows)
        self._tail = rows[len(rows) - self.n_rows % self.spec.object_rows :].copy()


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
    # Copied: the caller may change its buffers while the rows wait for the background thread.
    return np.array(array, dtype=declared, order="C")


async def gather(*coroutines: Any) -> None:
    """Run coroutines together; when several fail, the first error is raised after all have ended."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
