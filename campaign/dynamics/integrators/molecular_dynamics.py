"""What both integrators need: parameters per system, and a batch that can be launched on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.data.warp_interop import launch, precision_of
from campaign.dynamics.integrators.kernels import kick_kernel
from campaign.errors import ArgumentError

__all__ = ["SystemValue", "active_systems", "check_positive", "ensure_velocities", "fixed_components", "half_kick", "masses", "state_batch"]

SystemValue = float | Tensor
"""A parameter: one number for all systems, or a tensor with one for each."""


def check_positive(name: str, value: SystemValue, *, or_zero: bool = False) -> SystemValue:
    """Return a parameter, in double precision, if all of it is finite and above zero.

    Raises:
        ArgumentError: it is not.

    >>> check_positive("dt", 0.5)
    0.5
    """
    numbers = torch.as_tensor(value, dtype=torch.float64)
    legal = (numbers >= 0) if or_zero else (numbers > 0)
    if not bool((legal & torch.isfinite(numbers)).all()):
        wanted = "at least 0" if or_zero else "above 0"
        raise ArgumentError(f"{name} is {value}; it is finite and {wanted}, for every system. Correct it.")
    return numbers if isinstance(value, Tensor) else float(value)


def state_batch(values: Mapping[str, SystemValue], n_systems: int, template: Batch) -> Batch:
    """Return a batch with one row per system and these keys, in the dtype of the template's positions.

    Raises:
        ArgumentError: a tensor has neither one entry nor one per system.

    >>> template = Batch.from_arrays([1, 1], {"positions": torch.zeros(2, 3)}, {})
    >>> state_batch({"dt": 0.5}, 2, template)["dt"].tolist()
    [[0.5], [0.5]]
    """
    columns = {name: _per_system(name, value, n_systems, template["positions"]) for name, value in values.items()}
    return Batch.from_arrays([0] * n_systems, {}, columns, template.device)


def _per_system(name: str, value: SystemValue, n_systems: int, like: Tensor) -> Tensor:
    numbers = torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1)
    if len(numbers) not in (1, n_systems):
        raise ArgumentError(
            f"{name} was given for {len(numbers)} systems, and {n_systems} systems need it (those that come with a refill need one number "
            "for all). Give one number, or one for each system."
        )
    return numbers.expand(n_systems).clone().unsqueeze(1)


def ensure_velocities(batch: Batch) -> None:
    """Give the batch zero velocities if it has none."""
    if "velocities" not in batch:
        batch["velocities"] = torch.zeros_like(batch["positions"])


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
