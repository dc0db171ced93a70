"""What both integrators need of a batch before they launch a kernel on it, and the half kick that ends their steps."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.data.warp_interop import launch, precision_of
from campaign.dynamics.integrators.kernels import kick_kernel

__all__ = ["active_systems", "fixed_components", "half_kick", "masses"]


def active_systems(batch: Batch, mask: Bool[Tensor, " N"] | None) -> Bool[Tensor, " N"]:
    """Return the systems to move; all without a mask."""
    return torch.ones(batch.num_graphs, dtype=torch.bool, device=batch.device) if mask is None else mask.contiguous()


def fixed_components(batch: Batch) -> Bool[Tensor, "A 3"]:
    """Return the components that may not move; none where the batch does not say."""
    if "fixed" in batch:
        fixed: Tensor = batch["fixed"]
        return fixed
    return torch.zeros_like(batch["positions"], dtype=torch.bool)


def masses(batch: Batch) -> Tensor:
    """Return the masses in amu, in the dtype of the positions.

    Raises:
        BatchKeyError: the batch has no `atomic_masses`.
    """
    values: Tensor = batch["atomic_masses"]
    return values.to(batch["positions"].dtype)


def half_kick(batch: Batch, state: Batch, mask: Bool[Tensor, " N"] | None) -> None:
    """Change velocities by the forces over half a time step, which ends the step of both integrators."""
    arguments: list[Any] = [
        batch["velocities"],
        batch["forces"],
        masses(batch),
        fixed_components(batch),
        state["dt"].view(-1),
        active_systems(batch, mask),
        batch.batch_idx,
    ]
    launch(kick_kernel(precision_of(batch["positions"].dtype)), batch.num_nodes, arguments, batch.device)
