"""Neighbours of small systems by looking at all pairs, written in their final order.

An atom j has images r_j + S·C, with C the cell vectors as rows and S whole numbers. With the dual vectors d_k of `cells.py`, an image
within the radius R of atom i has

    |(r_j - r_i)·d_k + S_k| < R |d_k|

for each periodic direction k, since its distance is not shorter than its component along d_k. Only the few S that this leaves are looked
at, wherever the atoms are: positions need not lie in the cell, which may be skewed, smaller than the radius, or not span space.

On CPU a thread does a whole system, looks at each pair once and writes it into both rows; on a GPU a thread does one atom. Either way rows
come out sorted by (j, S) without sorting, and no two threads write to one place, so neither batch mates nor the device change a bit.

nvalchemiops' naive kernel tests every pair with every image in range, needs positions wrapped and rows sorted around it, and takes 2.5
times as long for 128 periodic systems of 32 and 108 atoms on a CPU core (70 against 28 ms). From about a thousand atoms on cell lists
win: see `alchemiops.py`.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from campaign.data import Segments
from campaign.data.warp_interop import launch, precision_of
from campaign.neighbors.cells import Cells
from campaign.neighbors.rows import NeighborRows
from campaign.neighbors.search_kernel import search_kernel

__all__ = ["find_pairs"]


def find_pairs(
    positions: Float[Tensor, "A 3"],
    atoms: Segments,
    cells: Cells,
    wanted: Bool[Tensor, " N"],
    radius: float,
    half: bool,
    rows: NeighborRows,
    by_system: bool | None = None,
) -> None:
    """Write the rows of the atoms of the wanted systems; a count above the width of the rows says that a row is cut.

    With `half` each pair is in one row only: that of its atom with the smaller index, or, for an atom and its own images, that with the
    first nonzero S_k positive. An atom whose position or cell is NaN or infinite, or that has another 10^8 Å away, gets one such
    neighbour, whatever the distance, so that it is not taken for an atom without any. Systems whose images are endless get none.
    `by_system` chooses what a thread does, and nothing else.
    """
    if by_system is None:
        by_system = atoms.device.type == "cpu"
    launch(
        search_kernel(precision_of(positions.dtype)),
        atoms.n_segments if by_system else atoms.n_rows,
        [
            atoms.batch_idx,
            atoms.batch_ptr,
            wanted,
            positions,
            cells.vectors,
            cells.duals,
            cells.reach,
            cells.state,
            radius,
            int(half),
            int(by_system),
            atoms.n_rows,
            rows.matrix,
            rows.shifts,
            rows.counts,
        ],
        atoms.device,
    )
