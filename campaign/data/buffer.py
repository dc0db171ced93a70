"""A batch as a buffer: room of fixed size that systems are put into and removed from without allocating anything.

Tensors of such a batch have as many rows as there is room for; those beyond what is in use are zero. Reading a key gives the rows in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor

from campaign.data.levels import EDGE_INDEX_KEYS
from campaign.data.pointers import mask_fitting, select_rows
from campaign.data.segments import Segments
from campaign.errors import BatchError
from campaign.fields import Level

if TYPE_CHECKING:
    from campaign.data.batch import Batch

__all__ = ["allocate", "checked_mask", "pad", "put", "remove", "zero"]

_NONE = np.zeros(0, dtype=np.int64)


def allocate(
    template: Batch, capacity: dict[Level, int], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Level], Segments, Segments, dict[Level, int]]:
    """Return the parts of a batch of no systems with room for so many rows of each level.

    Raises:
        BatchError: a number of rows is negative.
    """
    if min(capacity.values()) < 0:
        asked = ", ".join(f"{n} per {level}" for level, n in capacity.items())
        raise BatchError(f"room for {asked} was asked for; none can be negative. Correct it.")
    levels = dict(template._levels)
    tensors = {
        key: torch.zeros((capacity[level], *template._tensors[key].shape[1:]), dtype=template._tensors[key].dtype, device=device)
        for key, level in levels.items()
    }
    return tensors, levels, Segments(_NONE.copy(), device), Segments(_NONE.copy(), device), capacity


def put(batch: Batch, source: Batch, mask: Tensor, dest_mask: Tensor | None, copied_mask: Tensor | None = None) -> Bool[Tensor, " M"]:
    """Copy what fits of the masked systems of `source`; return which were copied, and write it to `copied_mask` where one is given.

    Raises:
        BatchError: a mask has the wrong length, or `source` lacks a key of the batch or has it with other rows.
    """
    wanted = checked_mask(mask, source.num_graphs, "mask").cpu().numpy()
    if copied_mask is not None:
        checked_mask(copied_mask, source.num_graphs, "copied_mask")
    free = {level: _room(batch, level) - batch.n_rows(level) for level in Level}
    if dest_mask is not None:
        occupied = checked_mask(dest_mask, batch.system_capacity, "dest_mask")
        free[Level.SYSTEM] = min(free[Level.SYSTEM], int((~occupied).sum()))
    needs_edges = Level.EDGE in batch._levels.values()
    demands: list[tuple[Int64[ndarray, " M"] | int, int]] = [(1, free[Level.SYSTEM]), (source.atom_segments.lengths, free[Level.ATOM])]
    if needs_edges:
        demands.append((source.edge_segments.lengths, free[Level.EDGE]))
    copied = mask_fitting(wanted, demands)
    if copied.any():
        _copy(batch, source, np.flatnonzero(copied), needs_edges)
        if dest_mask is not None:
            dest_mask[torch.nonzero(~dest_mask).flatten()[: int(copied.sum())]] = True
    result = torch.from_numpy(copied).to(source.device)
    if copied_mask is not None:
        copied_mask.copy_(result)
    return result


def _copy(batch: Batch, source: Batch, systems: Int64[ndarray, " M"], needs_edges: bool) -> None:
    rows = {Level.SYSTEM: systems, Level.ATOM: select_rows(source.atom_segments.ptr, systems)[1]}
    n_edges = np.zeros(len(systems), dtype=np.int64)
    if needs_edges:
        rows[Level.EDGE] = select_rows(source.edge_segments.ptr, systems)[1]
        n_edges = source.edge_segments.lengths[systems]
    lengths = source.atom_segments.lengths[systems]
    atoms = Segments(np.concatenate([batch.atom_segments.lengths, lengths]), batch.device)
    edges = Segments(np.concatenate([batch.edge_segments.lengths, n_edges]), batch.device)
    gather = {level: torch.from_numpy(index).to(source.device) for level, index in rows.items()}
    incoming = {}
    for key, level in batch._levels.items():
        own = batch._tensors[key]
        if key not in source:
            raise BatchError(f"the source of a put has no key {key!r}, which this batch has. Delete it here or set it there.")
        if source[key].shape[1:] != own.shape[1:]:
            raise BatchError(
                f"{key} has rows of shape {tuple(source[key].shape[1:])} in the source of a put and {tuple(own.shape[1:])} here; they must "
                "be alike. Delete the key on both sides or make a new buffer."
            )
        incoming[key] = torch.index_select(source[key], 0, gather[level]).to(batch.device)
    start = {level: batch.n_rows(level) for level in Level}
    _renumber(incoming, source, systems, atoms, edges, batch)
    for key, tensor in incoming.items():
        first = start[batch._levels[key]]
        batch._tensors[key][first : first + len(tensor)] = tensor
    batch.__dict__["atom_segments"], batch.__dict__["edge_segments"] = atoms, edges


def _renumber(
    incoming: dict[str, Tensor],
    source: Batch,
    systems: Int64[ndarray, " M"],
    atoms: Segments,
    edges: Segments,
    batch: Batch,
) -> None:
    n_before = batch.num_graphs
    moved = atoms.ptr[n_before:-1] - source.atom_segments.ptr[systems]
    for key in EDGE_INDEX_KEYS & incoming.keys():
        shift = torch.from_numpy(np.repeat(moved, edges.lengths[n_before:]))
        incoming[key] = incoming[key] + shift.to(batch.device, incoming[key].dtype).unsqueeze(1)
    if "neighbor_matrix" in incoming:
        matrix = incoming["neighbor_matrix"]
        shift = torch.from_numpy(np.repeat(moved, atoms.lengths[n_before:])).to(batch.device, matrix.dtype).unsqueeze(1)
        incoming["neighbor_matrix"] = torch.where(matrix == source.num_nodes, atoms.n_rows, matrix + shift).to(matrix.dtype)
        own = batch._tensors["neighbor_matrix"][: batch.num_nodes]
        own[own == batch.num_nodes] = atoms.n_rows


def remove(batch: Batch, mask: Bool[Tensor, " N"]) -> None:
    """Remove the masked systems, move the others to the front and zero what is no longer in use; the room stays."""
    keep = np.flatnonzero(~mask.cpu().numpy())
    capacity = {level: _room(batch, level) for level in Level}
    if len(keep) == 0:
        zero(batch)
    else:
        kept = batch.index_select(keep)
        for key, level in batch._levels.items():
            batch._tensors[key] = pad(kept._tensors[key], capacity[level])
        batch.__dict__["atom_segments"], batch.__dict__["edge_segments"] = kept.atom_segments, kept.edge_segments
    batch.__dict__["_capacity"] = capacity
    batch.__dict__.pop("_copied_mask", None)


def zero(batch: Batch) -> None:
    """Remove all systems and set every number to zero; the room stays."""
    batch.__dict__["_capacity"] = {level: _room(batch, level) for level in Level}
    for tensor in batch._tensors.values():
        tensor.zero_()
    for name in ("atom_segments", "edge_segments"):
        batch.__dict__[name] = Segments(_NONE.copy(), batch.device)


def pad(tensor: Tensor, n_rows: int) -> Tensor:
    """Return the tensor with rows of zeros after it, `n_rows` in all."""
    if tensor.shape[0] == n_rows:
        return tensor
    padded = tensor.new_zeros((n_rows, *tensor.shape[1:]))
    padded[: tensor.shape[0]] = tensor
    return padded


def checked_mask(mask: Tensor, n: int, name: str) -> Bool[Tensor, " N"]:
    """Return a mask as bool.

    Raises:
        BatchError: it has another number of entries.
    """
    if mask.ndim != 1 or len(mask) != n:
        raise BatchError(f"{name} has shape {tuple(mask.shape)}; it must be ({n},). Give one entry per system.")
    return mask.to(torch.bool)


def _room(batch: Batch, level: Level) -> int:
    return batch.n_rows(level) if batch._capacity is None else int(batch._capacity[level])
