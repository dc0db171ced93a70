"""Hooks that write what is in a batch to a sink: all of it at a time, or each system once, when it has converged."""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Final

import torch
from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.sinks.base import DataSink
from campaign.fields import NEIGHBOR_KEYS
from campaign.hooks.context import DynamicsContext
from campaign.hooks.stages import DynamicsStage

__all__ = ["ConvergedSnapshotHook", "SnapshotHook"]


class SnapshotHook:
    """Writes the whole batch to a sink every `frequency` steps, whatever the status of its systems, in one write.

    The batch is handed over as it is; a sink copies what it keeps. When a run ends, the sink is flushed.

    >>> from campaign.dynamics.sinks import HostMemory
    >>> batch = Batch.from_arrays([2, 1], {"positions": torch.zeros(3, 3)}, {})
    >>> hook = SnapshotHook(HostMemory(capacity=100), frequency=10)
    >>> hook(DynamicsContext(batch=batch), hook.stage)
    >>> len(hook.sink)
    2
    """

    def __init__(self, sink: DataSink, frequency: int = 1, stage: Enum = DynamicsStage.AFTER_STEP) -> None:
        self.sink = sink
        self.frequency = frequency
        self.stage = stage

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write the batch.

        Raises:
            SinkFullError: it does not fit; nothing was written (a RuntimeError).
        """
        if ctx.batch is not None:
            self.sink.write(ctx.batch)

    def close(self) -> None:
        """Flush the sink; the engine calls this when a run ends."""
        _flush(self.sink)


class ConvergedSnapshotHook:
    """Writes each system to a sink once, when it has converged, without its neighbour data.

    A system that stays in the batch is not written again, even if it keeps meeting the criteria, moves away from them and back, or passes
    through other stages. That it was written is noted on the batch, in a field per system of this hook's own that moves with it; another
    such hook writes it for itself. Apart from this note the batch is not changed. A mask that is None or all false is fine.

    >>> from campaign.dynamics.sinks import HostMemory
    >>> batch = Batch.from_arrays([2, 1], {"positions": torch.zeros(3, 3)}, {"system_id": torch.tensor([[7], [8]])})
    >>> hook = ConvergedSnapshotHook(HostMemory(capacity=100))
    >>> for mask in ([False, False], [False, True], [True, True]):
    ...     hook(DynamicsContext(batch=batch, converged_mask=torch.tensor(mask)), hook.stage)
    >>> hook.sink.read().system_id.flatten().tolist()
    [8, 7]
    """

    _numbers: Final = itertools.count()

    def __init__(self, sink: DataSink, frequency: int = 1, stage: Enum = DynamicsStage.ON_CONVERGE) -> None:
        self.sink = sink
        self.frequency = frequency
        self.stage = stage
        # Keys with an underscore are notes of hooks, which no sink stores.
        self._written_key = f"_converged_snapshot_{next(self._numbers)}"

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write the systems that converged and were not written before.

        Raises:
            SinkFullError: they do not all fit; nothing was written, and the next call tries again (a RuntimeError).
        """
        if ctx.batch is None or ctx.converged_mask is None:
            return
        batch: Batch = ctx.batch
        written = self._written(batch)
        systems = torch.nonzero(ctx.converged_mask.to(batch.device) & ~written).flatten()
        if not len(systems):
            return
        self.sink.write(batch.index_select(systems, exclude_keys=NEIGHBOR_KEYS | {self._written_key}))
        written[systems] = True
        batch[self._written_key] = written.unsqueeze(1)

    def close(self) -> None:
        """Flush the sink; the engine calls this when a run ends."""
        _flush(self.sink)

    def _written(self, batch: Batch) -> Bool[Tensor, " N"]:
        if self._written_key in batch:
            written: Tensor = batch[self._written_key]
            return written.flatten().clone()
        return torch.zeros(batch.num_graphs, dtype=torch.bool, device=batch.device)


def _flush(sink: DataSink) -> None:
    # A sink that was written against the contract alone need not have it.
    flush = getattr(sink, "flush", None)
    if flush is not None:
        flush()
