"""L-BFGS, with the cell or without: the parameters; the step itself is `lbfgs_rule.py`.

J. Nocedal, Math. Comp. 35, 773 (1980).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.optimizers.lbfgs_rule import lbfgs_rule, n_columns
from campaign.dynamics.optimizers.optimizer import Optimizer
from campaign.dynamics.optimizers.step_kernel import Rule
from campaign.dynamics.per_system import check_positive
from campaign.errors import ArgumentError
from campaign.hooks import Hook
from campaign.models.base import BaseModelMixin

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    """Limited-memory BFGS; as long as the energy falls it takes the steps of `ase.optimize.LBFGS`.

    Each system keeps its last steps, 48 bytes per atom and step in float64.

    Args:
        model: what gives the forces.
        maxstep: longest displacement of an atom in one step, in Å.
        memory: steps kept; ASE keeps 100.
        damping: factor on each step.
        alpha: curvature assumed at the start, in eV/Å².
        n_steps, hooks, convergence_hook, kwargs: for `BaseDynamics`, and `cell_mode`, `cell_length`, `max_strain` for `Optimizer`.

    Raises:
        ArgumentError: a parameter is not above zero.

    >>> from campaign.models.demo import DemoModelWrapper
    >>> LBFGS(DemoModelWrapper(), n_steps=10).memory
    20
    """

    __provides_keys__: set[str] = {"positions"}  # noqa: RUF012
    needs_velocities: ClassVar[bool] = False

    def __init__(
        self,
        model: BaseModelMixin,
        maxstep: float = 0.2,
        memory: int = 20,
        damping: float = 1.0,
        alpha: float = 70.0,
        n_steps: int | None = None,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, n_steps=n_steps, hooks=hooks, convergence_hook=convergence_hook, **kwargs)
        if memory < 1:
            raise ArgumentError(f"memory is {memory}; at least 1 step is kept. Correct it.")
        self.memory = memory
        self.maxstep = float(check_positive("maxstep", maxstep))
        self.damping = float(check_positive("damping", damping))
        self.alpha = float(check_positive("alpha", alpha))

    def _columns(self, n: int, template: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        n_atoms = int(template.atom_segments.lengths[-n:].sum())
        real = {"dtype": template["positions"].dtype, "device": template.device}
        state = torch.zeros(n, n_columns(self.memory), **real)
        state[:, -2] = self.maxstep
        state[:, -1] = 1.0 / self.alpha
        counts = torch.tensor([[-1, 0]], dtype=torch.int32, device=template.device).repeat(n, 1)
        atoms = {"atom_state": torch.zeros(n_atoms, 2 * self.memory + 1, 3, **real), "motion": torch.zeros(n_atoms, 3, **real)}
        return {"state": state, "counts": counts}, atoms

    def rule(self) -> Rule:
        return lbfgs_rule

    def _numbers(self) -> list[float]:
        return [self.maxstep, self.damping, self.alpha, self.memory]
