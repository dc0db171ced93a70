"""Bringing atoms back into their cells."""

from __future__ import annotations

from enum import Enum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from campaign.data import Batch
from campaign.fields import NEIGHBOR_KEYS
from campaign.hooks.context import HookContext
from campaign.hooks.stages import DynamicsStage

__all__ = ["WrapPeriodicHook", "wrapped_positions"]


class WrapPeriodicHook:
    """Moves atoms by whole cell vectors into their cell, along periodic directions only; nothing else changes.

    Energies and forces do not depend on it, so it is for reading and for long trajectories. Only systems of `ctx.active_graph_mask`, if
    there is one, are touched. Where an atom moves, shifts of neighbours no longer fit: neighbour data is then taken off the batch, and
    `NeighborListHook` makes it anew before the next evaluation.

    Args:
        frequency: fire at every so many steps.
        stage: when to fire; after the last update of positions, unless told otherwise.

    >>> WrapPeriodicHook(frequency=10).stage
    <DynamicsStage.AFTER_POST_UPDATE: 6>
    """

    def __init__(self, frequency: int = 1, stage: Enum | None = None) -> None:
        self.frequency = frequency
        self.stage: Enum | None = DynamicsStage.AFTER_POST_UPDATE if stage is None else stage

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Wrap the positions of `ctx.batch` in place."""
        del stage
        batch = ctx.batch
        if batch is None or "cell" not in batch or "pbc" not in batch:
            return
        pbc = batch["pbc"]
        active = getattr(ctx, "active_graph_mask", None)
        if active is not None:
            pbc = pbc & active.reshape(-1, 1)
        if _wrap(batch, pbc):
            for key in NEIGHBOR_KEYS & (batch.keys["node"] | batch.keys["edge"]):
                del batch[key]


def wrapped_positions(
    positions: Float[Tensor, "A 3"], cell: Float[Tensor, "N 3 3"], pbc: Bool[Tensor, "N 3"], batch_idx: Tensor
) -> Float[Tensor, "A 3"]:
    """Return positions moved by whole periodic vectors so that fractional coordinates along these are in [0, 1).

    Vectors that are missing or not periodic may be anything; periodic ones that are linearly dependent leave a system as it is.

    >>> positions, cell, pbc = torch.tensor([[5.0, -1.0, 9.0]]), 4 * torch.eye(3)[None], torch.tensor([[True, True, False]])
    >>> wrapped_positions(positions, cell, pbc, torch.tensor([0])).tolist()
    [[1.0, 3.0, 9.0]]
    """
    index = batch_idx.long()
    # In float64 whatever the batch is in, so that an atom on a face does not go to and fro.
    vectors = torch.where(pbc.unsqueeze(2), cell.double(), 0.0)
    duals = torch.linalg.pinv(vectors).transpose(1, 2)
    fractional = torch.einsum("ai,aki->ak", positions.double(), duals[index])
    whole = fractional.floor()
    # A fraction just below 0 rounds to 1 when wrapped; that is the next cell's 0.
    whole = torch.where(fractional - whole >= 1.0, whole + 1.0, whole)
    moved = positions - torch.einsum("ak,aki->ai", whole, vectors[index]).to(positions.dtype)
    return torch.where((whole != 0.0).any(dim=1, keepdim=True), moved, positions)


def _wrap(batch: Batch, pbc: Bool[Tensor, "N 3"]) -> bool:
    positions = batch["positions"]
    moved = wrapped_positions(positions.detach(), batch["cell"].detach(), pbc, batch.batch_idx)
    if torch.equal(moved, positions):
        return False
    with torch.no_grad():
        positions.copy_(moved)
    return True
