"""Hooks that guard a run against a model that returns nonsense."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.errors import ArgumentError, ModelOutputError
from campaign.fields import Level
from campaign.hooks.context import DynamicsContext
from campaign.hooks.neighbor_list import UNLISTED
from campaign.hooks.stages import DynamicsStage

__all__ = ["MaxForceClampHook", "NaNDetectorHook"]


class NaNDetectorHook:
    """Ends a run with an error as soon as energy, forces or one of `extra_keys` are not finite, saying where.

    A campaign does not need it: there such a system leaves the batch with outcome diverged while the others go on.

    >>> batch = Batch.from_arrays([1, 1], {"forces": torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]])}, {})
    >>> NaNDetectorHook()(DynamicsContext(batch=batch, step_count=3), DynamicsStage.AFTER_COMPUTE)
    Traceback (most recent call last):
    campaign.errors.ModelOutputError: at step 3, values that are not finite: forces (1 value) in system 1 of the batch. ...
    """

    def __init__(self, frequency: int = 1, extra_keys: Sequence[str] | None = None, stage: Enum = DynamicsStage.AFTER_COMPUTE) -> None:
        self.frequency = frequency
        self.extra_keys = list(extra_keys or ())
        self.stage = stage

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Check all values in one transfer from the device.

        Raises:
            ModelOutputError: some are not finite (a RuntimeError).
        """
        if ctx.batch is None:
            return
        batch: Batch = ctx.batch
        keys = [key for key in dict.fromkeys(["forces", "energy", *self.extra_keys]) if key in batch]
        if not keys or bool(torch.stack([_is_finite(batch, key).all() for key in keys]).all()):
            return
        seen = "; ".join(_describe(batch, key) for key in keys if not _is_finite(batch, key).all())
        raise ModelOutputError(
            f"at step {ctx.step_count}, values that are not finite: {seen}. A model returns finite numbers for structures that it knows. "
            "Look at these systems, or at the time step."
        )


def _is_finite(batch: Batch, key: str) -> Tensor:
    """Return which values are finite; those of systems that wait for neighbours are not looked at, as they mean nothing yet."""
    finite = torch.isfinite(batch[key])
    if UNLISTED in batch and batch.level_of(key) is not Level.EDGE:
        waits = batch[UNLISTED].view(-1)
        rows = waits[batch.batch_idx.long()] if batch.level_of(key) is Level.ATOM else waits
        finite |= rows.view(-1, *[1] * (finite.ndim - 1))
    return finite


def _describe(batch: Batch, key: str) -> str:
    bad = ~_is_finite(batch, key)
    rows = torch.nonzero(bad.reshape(len(bad), -1).any(dim=1)).flatten()
    n_values = int(bad.sum())
    count = f"{key} ({n_values} value{'s' if n_values > 1 else ''})"
    if batch.level_of(key) is Level.EDGE:
        return f"{count} on edges {rows.tolist()}"
    systems = torch.unique(batch.batch_idx[rows]) if batch.level_of(key) is Level.ATOM else rows
    at = f"{count} in system{'s' if len(systems) > 1 else ''} {', '.join(map(str, systems.tolist()))} of the batch"
    return f"{at} (system_id {batch['system_id'].flatten()[systems.long()].tolist()})" if "system_id" in batch else at


class MaxForceClampHook:
    """Shortens forces above `max_force` eV/Å to that length, direction kept, before the integrator sees them.

    Forces that are not finite stay as they are, so that they are noticed.

    Raises:
        ArgumentError: `max_force` is not above 0.

    >>> batch = Batch.from_arrays([2], {"forces": torch.tensor([[0.0, 40.0, 0.0], [0.0, 1.0, 0.0]])}, {})
    >>> MaxForceClampHook(max_force=5.0)(DynamicsContext(batch=batch), DynamicsStage.AFTER_COMPUTE)
    >>> batch.forces.tolist()
    [[0.0, 5.0, 0.0], [0.0, 1.0, 0.0]]
    """

    def __init__(self, max_force: float, stage: Enum = DynamicsStage.AFTER_COMPUTE, frequency: int = 1) -> None:
        if not max_force > 0:
            raise ArgumentError(f"max_force is {max_force}; it is a length above 0 in eV/Å. Give one.")
        self.max_force = max_force
        self.stage = stage
        self.frequency = frequency

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Shorten the forces of the batch in place."""
        if ctx.batch is None:
            return
        forces: Tensor = ctx.batch["forces"]
        lengths = torch.linalg.vector_norm(forces, dim=1, keepdim=True)
        too_long = (lengths > self.max_force) & torch.isfinite(lengths)
        if ctx.active_graph_mask is not None:
            too_long &= ctx.active_graph_mask[ctx.batch.batch_idx.long()].unsqueeze(1)
        with torch.no_grad():
            forces.mul_(torch.where(too_long, self.max_force / lengths, 1.0))
