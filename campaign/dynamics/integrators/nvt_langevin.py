"""Molecular dynamics at constant temperature: Langevin dynamics by BAOAB splitting.

Leimkuhler and Matthews, Appl. Math. Res. eXpress 2013, 34 (2013). B is half a kick, A half a drift, O the exact Ornstein–Uhlenbeck
process over the whole time step:

    B A O A [f(x)] B     with O: v = c v + sqrt(k_B T / m · (1 - c²)) ξ,  c = exp(-γ dt)

Positions sample the canonical distribution exactly for a harmonic potential whatever the time step. Random numbers are keyed by
seed, `system_id`, the step of the system and the atom (see `philox.py`), so a system's trajectory is the same in any batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from campaign.data import Batch
from campaign.data.warp_interop import launch, precision_of
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.integrators.kernels import baoa_kernel
from campaign.dynamics.integrators.molecular_dynamics import active_systems, fixed_components, half_kick, masses
from campaign.dynamics.integrators.philox import check_seed
from campaign.dynamics.loop import BaseDynamics
from campaign.dynamics.per_system import SystemValue, check_positive, ensure_velocities, state_batch
from campaign.hooks import Hook
from campaign.models.base import BaseModelMixin
from campaign.units import EV_PER_K, FS_TO_ASE_TIME

__all__ = ["NVTLangevin"]


class NVTLangevin(BaseDynamics):
    """Constant number of atoms, volume and temperature.

    Units and first step are those of `NVE`. All components of every atom are coupled to the bath, the centre of mass among them,
    except those in `fixed`.

    Args:
        model: what gives the forces.
        dt: time step in fs, one for all systems or one for each.
        temperature: in K, likewise.
        friction: γ in 1/fs, likewise; 0 gives velocity Verlet.
        random_seed: one for the run; systems differ by their `system_id`, or by their position in the batch where that is negative or
            missing.
        n_steps: steps of `run()`.
        hooks: hooks to register.
        convergence_hook: when a system has converged.
        kwargs: for `BaseDynamics`.

    Raises:
        ArgumentError: `dt` is not above zero, `temperature` or `friction` below it, or the seed out of bounds; when a run starts, one of
            them has another number of entries than there are systems.

    >>> from campaign.models.lennard_jones import LennardJonesModel
    >>> NVTLangevin(LennardJonesModel(), dt=1.0, temperature=300.0, friction=0.01).random_seed
    42
    """

    __needs_keys__: set[str] = {"forces"}  # noqa: RUF012
    __provides_keys__: set[str] = {"positions", "velocities"}  # noqa: RUF012
    evaluates_first: ClassVar[bool] = True
    applies_mask: ClassVar[bool] = True

    def __init__(
        self,
        model: BaseModelMixin,
        dt: SystemValue,
        temperature: SystemValue,
        friction: SystemValue,
        random_seed: int = 42,
        n_steps: int | None = None,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, n_steps=n_steps, hooks=hooks, convergence_hook=convergence_hook, **kwargs)
        self._dt = check_positive("dt", dt) * FS_TO_ASE_TIME
        self._temperature = check_positive("temperature", temperature, or_zero=True)
        self._friction = check_positive("friction", friction, or_zero=True) / FS_TO_ASE_TIME
        self.random_seed = check_seed(random_seed)

    def _init_state(self, batch: Batch) -> None:
        ensure_velocities(batch)
        self._state = self._make_new_state(batch.num_graphs, batch)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        state = state_batch({"dt": self._dt, "temperature": self._temperature, "friction": self._friction}, n, template_batch)
        state["step"] = torch.zeros((n, 1), dtype=torch.int64, device=template_batch.device)
        return state

    def pre_update(self, batch: Batch) -> None:
        """B, A, O, A."""
        if "forces" not in batch:
            return  # nothing was evaluated yet, so there is nothing to move
        active = active_systems(batch, self.update_mask)
        step = self._state["step"].view(-1)
        arguments: list[Any] = [
            batch["positions"],
            batch["velocities"],
            batch["forces"],
            masses(batch),
            fixed_components(batch),
            self._state["dt"].view(-1),
            self._state["temperature"].view(-1) * EV_PER_K,
            self._state["friction"].view(-1),
            self.random_seed,
            _stream_ids(batch),
            step,
            active,
            batch.batch_idx,
            batch.batch_ptr,
        ]
        launch(baoa_kernel(precision_of(batch["positions"].dtype)), batch.num_nodes, arguments, batch.device)
        step += active

    def post_update(self, batch: Batch) -> None:
        """B, with the new forces."""
        half_kick(batch, self._state, self.update_mask)


def _stream_ids(batch: Batch) -> Int64[Tensor, " N"]:
    """Return what tells the systems' random numbers apart: `system_id`, or a negative number by position where there is none."""
    by_position = -1 - torch.arange(batch.num_graphs, device=batch.device)
    if "system_id" not in batch:
        return by_position
    ids = batch["system_id"].view(-1)
    return torch.where(ids >= 0, ids, by_position)
