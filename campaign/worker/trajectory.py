"""Frames on the way, if the spec asks for them. Which steps are frames depends on each system's own steps, not on the batch it is in."""

from __future__ import annotations

from enum import Enum

import torch
from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.sinks.base import DataSink
from campaign.fields import TRAJECTORY_FIELDS, Level
from campaign.hooks.context import DynamicsContext
from campaign.hooks.stages import DynamicsStage
from campaign.outcomes import RUNNING

_COPIED = tuple(field.name for field in TRAJECTORY_FIELDS if field.name != "step")


class TrajectoryHook:
    """Writes a frame of every system that has taken a multiple of `every` optimizer steps, with the energy and forces there."""

    def __init__(self, sink: DataSink, every: int) -> None:
        self.sink = sink
        self.every = every
        self.frequency = 1  # of the engine's steps, which are not those of a system
        self.stage: Enum | None = DynamicsStage.AFTER_STEP

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Write the frames of this step."""
        batch = ctx.batch
        if batch is None or not batch.num_graphs:
            return
        n_steps = batch.n_steps.flatten()
        is_frame = (n_steps % self.every == 0) & (batch.outcome.flatten() == RUNNING)
        if not bool(is_frame.any()):
            return
        self.sink.write(_frames(batch, is_frame))


def _frames(batch: Batch, is_frame: Bool[Tensor, " N"]) -> Batch:
    left_out = {key for key, _ in batch if key not in _COPIED}
    n_steps = batch.n_steps[is_frame]
    frames = batch.index_select(torch.nonzero(is_frame).flatten(), exclude_keys=left_out)
    frames.add_key("step", n_steps, Level.SYSTEM)
    return frames


class AfterTrajectory(DataSink):
    """A sink of results that first makes the frames durable: a committed result always has its whole trajectory beside it."""

    def __init__(self, results: DataSink, trajectory: DataSink) -> None:
        self._results = results
        self._trajectory = trajectory

    def write(self, batch: Batch, mask: Bool[Tensor, " N"] | None = None) -> None:
        """Flush the trajectory, then write the results."""
        self._trajectory.flush()
        self._results.write(batch, mask)

    def read(self) -> Batch:
        """Return the results."""
        return self._results.read()

    def zero(self) -> None:
        """Remove the results."""
        self._results.zero()

    def flush(self) -> None:
        """Make frames and results durable."""
        self._trajectory.flush()
        self._results.flush()

    def close(self) -> None:
        """Close both."""
        self._trajectory.close()
        self._results.close()

    @property
    def waited_s(self) -> float:
        """Seconds for which results waited; the trajectory's own are those of its hook."""
        return self._results.waited_s

    def __len__(self) -> int:
        return len(self._results)

    @property
    def capacity(self) -> int:
        """Number of results that fit."""
        return self._results.capacity
