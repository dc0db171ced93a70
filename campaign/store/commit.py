"""The arrays of a store and the commit that extends them: fields, then pointers, then `num_samples`. Knows nothing of threads."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from campaign.errors import StoreExistsError
from campaign.fields import Field
from campaign.store.arrays import GrowingArray, gather
from campaign.store.csr import pointers
from campaign.store.durable import DurableStore, make_folder_durably, publish_folder, staging_name
from campaign.store.layout import Chunking, field_array, group_document, group_names, meta_arrays, root_document
from campaign.store.targets import Target, describe, encode_document, get_bytes, local_path, open_target, run


class StoreBody:
    """All arrays of one store that is being written."""

    def __init__(self, store: Store, fields: tuple[Field, ...], chunking: Chunking, attributes: Mapping[str, Any]) -> None:
        self.n_systems = 0
        self._n_atoms = 0
        self._store = store
        self._fields = fields
        self._chunking = chunking
        self._attributes = dict(attributes)
        self._annotated = False
        self._columns = {field.name: GrowingArray(store, field_array(field, chunking)) for field in fields}
        # A pointer array has one entry more than what it counts: `write_empty` writes the first, 0.
        self._meta = {spec.path: GrowingArray(store, spec, n_zeros=spec.path.endswith("_ptr")) for spec in meta_arrays(chunking)}

    def fills_chunk(self, n_systems: int, n_atoms: int) -> bool:
        """Tell whether that much more fills a chunk of system or atom rows."""
        system_rows, atom_rows = self._chunking.system_rows, self._chunking.atom_rows
        return self.n_systems % system_rows + n_systems >= system_rows or self._n_atoms % atom_rows + n_atoms >= atom_rows

    def commit(self, batches: Sequence[tuple[NDArray[np.int64], Mapping[str, NDArray[Any]]]]) -> None:
        """Add systems: fields, then pointers, then `num_samples`."""
        if not batches:
            return
        counts = np.concatenate([counts for counts, _ in batches])
        columns = list(self._columns.items())
        run(gather(*(column.extend([values[name] for _, values in batches]) for name, column in columns)))
        run(gather(*(self._write_shape(column) for _, column in columns)))
        n_systems, n_atoms = self.n_systems + len(counts), self._n_atoms + int(counts.sum())
        for path, values in self._pointer_rows(counts).items():
            run(self._extend_meta(path, values))
        self._annotated = False
        run(self._set("zarr.json", root_document(self._fields, n_systems, self._attributes)))
        self.n_systems, self._n_atoms = n_systems, n_atoms

    def _pointer_rows(self, counts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {
            "meta/atoms_mask": np.ones(int(counts.sum()), dtype=bool),
            "meta/edges_mask": np.zeros(0, dtype=bool),
            "meta/edges_ptr": np.zeros(len(counts), dtype=np.int64),
            "meta/atoms_ptr": self._n_atoms + pointers(counts)[1:],
            "meta/samples_mask": np.ones(len(counts), dtype=bool),
        }

    async def _extend_meta(self, path: str, values: NDArray[Any]) -> None:
        array = self._meta[path]
        if not len(values):
            return
        await array.extend([values])
        await self._write_shape(array)

    async def _write_shape(self, array: GrowingArray) -> None:
        await self._set(f"{array.spec.path}/zarr.json", array.spec.document(array.n_rows))

    async def _set(self, key: str, document: Mapping[str, Any]) -> None:
        await self._store.set(key, default_buffer_prototype().buffer.from_bytes(encode_document(document)))

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Add root attributes; the next commit or `write_annotations` writes them."""
        merged = {**self._attributes, **attributes}
        root_document(self._fields, 0, merged)
        # One assignment: the background thread may be reading the old ones.
        self._attributes = merged
        self._annotated = True

    def write_annotations(self) -> None:
        """Write attributes that no commit has written."""
        if self._annotated:
            self._annotated = False
            self.write_root()

    def write_root(self) -> None:
        """Write the root document."""
        run(self._set("zarr.json", root_document(self._fields, self.n_systems, self._attributes)))

    async def write_empty(self) -> None:
        """Write all groups and arrays with no systems; the root document is left to the caller."""
        documents = {f"{name}/zarr.json": group_document() for name in group_names(self._fields)}
        arrays = [*self._columns.values(), *self._meta.values()]
        documents |= {f"{array.spec.path}/zarr.json": array.spec.document(array.n_rows) for array in arrays}
        await gather(*(array.write_tail() for array in arrays))
        await gather(*(self._set(key, document) for key, document in documents.items()))


def create_empty(target: Target, fields: tuple[Field, ...], attributes: Mapping[str, Any], chunking: Chunking) -> Store:
    """Create a store with no systems and return it; of two that create the same one, one succeeds.

    Raises:
        StoreExistsError: something is there already.
    """
    path = local_path(target)
    if path is not None:
        with staged(path.absolute()) as staging:
            body = StoreBody(staging, fields, chunking, attributes)
            run(body.write_empty())
            body.write_root()
        return DurableStore(path.absolute())
    store = open_target(target)
    # An object store has no rename. The root document is claimed first, with a token that tells who won.
    ours = encode_document(root_document(fields, 0, {**attributes, "created_by": secrets.token_hex(8)}))
    run(store.set_if_not_exists("zarr.json", default_buffer_prototype().buffer.from_bytes(ours)))
    if get_bytes(store, "zarr.json") != ours:
        raise _exists(describe(target))
    run(StoreBody(store, fields, chunking, attributes).write_empty())
    return store


@contextmanager
def staged(path: Path) -> Iterator[DurableStore]:
    """Yield a store in a sibling folder, published as `path` when the block ends well and removed when it does not.

    Raises:
        StoreExistsError: something is at `path` already.
    """
    if path.exists():
        raise _exists(str(path))
    staging = staging_name(path)
    try:
        make_folder_durably(staging)
        yield DurableStore(staging)
        try:
            publish_folder(staging, path)
        except FileExistsError as error:
            raise _exists(str(path)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _exists(where: str) -> StoreExistsError:
    seen = f"cannot create a store at {where}: something is there"
    return StoreExistsError(f"{seen}. A store is created once; remove it or choose another place.")
