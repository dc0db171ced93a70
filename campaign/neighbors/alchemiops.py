"""Neighbours of large systems by cell lists from nvalchemiops; no other file knows that package.

The library's kernels are given only what they are known to get right, and what they return is brought into the form that all our lists
have:

- They take cells of full rank and positions inside them. So missing and non-periodic vectors are replaced by perpendicular ones that
  enclose the atoms (a zero cell raises there; a molecule in a cell of its own would be wrapped into it), positions are wrapped here, and
  shifts are counted back to where the atoms are.
- A row comes in the order in which threads got there. It is sorted by (neighbour, shift).
- Counts go on when a row is full; the search is then repeated with wider rows.
- `half_fill` picks one of the two directions of a pair by its image; ours is by index, and is applied when a row is sorted.
- Positions that are not finite end up anywhere; the caller does not send such systems here.

Kernels run in float64 whatever the batch is in: in float32 distances in a 10^4 Å box are wrong by 10^-3 Å.
"""

from __future__ import annotations

import importlib.metadata
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int32
from numpy import ndarray
from torch import Tensor

from campaign.data import Segments
from campaign.data.pointers import select_rows
from campaign.data.warp_interop import launch
from campaign.neighbors.cells import Cells
from campaign.neighbors.row_kernels import settle_rows
from campaign.neighbors.rows import NeighborRows

__all__ = ["complete_basis", "find_pairs_in_cell_lists", "library_version"]

_FIRST_WIDTH: Final = 64
"""Width of the rows of the first attempt, where nothing is known yet."""


def find_pairs_in_cell_lists(
    positions: Float[Tensor, "A 3"],
    atoms: Segments,
    cells: Cells,
    pbc: Bool[Tensor, "N 3"] | None,
    systems: ndarray,
    radius: float,
    half: bool,
    rows: NeighborRows,
) -> None:
    """Write the rows of the atoms of `systems` (positions in the batch), which must be finite and have usable cells.

    The meaning of rows, counts and `half` is that of `all_pairs.find_pairs`.
    """
    device = atoms.device
    ptr, gather = select_rows(atoms.ptr, systems)
    own = Segments(np.diff(ptr), device)
    places = torch.from_numpy(gather).to(device)
    periodic = np.zeros((len(systems), 3), dtype=bool) if pbc is None else pbc.cpu().numpy()[systems]
    boxes, wrapped, offsets = _enclose(positions[places].to(torch.float64), own, cells.vectors.cpu().numpy()[systems], periodic, radius)
    found = _search(wrapped, boxes, torch.from_numpy(periodic).to(device), own, radius, max(_FIRST_WIDTH, rows.width))
    moved = torch.from_numpy((atoms.ptr[systems] - ptr[:-1]).astype(np.int32)).to(device)
    launch(
        settle_rows,
        own.n_rows,
        [
            found.matrix,
            found.shifts,
            found.counts,
            own.batch_idx,
            moved,
            offsets,
            int(half),
            atoms.n_rows,
            rows.matrix,
            rows.shifts,
            rows.counts,
        ],
        device,
    )


def library_version() -> str:
    """Return the version of the package that is installed."""
    return importlib.metadata.version("nvalchemi-toolkit-ops")


def _enclose(
    positions: Float64[Tensor, "A 3"], atoms: Segments, vectors: Float64[ndarray, "N 3 3"], periodic: Bool[ndarray, "N 3"], radius: float
) -> tuple[Float64[Tensor, "N 3 3"], Float64[Tensor, "A 3"], Int32[Tensor, "A 3"]]:
    """Return boxes of full rank, positions inside them, and by how many periodic vectors each atom was moved."""
    boxes = torch.from_numpy(np.stack([complete_basis(cell, along) for cell, along in zip(vectors, periodic, strict=True)])).to(positions)
    owner = atoms.batch_idx.long()
    fractional = torch.einsum("ai,aij->aj", positions, torch.linalg.inv(boxes)[owner])
    along = torch.from_numpy(periodic).to(positions.device)
    offsets = torch.where(along[owner], fractional.floor(), 0.0)
    wrapped = positions - torch.einsum("ai,aij->aj", offsets, boxes[owner])
    # Perpendicular directions: begin below the lowest atom, end above the highest.
    index = owner.unsqueeze(1).expand_as(fractional)
    low = torch.full_like(boxes[:, 0], torch.inf).scatter_reduce(0, index, fractional, "amin")
    high = torch.full_like(boxes[:, 0], -torch.inf).scatter_reduce(0, index, fractional, "amax")
    margin = 0.1 * radius
    length = torch.where(along, 1.0, high - low + 2.0 * margin)
    start = torch.where(along, 0.0, low - margin)
    wrapped = wrapped - torch.einsum("ni,nij->nj", start, boxes)[owner]
    return (boxes * length.unsqueeze(2)).contiguous(), wrapped.contiguous(), offsets.to(torch.int32).contiguous()


def complete_basis(cell: Float64[ndarray, "3 3"], periodic: Bool[ndarray, "3"]) -> Float64[ndarray, "3 3"]:
    """Return the cell with unit vectors, perpendicular to the periodic ones and each other, in place of the non-periodic ones.

    >>> complete_basis(np.diag([3.0, 4.0, 0.0]), np.array([True, True, False])).tolist()
    [[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 1.0]]
    """
    basis = np.array(cell, dtype=np.float64)
    kept = [row / np.linalg.norm(row) for row in basis[periodic]]
    if len(kept) == 2:
        missing = np.cross(kept[0], kept[1])
        basis[~periodic] = missing / np.linalg.norm(missing)
        return basis
    for direction in np.flatnonzero(~periodic):
        # The axis least covered so far, made perpendicular to the others.
        axis = np.eye(3)[np.argmin(np.abs(np.array(kept)).sum(axis=0) if kept else np.zeros(3))]
        for other in kept:
            axis = axis - np.dot(axis, other) * other
        basis[direction] = axis / np.linalg.norm(axis)
        kept.append(basis[direction])
    return basis


def _search(
    positions: Float64[Tensor, "A 3"], boxes: Float64[Tensor, "N 3 3"], pbc: Bool[Tensor, "N 3"], atoms: Segments, radius: float, width: int
) -> NeighborRows:
    # Here and not on top: the package takes a second to import, and campaigns of small structures never need it.
    from nvalchemiops.torch.neighbors.batch_cell_list import batch_cell_list

    while True:
        matrix, counts, shifts = batch_cell_list(
            positions, radius, boxes, pbc, atoms.batch_idx, max_neighbors=width, batch_ptr=atoms.batch_ptr
        )
        longest = int(counts.max())
        if longest <= width:
            return NeighborRows(matrix=matrix, shifts=shifts, counts=counts)
        width = longest
