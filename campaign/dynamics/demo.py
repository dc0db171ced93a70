"""The demonstration dynamics of the contract: velocity Verlet, in plain torch, with nothing per system.

It shows how a dynamics is written, and lets hooks, sinks and engines be tried. For molecular dynamics use `campaign.dynamics.integrators`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.loop import BaseDynamics
from campaign.hooks import Hook
from campaign.models.base import BaseModelMixin

__all__ = ["DemoDynamics"]


class DemoDynamics(BaseDynamics):
    """Velocity Verlet: x += v dt + ½ a dt², then v += ½ (a + a') dt.

    In the first step there are no forces yet: positions move with the velocities alone, and velocities by the new forces over all of dt.

    Args:
        model: what gives the forces.
        n_steps: steps of `run()`.
        dt: time step, in the unit that goes with the batch's masses and energies; nothing is converted.
        hooks, convergence_hook, kwargs: for `BaseDynamics`.

    >>> from campaign.models.demo import DemoModelWrapper
    >>> DemoDynamics(DemoModelWrapper(), n_steps=3, dt=0.5).dt
    0.5
    """

    __needs_keys__: set[str] = {"forces"}  # noqa: RUF012
    __provides_keys__: set[str] = {"positions", "velocities"}  # noqa: RUF012

    def __init__(
        self,
        model: BaseModelMixin,
        n_steps: int,
        dt: float = 1.0,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, hooks=hooks, convergence_hook=convergence_hook, n_steps=n_steps, **kwargs)
        self.dt = dt
        self._prev_accelerations: Tensor | None = None

    def pre_update(self, batch: Batch) -> None:
        """Move positions with the velocities and, if there are forces, the accelerations of the last step."""
        if "velocities" not in batch:
            batch["velocities"] = torch.zeros_like(batch["positions"])
        with torch.no_grad():
            step = batch["velocities"] * self.dt
            if "forces" in batch and bool(batch["forces"].any()):
                self._prev_accelerations = batch["forces"] / batch["atomic_masses"].unsqueeze(-1)
                step = step + 0.5 * self._prev_accelerations * self.dt**2
            batch["positions"].add_(step)

    def post_update(self, batch: Batch) -> None:
        """Change velocities by the mean of old and new accelerations."""
        with torch.no_grad():
            new = batch["forces"] / batch["atomic_masses"].unsqueeze(-1)
            old = self._prev_accelerations
            # After a change of systems the old accelerations belong to others.
            mean = new if old is None or old.shape != new.shape else 0.5 * (old + new)
            batch["velocities"].add_(mean * self.dt)
