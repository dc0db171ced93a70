"""What all optimizers share: one launch per step, per-system state, the last good positions, and the cell as further coordinates.

An optimizer adds its parameters, the columns of its state and its rule (`step_kernel.py`); a step moves the systems of `mask` and nothing
else, and writes where they were to `last_positions` and `last_cell` before it moves them. So whoever finds that a model broke down at
the new positions can go back to the last ones for which forces were good.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from campaign.data import Batch, Segments
from campaign.data.warp_interop import BoundLaunch, precision_of
from campaign.dynamics.loop import BaseDynamics
from campaign.dynamics.optimizers.step_kernel import Rule, step_kernel
from campaign.dynamics.optimizers.strain import ALL_FREE, CELL_LENGTH_ANG, MAX_STRAIN, CellMode, cell_code
from campaign.dynamics.per_system import SystemValue, check_positive, ensure_velocities, state_batch
from campaign.dynamics.symmetry import followed_keys
from campaign.fields import Level
from campaign.models.base import BaseModelMixin

__all__ = ["Optimizer", "SystemValue", "per_system"]


class Optimizer(BaseDynamics):
    """Base of the optimizers. The first step of a system evaluates it and moves nothing.

    Components of forces in `batch["fixed"]` count as zero; the forces on the batch stay as the model gave them. Where the cell relaxes,
    fixed atoms keep their place relative to the cell, as with ASE's cell filters.

    Args:
        model: what gives the forces, and the stress where the cell relaxes.
        cell_mode: how the cell relaxes.
        cell_length: L in Å, which sets the stiffness of the cell against that of the atoms.
        max_strain: bound on the norm of the strain of one step.
        strain_mask: which Cartesian components of the strain are free: xx, yy, zz, yz, xz, xy, as in ASE's cell filters.
        pressure_ev_per_ang3: pressure from outside, as ASE's `scalar_pressure`: what falls is the energy plus pressure times volume.
        kwargs: for `BaseDynamics`.

    Raises:
        ArgumentError: a parameter is out of range, or the mask has not six entries.
    """

    __needs_keys__: set[str] = {"forces"}  # noqa: RUF012
    __provides_keys__: set[str] = {"positions", "velocities"}  # noqa: RUF012
    evaluates_first: ClassVar[bool] = True
    applies_mask: ClassVar[bool] = True
    needs_velocities: ClassVar[bool] = True
    """Whether the optimizer keeps velocities on the batch."""

    def __init__(
        self,
        model: BaseModelMixin,
        cell_mode: CellMode | str = CellMode.FIXED,
        cell_length: float = CELL_LENGTH_ANG,
        max_strain: float = MAX_STRAIN,
        strain_mask: Sequence[bool] = ALL_FREE,
        pressure_ev_per_ang3: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, **kwargs)
        self.cell_mode = CellMode.parse(cell_mode)
        self.cell_length = float(check_positive("cell_length", cell_length))
        self.max_strain = float(check_positive("max_strain", max_strain))
        self.strain_mask = tuple(bool(is_free) for is_free in strain_mask)
        self.pressure_ev_per_ang3 = float(pressure_ev_per_ang3)
        self._cell_code = cell_code(self.cell_mode, self.strain_mask)
        if self.cell_mode is not CellMode.FIXED:
            self.__needs_keys__ = {*self.__needs_keys__, "stress"}
            self.__provides_keys__ = {*self.__provides_keys__, "cell"}
        self._bound: tuple[tuple[torch.dtype, torch.device], BoundLaunch] | None = None
        self._constants: dict[tuple[Hashable, int, torch.dtype, torch.device], Tensor] = {}

    @abstractmethod
    def _columns(self, n: int, template: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the state of the last `n` systems of a batch when they start.

        Per system: `state` [n, any] and `counts` int32 [n, any]. Per atom, if the rule keeps any: `atom_state` [a, any, 3], and `motion`
        [a, 3] where that is not the velocities of the batch.
        """

    @abstractmethod
    def rule(self) -> Rule:
        """Return what moves a system; see `step_kernel.py`."""

    @abstractmethod
    def _numbers(self) -> list[float]:
        """Return the parameters, in the rule's order."""

    def pre_update(self, batch: Batch) -> None:
        """Do one optimizer step with the forces of the last evaluation."""
        if "forces" not in batch:
            return  # nothing was evaluated yet, so there is nothing to follow
        mask = self.update_mask
        if mask is None:
            mask = self._constant(
                "mask", batch.num_graphs, batch["positions"], lambda n, like: torch.ones(n, dtype=torch.bool, device=like.device)
            )
        key = batch["positions"].dtype, batch.device
        if self._bound is None or self._bound[0] != key:
            self._bound = key, BoundLaunch(step_kernel(precision_of(key[0]), self.rule()), batch.device)
        self._bound[1].run(batch.num_graphs, [mask, *self.rule_arguments(batch)])

    def last_good(self) -> tuple[Float[Tensor, "A 3"], Float[Tensor, "N 3 3"]]:
        """Return positions and cells before the last move; those of the start for a system that never moved."""
        return self._state["last_positions"], self._state["last_cell"]

    def _init_state(self, batch: Batch) -> None:
        if self.needs_velocities:
            ensure_velocities(batch)
        self._state = self._make_new_state(batch.num_graphs, batch)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        lengths = np.array(template_batch.atom_segments.lengths[-n:])
        first_atom = template_batch.num_nodes - int(lengths.sum())
        systems, atoms = self._columns(n, template_batch)
        atoms["last_positions"] = template_batch["positions"][first_atom:].clone()
        systems["last_cell"] = self._cell(template_batch)[-n:].clone()
        levels = dict.fromkeys(systems, Level.SYSTEM) | dict.fromkeys(atoms, Level.ATOM)
        return Batch({**systems, **atoms}, levels, Segments(lengths, template_batch.device))

    def rule_arguments(self, batch: Batch) -> list[Tensor | int | float]:
        """Return the arguments of the rule after the first, which is the system: what it reads, what it moves, and what it keeps."""
        n, positions, state = batch.num_graphs, batch["positions"], self._state
        has_fixed = "fixed" in batch
        forces, stress = followed_keys(batch)
        return [
            batch.batch_ptr,
            batch["fixed"] if has_fixed else self._constant("fixed", 1, positions, _no_flags),
            int(has_fixed),
            batch["energy"] if "energy" in batch else self._constant("energy", n, positions, _zeros(1)),
            batch[forces],
            batch[stress] if stress in batch else self._constant("stress", n, positions, _zeros(3, 3)),
            batch["pbc"] if "pbc" in batch else self._constant("pbc", n, positions, _no_flags),
            positions,
            self._cell(batch),
            state["last_positions"],
            state["last_cell"],
            self._cell_code,
            self.pressure_ev_per_ang3,
            self.cell_length,
            self.max_strain,
            batch["velocities"] if self.needs_velocities else state["motion"],
            state["state"],
            state["counts"],
            state["atom_state"] if "atom_state" in state else self._constant("atom_state", 0, positions, _zeros(0, 3)),
            self._constant(("numbers", *self._numbers()), 1, positions, self._number_tensor),
        ]

    def _number_tensor(self, n: int, like: Tensor) -> Tensor:
        del n
        return torch.tensor(self._numbers(), dtype=like.dtype, device=like.device)

    def _cell(self, batch: Batch) -> Float[Tensor, "N 3 3"]:
        if "cell" in batch:
            cell: Tensor = batch["cell"]
            return cell
        return self._constant("cell", batch.num_graphs, batch["positions"], _zeros(3, 3))

    def _constant(self, name: Hashable, n: int, like: Tensor, make: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return what `make(n, like)` once gave, which nothing ever changes; it stands in for a key that the batch lacks."""
        key = name, n, like.dtype, like.device
        if key not in self._constants:
            self._constants = {other: value for other, value in self._constants.items() if other[0] != name}
            self._constants[key] = make(n, like)
        return self._constants[key]


def _all(n: int, like: Tensor) -> Tensor:
    return torch.ones(n, dtype=torch.bool, device=like.device)


def _no_flags(n: int, like: Tensor) -> Tensor:
    return torch.zeros(n, 3, dtype=torch.bool, device=like.device)


def _zeros(*trailing: int) -> Callable[[int, Tensor], Tensor]:
    return lambda n, like: torch.zeros(n, *trailing, dtype=like.dtype, device=like.device)


def per_system(values: dict[str, SystemValue], n: int, template: Batch) -> dict[str, Tensor]:
    """Return parameters as columns [n, 1] in the dtype of the template's positions.

    Raises:
        ArgumentError: a tensor has neither one entry nor one per system.
    """
    return state_batch(values, n, template).to_dict()
