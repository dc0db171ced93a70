"""What all optimizers share: one launch per step, per-system state, the last good positions, and the cell as further coordinates.

An optimizer adds its parameters, the columns of its state and the launch of its kernel; a kernel moves the systems of `mask` and nothing
else, and writes where they were to `last_positions` and `last_cell` before it moves them. So whoever finds that a model broke down at
the new positions can go back to the last ones for which forces were good.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from campaign.data import Batch, Segments
from campaign.data.warp_interop import BoundLaunch, Precision, precision_of
from campaign.dynamics.loop import BaseDynamics
from campaign.dynamics.optimizers.strain import CELL_LENGTH_ANG, MAX_STRAIN, CellMode
from campaign.dynamics.per_system import SystemValue, check_positive, ensure_velocities, state_batch
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
        kwargs: for `BaseDynamics`.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, **kwargs)
        self.cell_mode = CellMode.parse(cell_mode)
        self.cell_length = float(check_positive("cell_length", cell_length))
        self.max_strain = float(check_positive("max_strain", max_strain))
        if self.cell_mode is not CellMode.FIXED:
            self.__needs_keys__ = {*self.__needs_keys__, "stress"}
            self.__provides_keys__ = {*self.__provides_keys__, "cell"}
        self._bound: tuple[tuple[torch.dtype, torch.device], BoundLaunch] | None = None
        self._constants: dict[tuple[str, int, torch.device], Tensor] = {}

    @abstractmethod
    def _columns(self, n: int, template: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the state of the last `n` systems of a batch when they start: tensors per system, and tensors per atom."""

    @abstractmethod
    def _kernel(self, precision: Precision) -> Any:
        """Return the kernel that does a step."""

    @abstractmethod
    def _arguments(self, batch: Batch) -> list[Tensor | int | float]:
        """Return the arguments of the kernel that follow those of `_head`."""

    def pre_update(self, batch: Batch) -> None:
        """Do one optimizer step with the forces of the last evaluation."""
        if "forces" not in batch:
            return  # nothing was evaluated yet, so there is nothing to follow
        mask = self.update_mask
        if mask is None:
            mask = self._constant("mask", batch.num_graphs, batch.device, lambda n, device: torch.ones(n, dtype=torch.bool, device=device))
        key = batch["positions"].dtype, batch.device
        if self._bound is None or self._bound[0] != key:
            self._bound = key, BoundLaunch(self._kernel(precision_of(key[0])), batch.device)
        self._bound[1].run(batch.num_graphs, self._head(batch, mask) + self._arguments(batch))

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

    # Arguments of the kernels

    def _head(self, batch: Batch, mask: Bool[Tensor, " N"]) -> list[Tensor | int | float]:
        """Return the arguments that all kernels begin with: who moves, under what, and what is moved."""
        n, device = batch.num_graphs, batch.device
        has_fixed = "fixed" in batch
        return [
            batch.batch_ptr,
            mask,
            batch["fixed"] if has_fixed else self._constant("fixed", 1, device, _no_flags),
            int(has_fixed),
            batch["energy"] if "energy" in batch else self._constant("energy", n, device, _zeros_like(batch["positions"], 1)),
            batch["forces"],
            batch["stress"] if "stress" in batch else self._constant("stress", n, device, _zeros_like(batch["positions"], 3, 3)),
            batch["pbc"] if "pbc" in batch else self._constant("pbc", n, device, _no_flags),
            batch["positions"],
            self._cell(batch),
            self._state["last_positions"],
            self._state["last_cell"],
            int(self.cell_mode),
            self.cell_length,
            self.max_strain,
        ]

    def _cell(self, batch: Batch) -> Float[Tensor, "N 3 3"]:
        if "cell" in batch:
            cell: Tensor = batch["cell"]
            return cell
        return self._constant("cell", batch.num_graphs, batch.device, _zeros_like(batch["positions"], 3, 3))

    def _constant(self, name: str, n: int, device: torch.device, make: Any) -> Tensor:
        """Return a tensor that stands in for a key that the batch lacks; nothing ever changes it."""
        key = (name, n, device)
        if key not in self._constants:
            self._constants = {key: value for key, value in self._constants.items() if key[0] != name}
            self._constants[key] = make(n, device)
        return self._constants[key]


def _no_flags(n: int, device: torch.device) -> Tensor:
    return torch.zeros(n, 3, dtype=torch.bool, device=device)


def _zeros_like(positions: Tensor, *trailing: int) -> Any:
    return lambda n, device: torch.zeros(n, *trailing, dtype=positions.dtype, device=device)


def per_system(values: dict[str, SystemValue], n: int, template: Batch) -> dict[str, Tensor]:
    """Return parameters as columns [n, 1] in the dtype of the template's positions.

    Raises:
        ArgumentError: a tensor has neither one entry nor one per system.
    """
    return state_batch(values, n, template).to_dict()
