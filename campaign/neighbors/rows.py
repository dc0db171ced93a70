"""Neighbour rows: for each atom its neighbours in canonical order, in a matrix as wide as the longest row needs.

Canonical means sorted by (index of the neighbour, shift): a sum along a row then has the same terms in the same order whatever the batch
mates are, whenever the list was made and whatever made it, and is the same to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int32
from torch import Tensor

from campaign.data import Segments
from campaign.data.warp_interop import launch
from campaign.neighbors import row_kernels

__all__ = ["NeighborRows", "copy_rows", "create_rows", "edges_of"]


class NeighborRows:
    """Rows of A atoms, K entries wide."""

    __slots__ = ("_zeros", "counts", "matrix", "shifts")

    matrix: Int32[Tensor, "A K"]
    """Neighbours, counted through the batch; A where a row has no more."""
    shifts: Int32[Tensor, "A K 3"]
    """S of each neighbour, which is at r_j + S·C; 0 entries wide where no system is periodic."""
    counts: Int32[Tensor, " A"]
    """Neighbours of each atom."""

    def __init__(self, matrix: Int32[Tensor, "A K"], shifts: Int32[Tensor, "A K 3"], counts: Int32[Tensor, " A"]) -> None:
        self.matrix, self.shifts, self.counts = matrix, shifts, counts
        self._zeros: Tensor | None = None

    @property
    def width(self) -> int:
        """K."""
        return int(self.matrix.shape[1])

    @property
    def has_shifts(self) -> bool:
        """Whether shifts are kept, which is where a system is periodic."""
        return self.shifts.shape[1] == self.matrix.shape[1]

    @property
    def all_shifts(self) -> Int32[Tensor, "A K 3"]:
        """Shifts in full width: zeros, made once, where none are kept."""
        if self.has_shifts:
            return self.shifts
        n = 3 * self.matrix.numel()
        if self._zeros is None or self._zeros.numel() < n:
            self._zeros = torch.zeros(n, dtype=torch.int32, device=self.matrix.device)
        return self._zeros[:n].view(*self.matrix.shape, 3)

    def take_zeros(self, other: NeighborRows) -> None:
        """Use the zeros of other rows, which are a megabyte or more, instead of making some."""
        self._zeros = other._zeros


def create_rows(n_atoms: int, width: int, with_shifts: bool, device: torch.device) -> NeighborRows:
    """Return rows with nothing in them yet, not even counts: whoever makes them writes every row to its end."""
    return NeighborRows(
        matrix=torch.empty((n_atoms, width), dtype=torch.int32, device=device),
        shifts=torch.empty((n_atoms, width if with_shifts else 0, 3), dtype=torch.int32, device=device),
        counts=torch.empty(n_atoms, dtype=torch.int32, device=device),
    )


def copy_rows(old: NeighborRows, old_atoms: Segments, new: NeighborRows, new_atoms: Segments, source: Int32[Tensor, " N"]) -> None:
    """Copy the rows of systems that stay: system n of the new batch is system `source[n]` of the old one, or new where that is negative.

    The new rows are at least as wide as the longest row that is copied.
    """
    launch(
        row_kernels.copy_rows,
        new_atoms.n_rows,
        [
            old.matrix,
            old.shifts,
            old.counts,
            old_atoms.batch_ptr,
            source,
            new_atoms.batch_idx,
            new_atoms.batch_ptr,
            new_atoms.n_rows,
            new.matrix,
            new.shifts,
            new.counts,
        ],
        new_atoms.device,
    )


def edges_of(rows: NeighborRows, atoms: Segments) -> tuple[Any, Int32[Tensor, "E 2"], Int32[Tensor, "E 3"]]:
    """Return edges per system (numpy, int64), (i, j) and S of each edge, in the order of the rows.

    Where no system is periodic, S is zero.
    """
    columns = torch.arange(rows.width, dtype=torch.int32, device=atoms.device)
    used = columns < rows.counts.unsqueeze(1)
    first = torch.arange(atoms.n_rows, dtype=torch.int32, device=atoms.device).repeat_interleave(rows.counts)
    pairs = torch.stack([first, rows.matrix[used]], dim=1)
    shifts = rows.shifts[used] if rows.has_shifts else torch.zeros((len(pairs), 3), dtype=torch.int32, device=atoms.device)
    total = torch.zeros(atoms.n_rows + 1, dtype=torch.int64, device=atoms.device)
    torch.cumsum(rows.counts, 0, out=total[1:])
    per_system = total[atoms.batch_ptr.long()].diff()
    return per_system.cpu().numpy(), pairs, shifts
