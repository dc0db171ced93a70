"""FIRE 2.0, with its cell or without: the parameters; the step itself is `fire2_rule.py`.

J. Guénolé et al., Comput. Mater. Sci. 175, 109584 (2020). Parameters have the names of the dynamics contract and the values of ASE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.optimizers import fire2_rule as rule
from campaign.dynamics.optimizers.optimizer import Optimizer, SystemValue, per_system
from campaign.dynamics.optimizers.step_kernel import Rule
from campaign.dynamics.optimizers.strain import CELL_LENGTH_ANG, MAX_STRAIN, CellMode
from campaign.dynamics.per_system import check_positive
from campaign.hooks import Hook
from campaign.models.base import BaseModelMixin

__all__ = ["FIRE2", "FIRE2VariableCell"]


class FIRE2(Optimizer):
    """FIRE 2.0; with the defaults it takes the steps of `ase.optimize.FIRE2`, going back uphill being a step of its own, and bounded.

    Args:
        model: what gives the forces.
        dt: time step at the start, in ASE's unit of time for unit masses; one number, or one for each system.
        delaystep: steps downhill before the time step grows.
        dtgrow, dtshrink: factors by which the time step grows and shrinks.
        alphashrink: factor by which the share of the force's direction in the velocity shrinks.
        alpha0: that share at the start.
        tmax, tmin: largest and smallest time step.
        maxstep: longest displacement of a system in one step, of its 3n-vector, in Å.
        n_steps, hooks, convergence_hook, kwargs: for `BaseDynamics`, and `cell_mode`, `cell_length`, `max_strain` for `Optimizer`.

    Raises:
        ArgumentError: a time step is not above zero; when a run starts, it has another number of entries than there are systems.

    >>> from campaign.models.demo import DemoModelWrapper
    >>> FIRE2(DemoModelWrapper(), n_steps=10).delaystep
    20
    """

    def __init__(
        self,
        model: BaseModelMixin,
        dt: SystemValue = 0.1,
        delaystep: int = 20,
        dtgrow: float = 1.1,
        dtshrink: float = 0.5,
        alphashrink: float = 0.99,
        alpha0: float = 0.25,
        tmax: float = 1.0,
        tmin: float = 2e-3,
        maxstep: float = 0.2,
        n_steps: int | None = None,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, n_steps=n_steps, hooks=hooks, convergence_hook=convergence_hook, **kwargs)
        self._dt = check_positive("dt", dt)
        self.delaystep = delaystep
        self.dtgrow = dtgrow
        self.dtshrink = dtshrink
        self.alphashrink = alphashrink
        self.alpha0 = alpha0
        self.tmax = float(check_positive("tmax", tmax))
        self.tmin = float(check_positive("tmin", tmin))
        self.maxstep = float(check_positive("maxstep", maxstep))

    def _columns(self, n: int, template: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        reals = torch.zeros(n, rule.COLUMNS, dtype=template["positions"].dtype, device=template.device)
        reals[:, rule.DT] = per_system({"dt": self._dt}, n, template)["dt"].view(-1)
        reals[:, rule.ALPHA] = self.alpha0
        counts = torch.tensor([[0, 1]], dtype=torch.int32, device=template.device).repeat(n, 1)
        return {"state": reals, "counts": counts}, {}

    def rule(self) -> Rule:
        return rule.fire2_rule

    def _numbers(self) -> list[float]:
        return [self.maxstep, self.delaystep, self.dtgrow, self.dtshrink, self.alphashrink, self.alpha0, self.tmax, self.tmin]


class FIRE2VariableCell(FIRE2):
    """FIRE 2.0 of atoms and cell together, along the periodic directions of each system; see `FIRE2` and `FIREVariableCell`.

    >>> from campaign.models.lennard_jones import LennardJonesModel
    >>> FIRE2VariableCell(LennardJonesModel(), cell_mode="isotropic").cell_mode
    <CellMode.ISOTROPIC: 1>
    """

    __needs_keys__: set[str] = {"forces", "stress"}  # noqa: RUF012
    __provides_keys__: set[str] = {"positions", "velocities", "cell"}  # noqa: RUF012

    def __init__(
        self,
        model: BaseModelMixin,
        *args: Any,
        cell_mode: CellMode | str = CellMode.FULL,
        cell_length: float = CELL_LENGTH_ANG,
        max_strain: float = MAX_STRAIN,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, *args, cell_mode=cell_mode, cell_length=cell_length, max_strain=max_strain, **kwargs)
