"""The sink that lasts: a CSR store on disk, in memory or behind a URL, which any Zarr reader opens."""

from __future__ import annotations

import atexit
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from campaign.data import Batch
from campaign.dynamics.sinks.base import DataSink
from campaign.dynamics.sinks.handover import DeviceHandover
from campaign.dynamics.sinks.stored import (
    Row,
    Rows,
    check_capacity,
    check_room,
    check_rows,
    rows_of,
    selected_systems,
    transient_keys,
)
from campaign.errors import ArgumentError, EmptySinkError, FieldError, StoreError, StoreNotFoundError
from campaign.fields import FIELDS, NEIGHBOR_KEYS, Field, Group, Level
from campaign.store.arrays import check_columns
from campaign.store.layout import ATOM_CHUNK_ROWS, SYSTEM_CHUNK_ROWS, Chunking
from campaign.store.reader import StoreReader
from campaign.store.targets import describe, local_path, mapped_errors, open_target, run
from campaign.store.writer import ShardWriter

__all__ = ["ZarrData"]

DTYPES_ATTRIBUTE: Final = "batch_dtypes"
"""Attribute of the store with the dtypes of the batch; those of the table of fields, which the store has, are never narrower."""

_CONFIG: Final[dict[str, float]] = {"flush_s": 5.0, "system_chunk_rows": SYSTEM_CHUNK_ROWS, "atom_chunk_rows": ATOM_CHUNK_ROWS}

_TORCH_DTYPES: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.float32, torch.float64),
    )
}


class ZarrData(DataSink):
    """Up to `capacity` systems in a new store: at a local path, an `s3://` or `gs://` URL, or in a Zarr store object (a dict is memory).

    The first write creates the store with the fields of its batch. A write hands a copy of the systems to a background thread and waits
    only when much is waiting already, see `waited_s`; what it costs does not depend on what is stored. From a CUDA device the copies are
    queued, and the host goes on before they are made. Systems are on disk when `flush`, `close` or `read` returns, or a few seconds later.
    What went wrong there, the next call tells. A store has one writer, ever: over an existing store this is a reader, which sees what is
    committed, until `zero` removes it. Stores left open are closed when the program ends.

    Neighbour data is not stored. A field of another level per edge is refused.

    Args:
        store: where to.
        capacity: systems that fit.
        config: `flush_s`, seconds after which systems are written at the latest; `system_chunk_rows`, `atom_chunk_rows`, rows of a chunk.
        fields: what to store, others are left out; by default everything. Names are looked up in the table of fields. With them the store
            is created at once.
        attributes: root attributes of the store.

    Raises:
        ArgumentError: `capacity` is below 1, or `config` has an unknown key.
        FieldError: `fields` has a name that the table does not know.
        StoreExistsError: `fields` are given and something is there already.
        StoreError: `store` is no place for a store.

    >>> batch = Batch.from_arrays([2, 1], {"positions": torch.zeros(3, 3)}, {"system_id": torch.tensor([[7], [8]])})
    >>> place: dict[str, bytes] = {}
    >>> with ZarrData(place, capacity=100) as sink:
    ...     sink.write(batch)
    >>> ZarrData(place).read().system_id.flatten().tolist()
    [7, 8]
    """

    def __init__(
        self,
        store: str | Path | Store | dict[str, Any],
        capacity: int = 1_000_000,
        config: Mapping[str, Any] | None = None,
        *,
        fields: Sequence[Field | str] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self._target: str | Path | Store = MemoryStore(store) if isinstance(store, dict) else store
        local_path(self._target)  # refuses what is no place for a store
        self._where = f"ZarrData at {describe(self._target)}"
        self._capacity = check_capacity(capacity)
        self._config = _checked_config(config)
        self._attributes = dict(attributes or {})
        self._fields = None if fields is None else tuple(_declared(field) for field in fields)
        self._writer: ShardWriter | None = None
        self._handover: DeviceHandover | None = None
        self._rows: Rows = {}
        self._n_written = 0
        if self._fields is not None:
            self._writer = self._create(self._fields, self._attributes)

    def write(self, batch: Batch, mask: Bool[Tensor, " N"] | None = None) -> None:
        """Hand systems over to be stored; see `DataSink.write`.

        Raises:
            StoreExistsError: something that this sink did not create is there.
            StoreError, ResourceError: an earlier write could not be carried out.
        """
        systems = selected_systems(batch, mask)
        if not len(systems):
            return
        check_room(self._where, len(systems), len(self), self._capacity)
        left_out = transient_keys(batch) | NEIGHBOR_KEYS
        if self._fields is not None:
            left_out |= {key for key, _ in batch} - {field.name for field in self._fields}
        rows = rows_of(batch, left_out)
        if rows != self._rows or self._writer is None:
            self._prepare(rows)
        self._hand_over(batch if len(systems) == batch.num_graphs else batch.index_select(systems, exclude_keys=left_out), rows)
        self._rows = rows
        self._n_written += len(systems)

    def _prepare(self, rows: Rows) -> None:
        """Check rows that were not met before, and create the store if this is the first write."""
        if self._rows:
            check_rows(self._where, self._rows, rows)
        fields = self._fields or tuple(_field_for(name, row) for name, row in rows.items())
        nothing = {name: np.empty((0, *row.trailing), _checked_dtype(name, row)) for name, row in rows.items()}
        check_columns(fields, np.zeros(0, np.int64), nothing, self._where)
        if self._writer is None:
            dtypes = {name: str(row.dtype).removeprefix("torch.") for name, row in rows.items()}
            self._writer = self._create(fields, {DTYPES_ATTRIBUTE: dtypes, **self._attributes})

    def _hand_over(self, chosen: Batch, rows: Rows) -> None:
        """Give all systems of a batch to the writer, which copies them, or queue copies on the device."""
        if self._writer is None:
            return  # never: `_prepare` creates it
        n_atoms, tensors = chosen.atom_segments.lengths, {name: chosen[name].detach() for name in rows}
        if self._handover is None and chosen.device.type == "cuda":
            self._handover = DeviceHandover(self._writer.append)
        if self._handover is not None:  # for batches in main memory too, once it is there: order is that of writing
            self._handover.put(n_atoms, tensors)
        else:
            self._writer.append(n_atoms, {name: tensor.cpu().numpy() for name, tensor in tensors.items()})

    def read(self) -> Batch:
        """Return all systems as a batch in main memory, in the dtypes in which they were written; see `DataSink.read`.

        Text fields of a store are left out, since a batch holds numbers.

        Raises:
            StoreDamagedError: the store was changed or cut.
            StoreError, ResourceError: an earlier write could not be carried out.
        """
        self.flush()
        reader = self._open()
        if reader is None or not reader.n_systems:
            raise EmptySinkError(f"{self._where} was read while empty; a sink is read after something was written. Write to it first.")
        fields = [field for field in reader.fields if field.group is not Group.LABELS]
        columns = reader.read(names=[field.name for field in fields])
        dtypes = reader.attributes.get(DTYPES_ATTRIBUTE, {})
        by_level: dict[Level, dict[str, Tensor]] = {Level.ATOM: {}, Level.SYSTEM: {}}
        for field in fields:
            tensor = torch.from_numpy(np.ascontiguousarray(columns[field.name]))
            by_level[field.level][field.name] = tensor.to(_TORCH_DTYPES.get(dtypes.get(field.name), tensor.dtype))
        return Batch.from_arrays(reader.n_atoms(), by_level[Level.ATOM], by_level[Level.SYSTEM])

    def zero(self) -> None:
        """Remove the store and all that is in it.

        Raises:
            StoreError: what is there is no store, and is left alone; or it cannot be removed.
        """
        if self._writer is not None:
            self._writer.abandon()
            if self._handover is not None:
                self._handover.close()
            _OPEN_SINKS.discard(self)
            self._writer, self._handover, self._rows, self._n_written = None, None, {}, 0
        self._remove()
        if self._fields is not None:
            self._writer = self._create(self._fields, self._attributes)

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Add root attributes that are known late; they are written with the next systems, at the latest by `close`.

        Raises:
            StoreError: the store is closed, or was not created yet because nothing was written.
        """
        if self._writer is None:
            raise StoreError(f"{self._where} has no store yet, which the first write creates. Write first, or give `fields`.")
        self._writer.annotate(attributes)

    def flush(self) -> None:
        """Return when everything written is on disk, or wherever the store is.

        Raises:
            StoreError, ResourceError: it could not be written.
        """
        if self._writer is not None and self in _OPEN_SINKS:
            if self._handover is not None:
                self._handover.finish()
            self._writer.flush()

    def close(self) -> None:
        """Flush and end the background thread. What was written can be read; nothing more can be written.

        Raises:
            StoreError, ResourceError: something could not be written.
        """
        if self._writer is None:
            return
        _OPEN_SINKS.discard(self)
        if self._handover is not None:
            self._handover.close()
        self._writer.close()
        if self._handover is not None:
            self._handover.finish()

    def __len__(self) -> int:
        if self._writer is not None:
            return self._n_written
        reader = self._open()
        return 0 if reader is None else reader.n_systems

    @property
    def capacity(self) -> int:
        """Number of systems that fit."""
        return self._capacity

    @property
    def waited_s(self) -> float:
        """Seconds for which writes waited because too much was waiting for the disk."""
        if self._handover is not None:
            return self._handover.waited_s
        return 0.0 if self._writer is None else self._writer.waited_s

    def _create(self, fields: Sequence[Field], attributes: Mapping[str, Any]) -> ShardWriter:
        chunking = Chunking.of_shards(int(self._config["system_chunk_rows"]), int(self._config["atom_chunk_rows"]))
        writer = ShardWriter.create(self._target, fields, attributes, float(self._config["flush_s"]), chunking)
        _OPEN_SINKS.add(self)
        return writer

    def _open(self) -> StoreReader | None:
        try:
            return StoreReader.open(self._target)
        except StoreNotFoundError:
            return None

    def _remove(self) -> None:
        path = local_path(self._target)
        is_store = self._open() is not None
        with mapped_errors(self._where, "removing"):
            if path is None:
                if is_store:
                    run(open_target(self._target).clear())
            elif is_store:
                shutil.rmtree(path)
            elif path.exists():
                raise StoreError(f"{self._where} was to be emptied, but what is there is no store; it was left alone. Give another place.")


_OPEN_SINKS: Final[set[ZarrData]] = set()
"""Sinks whose writers were not closed yet."""


def _close_all() -> None:
    raised: Exception | None = None
    while _OPEN_SINKS:
        try:
            _OPEN_SINKS.pop().close()
        except Exception as error:
            raised = raised or error
    if raised is not None:
        raise raised


# A script that never closes its sink must not lose its last seconds of work. Plain atexit functions run when the thread pools that zarr
# writes with are closed already; these run before, where Python has them.
getattr(threading, "_register_atexit", atexit.register)(_close_all)


def _checked_config(config: Mapping[str, Any] | None) -> dict[str, float]:
    unknown = sorted((config or {}).keys() - _CONFIG.keys())
    if unknown:
        raise ArgumentError(f"config of a ZarrData has {unknown[0]!r}; it has {', '.join(_CONFIG)}. Leave it out.")
    return {**_CONFIG, **(config or {})}


def _declared(field: Field | str) -> Field:
    if isinstance(field, Field):
        return field
    if field not in FIELDS:
        raise FieldError(f"field {field!r} is not in the table of campaign/fields.py. Give a Field that declares it, or leave it out.")
    return FIELDS[field]


def _field_for(name: str, row: Row) -> Field:
    """Return the field under which a key of a batch is stored.

    Raises:
        FieldError: it cannot be stored.
    """
    if row.level is Level.EDGE:
        raise FieldError(f"{name!r} is per edge; a store holds fields per atom and per system. Nothing was written. Delete the key first.")
    if "/" in name:
        raise FieldError(f"{name!r} has a slash, which would be a folder in a store. Nothing was written. Rename the key.")
    known = FIELDS.get(name)
    dtype = _checked_dtype(name, row)
    if known is None:
        return Field(name, row.level, dtype, row.trailing, "", "key of a batch")
    if known.level is not row.level or known.trailing != row.trailing or not np.can_cast(dtype, known.dtype, "safe"):
        declared = f"{known.dtype}{list(known.trailing)} per {known.level}"
        raise FieldError(f"{name!r} is {row}; the table of fields declares {declared}. Nothing was written. Convert or rename the key.")
    return known


def _checked_dtype(name: str, row: Row) -> str:
    dtype = str(row.dtype).removeprefix("torch.")
    if dtype not in _TORCH_DTYPES:
        raise FieldError(f"{name!r} is {row}; a store holds {', '.join(_TORCH_DTYPES)}. Nothing was written. Convert the key.")
    return dtype
