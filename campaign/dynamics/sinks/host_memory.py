"""The sink in main memory, the simplest one and the model of all others."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.sinks.base import DataSink
from campaign.dynamics.sinks.stored import Rows, check_capacity, check_room, check_rows, rows_of, selected_systems, transient_keys
from campaign.errors import EmptySinkError
from campaign.fields import NEIGHBOR_KEYS

__all__ = ["HostMemory"]


class HostMemory(DataSink):
    """Up to `capacity` systems in main memory, wherever the batches that are written live.

    Neighbour data is kept: lists are renumbered, matrices of different width are widened when they are put together. If only some of the
    batches have it, none of the systems read has.

    Raises:
        ArgumentError: `capacity` is no whole number of 1 or more.

    >>> import torch
    >>> batch = Batch.from_arrays([2, 1], {"positions": torch.zeros(3, 3)}, {"system_id": torch.tensor([[7], [8]])})
    >>> sink = HostMemory(capacity=3)
    >>> sink.write(batch)
    >>> sink.write(batch, mask=torch.tensor([False, True]))
    >>> len(sink), sink.is_full, sink.read().system_id.flatten().tolist()
    (3, True, [7, 8, 8])
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = check_capacity(capacity)
        self._rows: Rows = {}
        self._parts: list[Batch] = []

    def write(self, batch: Batch, mask: Bool[Tensor, " N"] | None = None) -> None:
        """Copy systems to main memory; see `DataSink.write`."""
        systems = selected_systems(batch, mask)
        if not len(systems):
            return
        check_room("this HostMemory", len(systems), len(self), self._capacity)
        transient = transient_keys(batch)
        rows = rows_of(batch, transient | NEIGHBOR_KEYS)
        if self._parts:
            check_rows("this HostMemory", self._rows, rows)
        part = batch.index_select(systems, exclude_keys=transient)
        self._parts.append(part if part.device.type == "cpu" else part.cpu())
        self._rows = rows

    def read(self) -> Batch:
        """Return all systems as a batch in main memory; see `DataSink.read`."""
        if not self._parts:
            raise EmptySinkError("this HostMemory was read while empty; a sink is read after something was written. Write to it first.")
        # Neighbours two by two: each system is copied once per halving, where appending to one batch would copy it once per write.
        while len(self._parts) > 1:
            for left, right in zip(self._parts[::2], self._parts[1::2], strict=False):
                left.append(right)
            self._parts = self._parts[::2]
        return self._parts[0].clone()

    def zero(self) -> None:
        """Remove all systems and their fields."""
        self._parts = []

    def __len__(self) -> int:
        return sum(part.num_graphs for part in self._parts)

    @property
    def capacity(self) -> int:
        """Number of systems that fit."""
        return self._capacity
