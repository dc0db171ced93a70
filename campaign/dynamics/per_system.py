"""Parameters of a dynamics that are one number for all systems or one for each, and the state that is kept per system."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.errors import ArgumentError

__all__ = ["SystemValue", "check_positive", "ensure_velocities", "state_batch"]

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
