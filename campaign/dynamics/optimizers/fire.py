"""FIRE, with its cell or without: the parameters; the step itself is `fire_rule.py`.

E. Bitzek, P. Koskinen, F. Gähler, M. Moseler and P. Gumbsch, Phys. Rev. Lett. 97, 170201 (2006).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.optimizers import fire_rule as rule
from campaign.dynamics.optimizers.optimizer import Optimizer, SystemValue, per_system
from campaign.dynamics.optimizers.step_kernel import Rule
from campaign.dynamics.optimizers.strain import CELL_LENGTH_ANG, MAX_STRAIN, CellMode
from campaign.dynamics.per_system import check_positive
from campaign.hooks import Hook
from campaign.models.base import BaseModelMixin

__all__ = ["FIRE", "FIREVariableCell"]


class FIRE(Optimizer):
    """FIRE; with the defaults it takes the steps of `ase.optimize.FIRE`.

    Args:
        model: what gives the forces.
        dt: time step at the start, in ASE's unit of time for unit masses; one number, or one for each system.
        dt_max: largest time step; 10 `dt` by default.
        dt_min: smallest time step; without one, as in ASE, it may shrink to nothing.
        maxstep: longest displacement of a system in one step, of its 3n-vector, in Å.
        n_min: steps downhill before the time step grows.
        f_dec, f_inc: factors by which the time step shrinks and grows.
        alpha_start: share of the force's direction in the velocity at the start.
        f_alpha: factor by which that share shrinks.
        uphill: whether a step that raised the energy is taken back, as ASE's `downhill_check`.
        n_steps, hooks, convergence_hook, kwargs: for `BaseDynamics`, and `cell_mode`, `cell_length`, `max_strain` for `Optimizer`.

    Raises:
        ArgumentError: a time step is not above zero; when a run starts, it has another number of entries than there are systems.

    >>> from campaign.models.demo import DemoModelWrapper
    >>> FIRE(DemoModelWrapper(), n_steps=10).maxstep
    0.2
    """

    def __init__(
        self,
        model: BaseModelMixin,
        dt: SystemValue = 0.1,
        dt_max: SystemValue | None = None,
        dt_min: SystemValue | None = None,
        maxstep: float = 0.2,
        n_min: int = 5,
        f_dec: float = 0.5,
        f_inc: float = 1.1,
        alpha_start: float = 0.1,
        f_alpha: float = 0.99,
        uphill: bool = False,
        n_steps: int | None = None,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, n_steps=n_steps, hooks=hooks, convergence_hook=convergence_hook, **kwargs)
        dt = check_positive("dt", dt)
        self._dt = {
            "dt": dt,
            "dt_max": dt * 10.0 if dt_max is None else check_positive("dt_max", dt_max),
            "dt_min": 0.0 if dt_min is None else check_positive("dt_min", dt_min),
        }
        self.maxstep = float(check_positive("maxstep", maxstep))
        self.n_min = n_min
        self.f_dec = f_dec
        self.f_inc = f_inc
        self.alpha_start = alpha_start
        self.f_alpha = f_alpha
        self.uphill = uphill

    def _columns(self, n: int, template: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        steps = per_system(self._dt, n, template)
        reals = torch.zeros(n, rule.COLUMNS, dtype=template["positions"].dtype, device=template.device)
        reals[:, rule.DT] = steps["dt"].view(-1)
        reals[:, rule.DT_MAX] = steps["dt_max"].view(-1)
        reals[:, rule.DT_MIN] = steps["dt_min"].view(-1)
        reals[:, rule.ALPHA] = self.alpha_start
        return {"state": reals, "counts": torch.full((n, 1), -1, dtype=torch.int32, device=template.device)}, {}

    def rule(self) -> Rule:
        return rule.fire_rule

    def _numbers(self) -> list[float]:
        return [self.maxstep, self.n_min, self.f_inc, self.f_dec, self.alpha_start, self.f_alpha, self.uphill]


class FIREVariableCell(FIRE):
    """FIRE of atoms and cell together, along the periodic directions of each system.

    Args:
        model: what gives forces and stress.
        dt, dt_max, dt_min, maxstep, n_min, f_dec, f_inc, alpha_start, f_alpha: as for `FIRE`; `maxstep` holds for atoms and cell together.
        n_steps, hooks, convergence_hook, kwargs: for `BaseDynamics`.
        cell_mode: "full", "isotropic" or "fixed_volume".
        cell_length, max_strain: see `Optimizer`.

    Raises:
        ArgumentError: see `FIRE`.

    >>> from campaign.models.lennard_jones import LennardJonesModel
    >>> sorted(FIREVariableCell(LennardJonesModel()).__needs_keys__)
    ['forces', 'stress']
    """

    __needs_keys__: set[str] = {"forces", "stress"}  # noqa: RUF012
    __provides_keys__: set[str] = {"positions", "velocities", "cell"}  # noqa: RUF012

    def __init__(
        self,
        model: BaseModelMixin,
        dt: SystemValue = 0.1,
        dt_max: SystemValue | None = None,
        dt_min: SystemValue | None = None,
        maxstep: float = 0.2,
        n_min: int = 5,
        f_dec: float = 0.5,
        f_inc: float = 1.1,
        alpha_start: float = 0.1,
        f_alpha: float = 0.99,
        n_steps: int | None = None,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        *,
        cell_mode: CellMode | str = CellMode.FULL,
        cell_length: float = CELL_LENGTH_ANG,
        max_strain: float = MAX_STRAIN,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model,
            dt,
            dt_max,
            dt_min,
            maxstep,
            n_min,
            f_dec,
            f_inc,
            alpha_start,
            f_alpha,
            n_steps=n_steps,
            hooks=hooks,
            convergence_hook=convergence_hook,
            cell_mode=cell_mode,
            cell_length=cell_length,
            max_strain=max_strain,
            **kwargs,
        )
