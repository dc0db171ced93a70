"""Edges of a batch as graph networks read them, from either neighbour format, without the pairs that only a Verlet skin lets in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from campaign.data import Batch
from campaign.errors import ContractError

__all__ = ["Edges", "edges_within", "volumes"]


@dataclass(frozen=True, slots=True)
class Edges:
    """E pairs, each from both sides: from `source` to the image `shift` of `target`, both counted through the batch."""

    source: Int64[Tensor, " E"]
    target: Int64[Tensor, " E"]
    shift: Float[Tensor, "E 3"]
    vector: Float[Tensor, "E 3"]
    """r(target) + shift·cell − r(source), in Å, in the dtype of the positions."""


def edges_within(batch: Batch, cutoff_ang: float) -> Edges:
    """Return the pairs of a batch's `neighbor_list` that are closer than `cutoff_ang`, in the order of the list.

    Raises:
        ContractError: the batch has no `neighbor_list`.
    """
    if "neighbor_list" not in batch:
        raise ContractError("the batch has no 'neighbor_list'; a graph network needs one. Register the hooks of make_neighbor_hooks().")
    pairs = batch["neighbor_list"].long()
    source, target = pairs[:, 0], pairs[:, 1]
    positions = batch["positions"].detach()
    vector = positions[target] - positions[source]
    if "neighbor_list_shifts" in batch and "cell" in batch:
        shift = batch["neighbor_list_shifts"].to(positions.dtype)
        cell = batch["cell"].to(positions.dtype)[batch.batch_idx[source].long()]
        vector = vector + torch.einsum("ek,ekx->ex", shift, cell)
    else:
        shift = torch.zeros_like(vector)
    # NaN is no distance beyond the cutoff: the edge stays, so that the outputs are not finite either.
    is_near = ~(vector.square().sum(dim=1) >= cutoff_ang * cutoff_ang)
    # How many there are decides about shapes, so here a GPU is waited for, once.
    near = is_near.nonzero().view(-1)
    return Edges(source[near], target[near], shift[near], vector[near])


def volumes(batch: Batch) -> Float[Tensor, " N"]:
    """Return |det cell| in Å³ of each system, zero for one that is periodic in no direction."""
    if "cell" not in batch or "pbc" not in batch:
        return torch.zeros(batch.num_graphs, dtype=batch["positions"].dtype, device=batch.device)
    volume = torch.linalg.det(batch["cell"].to(batch["positions"].dtype)).abs()
    return torch.where(batch["pbc"].any(dim=1), volume, torch.zeros_like(volume))
