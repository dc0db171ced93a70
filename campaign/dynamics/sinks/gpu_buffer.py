"""The sink on the device: room for a fixed number of systems, allocated once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.sinks.base import DataSink
from campaign.dynamics.sinks.stored import (
    MATRIX_KEYS,
    Rows,
    check_capacity,
    check_room,
    check_rows,
    rows_of,
    selected_systems,
    transient_keys,
)
from campaign.errors import ArgumentError, EmptySinkError, MissingDeviceError, SinkFullError
from campaign.fields import NEIGHBOR_KEYS, Level

__all__ = ["GPUBuffer"]


class GPUBuffer(DataSink):
    """Up to `capacity` systems of at most `max_atoms` atoms and `max_edges` edges each, on a CUDA device.

    The first write allocates `capacity * max_atoms` atoms and `capacity * max_edges` edges with its fields; later writes allocate nothing
    that stays. Fields per edge are kept, neighbour lists among them, unless `max_edges` is 0; if only some of the batches have a neighbour
    list, none of the systems read has. Neighbour matrices are not kept, since their width changes with every rebuild.

    `device="cpu"` is allowed where it is asked for, so that code around a buffer can be tried without a GPU.

    Raises:
        ArgumentError: `capacity` or `max_atoms` is below 1, or `max_edges` below 0.
        MissingDeviceError: there is no such CUDA device, or the device is neither CUDA nor CPU (a RuntimeError).

    >>> batch = Batch.from_arrays([2, 1], {"positions": torch.zeros(3, 3)}, {"system_id": torch.tensor([[7], [8]])})
    >>> buffer = GPUBuffer(capacity=4, max_atoms=2, max_edges=0, device="cpu")
    >>> buffer.write(batch, mask=torch.tensor([False, True]))
    >>> buffer.write(batch)
    >>> buffer.drain().system_id.flatten().tolist(), len(buffer)
    ([8, 7, 8], 0)
    """

    def __init__(self, capacity: int, max_atoms: int, max_edges: int, device: torch.device | str = "cuda") -> None:
        self._capacity = check_capacity(capacity)
        if max_atoms < 1 or max_edges < 0:
            raise ArgumentError(
                f"a GPUBuffer was asked for with max_atoms={max_atoms} and max_edges={max_edges}; a system has at least 1 atom and 0 "
                "edges. Give the size of the largest system."
            )
        self._max_atoms = max_atoms
        self._max_edges = max_edges
        self._device = _checked_device(torch.device(device))
        self._buffer: Batch | None = None
        self._rows: Rows = {}

    def write(self, batch: Batch, mask: Bool[Tensor, " N"] | None = None) -> None:
        """Copy systems into the room that is left; see `DataSink.write`.

        Raises:
            SinkFullError: they do not all fit, or one has more atoms or edges than a system may have (a RuntimeError).
        """
        systems = selected_systems(batch, mask)
        if not len(systems):
            return
        check_room("this GPUBuffer", len(systems), len(self), self._capacity)
        left_out = self._left_out(batch)
        self._check_sizes("atoms", "max_atoms", batch.atom_segments.lengths[systems], self._max_atoms)
        rows = rows_of(batch, left_out | NEIGHBOR_KEYS)
        if len(self):
            check_rows("this GPUBuffer", self._rows, rows)
        chosen = batch.index_select(systems, exclude_keys=left_out)
        if any(chosen.level_of(key) is Level.EDGE for key, _ in chosen):
            self._check_sizes("edges", "max_edges", chosen.edge_segments.lengths, self._max_edges)
        if self._buffer is None or (not len(self) and (self._rows != rows or _neighbor_keys(self._buffer) != _neighbor_keys(chosen))):
            self._buffer, self._rows = self._allocate(chosen), rows
        # A list that only some systems have would say that the others have no neighbours.
        for one, other in ((self._buffer, chosen), (chosen, self._buffer)):
            for key in _neighbor_keys(one) - _neighbor_keys(other):
                del one[key]
        self._buffer.put(chosen, torch.ones(len(systems), dtype=torch.bool))

    def read(self) -> Batch:
        """Return a copy of all systems, on the device; see `DataSink.read`."""
        if self._buffer is None or not len(self):
            raise EmptySinkError("this GPUBuffer was read while empty; a sink is read after something was written. Write to it first.")
        return self._buffer.index_select(slice(None))

    def zero(self) -> None:
        """Remove all systems. The room stays allocated and is used again by a write with the same fields."""
        if self._buffer is not None:
            self._buffer.zero()

    def __len__(self) -> int:
        return 0 if self._buffer is None else self._buffer.num_graphs

    @property
    def capacity(self) -> int:
        """Number of systems that fit."""
        return self._capacity

    @property
    def device(self) -> torch.device:
        """Where the systems are."""
        return self._device

    def _left_out(self, batch: Batch) -> frozenset[str]:
        edges = frozenset() if self._max_edges else frozenset(key for key, _ in batch if batch.level_of(key) is Level.EDGE)
        return MATRIX_KEYS | edges | transient_keys(batch)

    def _check_sizes(self, what: str, name: str, sizes: Int64[ndarray, " M"], largest: int) -> None:
        if int(sizes.max()) > largest:
            at = int(np.argmax(sizes))
            raise SinkFullError(
                f"a system of {int(sizes[at])} {what} was written to a GPUBuffer with {name}={largest}; nothing was written. "
                f"Make the buffer with {name} of the largest system."
            )

    def _allocate(self, template: Batch) -> Batch:
        return Batch.empty(
            num_systems=self._capacity,
            num_nodes=self._capacity * self._max_atoms,
            num_edges=self._capacity * self._max_edges,
            template=template,
            device=self._device,
        )


def _neighbor_keys(batch: Batch) -> set[str]:
    return {key for key, _ in batch if key in NEIGHBOR_KEYS}


def _checked_device(device: torch.device) -> torch.device:
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise MissingDeviceError(
            f"a GPUBuffer was asked for on {device}; it lives on a CUDA device or, for trying out, on 'cpu'. Give one of these."
        )
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= n_devices:
        raise MissingDeviceError(
            f"a GPUBuffer was asked for on {device}, and torch sees {n_devices} CUDA devices. "
            "Run where there is one, or pass device='cpu' to try without."
        )
    return device
