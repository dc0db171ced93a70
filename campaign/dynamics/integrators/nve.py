"""Molecular dynamics at constant energy: velocity Verlet.

Swope, Andersen, Berens and Wilson, J. Chem. Phys. 76, 637 (1982), in the form that needs one evaluation per step:

    v += f(x)/m · dt/2;  x += v · dt;  [f(x)];  v += f(x)/m · dt/2
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from campaign.data import Batch
from campaign.data.warp_interop import launch, precision_of
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.integrators.kernels import kick_drift_kernel
from campaign.dynamics.integrators.molecular_dynamics import active_systems, fixed_components, half_kick, masses
from campaign.dynamics.loop import BaseDynamics
from campaign.dynamics.per_system import SystemValue, check_positive, ensure_velocities, state_batch
from campaign.hooks import Hook
from campaign.models.base import BaseModelMixin
from campaign.units import FS_TO_ASE_TIME

__all__ = ["NVE"]


class NVE(BaseDynamics):
    """Constant number of atoms, volume and energy.

    Velocities are in Å per ASE's unit of time, Å·sqrt(amu/eV); a batch without velocities starts at rest. The first step of a system only
    evaluates it, since forces that came with it may be those of another method. Components in `fixed` stay where they are.

    Args:
        model: what gives the forces.
        dt: time step in fs, one for all systems or one for each.
        n_steps: steps of `run()`.
        hooks: hooks to register.
        convergence_hook: when a system has converged; rarely of use here.
        kwargs: for `BaseDynamics`.

    Raises:
        ArgumentError: `dt` is not above zero; when a run starts, it has another number of entries than there are systems.

    >>> from campaign.models.lennard_jones import LennardJonesModel
    >>> NVE(LennardJonesModel(), dt=1.0).evaluates_first
    True
    """

    __needs_keys__: set[str] = {"forces"}  # noqa: RUF012
    __provides_keys__: set[str] = {"positions", "velocities"}  # noqa: RUF012
    evaluates_first: ClassVar[bool] = True
    applies_mask: ClassVar[bool] = True

    def __init__(
        self,
        model: BaseModelMixin,
        dt: SystemValue,
        n_steps: int | None = None,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, n_steps=n_steps, hooks=hooks, convergence_hook=convergence_hook, **kwargs)
        self._dt = check_positive("dt", dt) * FS_TO_ASE_TIME

    def _init_state(self, batch: Batch) -> None:
        ensure_velocities(batch)
        self._state = self._make_new_state(batch.num_graphs, batch)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        return state_batch({"dt": self._dt}, n, template_batch)

    def pre_update(self, batch: Batch) -> None:
        """Half a kick with the forces of the last step, then a whole drift."""
        if "forces" not in batch:
            return  # nothing was evaluated yet, so there is nothing to move
        arguments: list[Any] = [
            batch["positions"],
            batch["velocities"],
            batch["forces"],
            masses(batch),
            fixed_components(batch),
            self._state["dt"].view(-1),
            active_systems(batch, self.update_mask),
            batch.batch_idx,
        ]
        launch(kick_drift_kernel(precision_of(batch["positions"].dtype)), batch.num_nodes, arguments, batch.device)

    def post_update(self, batch: Batch) -> None:
        """Half a kick with the new forces."""
        half_kick(batch, self._state, self.update_mask)
