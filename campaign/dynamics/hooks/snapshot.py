"""Hooks that write what is in a batch to a sink: all of it at a time, or each system once, when it has converged."""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.sinks.base import DataSink
from campaign.errors import ArgumentError
from campaign.fields import NEIGHBOR_KEYS
from campaign.hooks.context import DynamicsContext
from campaign.hooks.stages import DynamicsStage

__all__ = ["ConvergedSnapshotHook", "SnapshotHook", "newest_of_each"]


class SnapshotHook:
    """Writes the whole batch to a sink every `frequency` steps, whatever the status of its systems, in one write.

    The batch is handed over as it is; a sink copies what it keeps. When a run ends, the sink is flushed.

    What is written is a checkpoint: with the batch goes the state of the dynamics, as fields named `dynamics_…`, see
    `BaseDynamics.with_state`. A run that begins with what the sink reads, or with some systems of it, ends with the bits of the run that
    wrote it; `newest_of_each` picks one snapshot per system.

    Args:
        sink: where to.
        frequency: steps between two writes.
        stage: when. A checkpoint is taken at AFTER_STEP or BEFORE_STEP; in between a step is half done.
        with_state: whether the state goes with it. Without, snapshots are smaller, much so for L-BFGS, and nothing can go on from them.

    >>> from campaign.dynamics.sinks import HostMemory
    >>> batch = Batch.from_arrays([2, 1], {"positions": torch.zeros(3, 3)}, {})
    >>> hook = SnapshotHook(HostMemory(capacity=100), frequency=10)
    >>> hook(DynamicsContext(batch=batch), hook.stage)
    >>> len(hook.sink)
    2
    """

    def __init__(self, sink: DataSink, frequency: int = 1, stage: Enum = DynamicsStage.AFTER_STEP, *, with_state: bool = True) -> None:
        self.sink = sink
        self.frequency = frequency
        self.stage = stage
        self.with_state = with_state

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write the batch.

        Raises:
            SinkFullError: it does not fit; nothing was written (a RuntimeError).
        """
        if ctx.batch is None:
            return
        # Other engines have no such method, and their snapshots no state.
        put_state_on = getattr(getattr(ctx, "workflow", None), "with_state", None) if self.with_state else None
        self.sink.write(ctx.batch if put_state_on is None else put_state_on(ctx.batch))

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


def newest_of_each(snapshots: Batch) -> Batch:
    """Return of each system what was written last, in the order of `system_id`: what a run goes on from after several snapshots.

    Raises:
        ArgumentError: the systems cannot be told apart, since `system_id` is missing or negative.

    >>> ids, steps = torch.tensor([[7], [3], [7]]), torch.tensor([[1], [1], [2]])
    >>> frames = Batch.from_arrays([1, 1, 1], {"positions": torch.zeros(3, 3)}, {"system_id": ids, "n_steps": steps})
    >>> newest = newest_of_each(frames)
    >>> newest.system_id.flatten().tolist(), newest.n_steps.flatten().tolist()
    ([3, 7], [1, 2])
    """
    ids = snapshots["system_id"].flatten().cpu().numpy() if "system_id" in snapshots else np.full(1, -1)
    if ids.min() < 0:
        raise ArgumentError("snapshots of systems without a system_id cannot be told apart. Give every system one before the run.")
    _, from_the_end = np.unique(ids[::-1], return_index=True)
    return snapshots.index_select(len(ids) - 1 - from_the_end)


def _flush(sink: DataSink) -> None:
    # A sink that was written against the contract alone need not have it.
    flush = getattr(sink, "flush", None)
    if flush is not None:
        flush()
