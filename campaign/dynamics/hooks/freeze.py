"""A hook that keeps atoms of one category where they are."""

from __future__ import annotations

from enum import Enum
from typing import Final

import torch
from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.hooks.context import DynamicsContext
from campaign.hooks.stages import DynamicsStage

__all__ = ["SPECIAL_CATEGORY", "FreezeAtomsHook"]

SPECIAL_CATEGORY: Final = -1
"""The dynamics contract's category of atoms marked for a purpose of their own."""

_SAVED_KEY: Final = "_positions_before_step"

_SAVE: Final = frozenset({DynamicsStage.BEFORE_STEP, DynamicsStage.BEFORE_PRE_UPDATE})
_RESTORE: Final = frozenset(
    {DynamicsStage.AFTER_PRE_UPDATE, DynamicsStage.BEFORE_COMPUTE, DynamicsStage.AFTER_POST_UPDATE, DynamicsStage.AFTER_STEP}
)
"""More than one of each, since a stage of a `FusedStage` fires fewer stages than a dynamics by itself."""


class FreezeAtomsHook:
    """Keeps the atoms with `atom_categories == freeze_category` in place, whatever the integrator or optimizer does.

    Positions are noted before the first update of a step. After each update they are put back and the velocities of these atoms zeroed,
    after the first already, so that the model sees the frozen atoms where they are. With `zero_forces` their forces are zeroed too, as
    soon as they are computed, so that they count neither for an optimizer's step nor for convergence. On a `FusedStage` as a whole,
    register this hook before the one for neighbour lists.

    Constraints that come with a structure need no hook: they are in the field `fixed`, which the dynamics respects component by component.

    Args:
        frequency: steps between two applications; above 1 frozen atoms move in between.
        freeze_category: category of the atoms to freeze.
        zero_forces: whether forces on them are zeroed.
        stage: the contract's; the hook chooses its stages itself.

    >>> batch = Batch.from_arrays([2], {"positions": torch.zeros(2, 3), "atom_categories": torch.tensor([0, -1])}, {})
    >>> hook = FreezeAtomsHook()
    >>> ctx = DynamicsContext(batch=batch)
    >>> hook(ctx, DynamicsStage.BEFORE_PRE_UPDATE)
    >>> batch.positions += 1.0
    >>> hook(ctx, DynamicsStage.AFTER_PRE_UPDATE)
    >>> batch.positions.tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        frequency: int = 1,
        freeze_category: int = SPECIAL_CATEGORY,
        zero_forces: bool = True,
        stage: Enum = DynamicsStage.BEFORE_PRE_UPDATE,
    ) -> None:
        self.frequency = frequency
        self.freeze_category = freeze_category
        self.zero_forces = zero_forces
        self.stage = stage

    def _runs_on_stage(self, stage: Enum) -> bool:
        return stage in _SAVE or stage in _RESTORE or stage == DynamicsStage.AFTER_COMPUTE

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Note positions, put them back, or zero forces, as the stage demands.

        Raises:
            BatchKeyError: the batch has no `atom_categories`.
        """
        if ctx.batch is None:
            return
        batch: Batch = ctx.batch
        active = torch.ones(batch.num_nodes, 1, dtype=torch.bool, device=batch.device)
        if ctx.active_graph_mask is not None:
            active = ctx.active_graph_mask[batch.batch_idx.long()].unsqueeze(1)
        frozen = (batch["atom_categories"] == self.freeze_category).unsqueeze(1) & active
        with torch.no_grad():
            if stage in _SAVE:
                _save(batch, active)
            elif stage in _RESTORE:
                self._restore(batch, frozen)
            if self.zero_forces and "forces" in batch and stage in (DynamicsStage.AFTER_COMPUTE, DynamicsStage.AFTER_POST_UPDATE):
                _replace(batch["forces"], frozen, 0.0)
            if stage == DynamicsStage.AFTER_STEP and _SAVED_KEY in batch:
                del batch[_SAVED_KEY]

    def _restore(self, batch: Batch, frozen: Bool[Tensor, "A 1"]) -> None:
        if _SAVED_KEY not in batch:
            return  # an evaluation before the first step
        _replace(batch["positions"], frozen, batch[_SAVED_KEY])
        if "velocities" in batch:
            _replace(batch["velocities"], frozen, 0.0)


def _save(batch: Batch, active: Bool[Tensor, "A 1"]) -> None:
    """Note positions; those of systems that another stage works on and may have moved already stay as they were noted."""
    positions = batch["positions"].detach()
    saved = torch.where(active, positions, batch[_SAVED_KEY]) if _SAVED_KEY in batch else positions.clone()
    batch.add_key(_SAVED_KEY, saved, level="node", overwrite=True)


def _replace(tensor: Tensor, where: Bool[Tensor, "A 1"], value: Tensor | float) -> None:
    replacement = value if isinstance(value, Tensor) else torch.full_like(tensor, value)
    tensor.copy_(torch.where(where, replacement, tensor))
