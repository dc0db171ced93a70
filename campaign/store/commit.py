"""The arrays of a store and the commit that extends them: fields, then pointers, then `num_samples`. Knows nothing of threads."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from campaign.errors import StoreExistsError
from campaign.fields import Field, Level
from campaign.store.arrays import GrowingArray
from campaign.store.csr import pointers
from campaign.store.durable import DurableStore, make_folder_durably, publish_folder, staging_name
from campaign.store.layout import SAMPLES_MASK, ArraySpec, Chunking, field_array, group_document, group_names, meta_arrays, root_document
from campaign.store.targets import Target, describe, encode_document, get_bytes, local_path, open_target, run, set_all


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
        self._columns = {field.name: GrowingArray(field_array(field, chunking)) for field in fields}
        # A pointer array has one entry more than what it counts: `write_empty` writes the first, 0.
        self._meta = {spec.path: GrowingArray(spec, n_zeros=spec.path.endswith("_ptr")) for spec in meta_arrays(chunking)}

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of files to which rows can still be added: what the next commit, however small, writes again."""
        return sum(array.unfinished_bytes for array in (*self._columns.values(), *self._meta.values()))

    def commit(self, batches: Sequence[tuple[NDArray[np.int64], Mapping[str, NDArray[Any]]]]) -> None:
        """Add systems: fields, then pointers, then `num_samples`. Each step is durable before the next one begins."""
        if not batches:
            return
        counts = np.concatenate([counts for counts, _ in batches])
        n_systems, n_atoms = self.n_systems + len(counts), self._n_atoms + int(counts.sum())
        n_rows = {Level.SYSTEM: n_systems, Level.ATOM: n_atoms}
        fields = [partial(array.extend, [values[name] for _, values in batches]) for name, array in self._columns.items()]
        set_all(self._store, [*fields, *(_document(array.spec, n_rows[array.spec.level]) for array in self._columns.values())])
        rows = self._pointer_rows(counts)
        meta = [partial(self._meta[path].extend, [values]) for path, values in rows.items()]
        documents = {path: _document(self._meta[path].spec, self._meta[path].n_rows + len(values)) for path, values in rows.items()}
        # The length of samples_mask is what nvalchemi's reader takes for the number of systems.
        last = documents.pop(SAMPLES_MASK)
        set_all(self._store, [*meta, *documents.values()])
        set_all(self._store, [last])
        self._annotated = False
        self._write_root(n_systems)
        self.n_systems, self._n_atoms = n_systems, n_atoms

    def _pointer_rows(self, counts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {
            "meta/atoms_mask": np.ones(int(counts.sum()), dtype=bool),
            "meta/edges_ptr": np.zeros(len(counts), dtype=np.int64),
            "meta/atoms_ptr": self._n_atoms + pointers(counts)[1:],
            SAMPLES_MASK: np.ones(len(counts), dtype=bool),
        }

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
            self._write_root(self.n_systems)

    def _write_root(self, n_systems: int) -> None:
        set_all(self._store, [_setting("zarr.json", root_document(self._fields, n_systems, self._attributes))])

    def write_empty(self, with_root: bool = True) -> None:
        """Write all groups and arrays with no systems, and the root document unless the caller has written it."""
        arrays = [*self._columns.values(), *self._meta.values()]
        documents = [_setting(f"{name}/zarr.json", group_document()) for name in group_names(self._fields)]
        documents += [_document(array.spec, array.n_rows) for array in arrays]
        if with_root:
            documents.append(_setting("zarr.json", root_document(self._fields, 0, self._attributes)))
        set_all(self._store, [*(array.begin for array in arrays), *documents])


Job: TypeAlias = Callable[[], Mapping[str, bytes]]


def _setting(key: str, document: Mapping[str, Any]) -> Job:
    return lambda: {key: encode_document(document)}


def _document(spec: ArraySpec, n_rows: int) -> Job:
    return _setting(f"{spec.path}/zarr.json", spec.document(n_rows))


def create_empty(target: Target, fields: tuple[Field, ...], attributes: Mapping[str, Any], chunking: Chunking) -> Store:
    """Create a store with no systems and return it; of two that create the same one, one succeeds.

    Raises:
        StoreExistsError: something is there already.
    """
    path = local_path(target)
    if path is not None:
        with staged(path.absolute()) as staging:
            StoreBody(staging, fields, chunking, attributes).write_empty()
        return DurableStore(path.absolute())
    store = open_target(target)
    # An object store has no rename. The root document is claimed first, with a token that tells who won.
    ours = encode_document(root_document(fields, 0, {**attributes, "created_by": secrets.token_hex(8)}))
    run(store.set_if_not_exists("zarr.json", default_buffer_prototype().buffer.from_bytes(ours)))
    if get_bytes(store, "zarr.json") != ours:
        raise _exists(describe(target))
    StoreBody(store, fields, chunking, attributes).write_empty(with_root=False)
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
