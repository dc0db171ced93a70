"""Making neighbour rows: which search does which system, how wide rows must be, and when to refuse."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from campaign.data import Batch, Segments
from campaign.errors import NeighborListError
from campaign.neighbors.alchemiops import find_pairs_in_cell_lists, library_version
from campaign.neighbors.all_pairs import find_pairs
from campaign.neighbors.cells import ENDLESS, MAX_IMAGES, Cells
from campaign.neighbors.rows import NeighborRows, create_rows
from campaign.neighbors.search_kernel import FURTHEST_ANG

__all__ = ["LARGE_SYSTEM", "MAX_ROW_BYTES", "describe_search", "fill_rows", "likely_width", "make_rows", "roomy_width"]

LARGE_SYSTEM: Final = 1400
"""Atoms from which on a system is searched with cell lists; both searches take about 20 ms there on a CPU core."""

MOST_GUESSED_PLACES: Final = 2**24
"""Places in rows that are made for a width that is guessed: 256 MiB."""

MAX_ROW_BYTES: Final = 8 * 2**30
"""Size of neighbour rows beyond which they are refused."""

_log = logging.getLogger(__name__)


def describe_search() -> dict[str, str]:
    """Return what makes neighbour lists, for provenance.

    >>> sorted(describe_search())
    ['neighbors_large_systems', 'neighbors_small_systems']
    """
    return {
        "neighbors_small_systems": f"all pairs, below {LARGE_SYSTEM} atoms",
        "neighbors_large_systems": f"cell lists of nvalchemi-toolkit-ops {library_version()}",
    }


def make_rows(
    positions: Float[Tensor, "A 3"],
    atoms: Segments,
    cells: Cells,
    pbc: Bool[Tensor, "N 3"] | None,
    radius: float,
    half: bool,
    width: int | None = None,
) -> NeighborRows:
    """Return the rows of all systems, `width` wide or, by default and where that is too narrow, as wide as they need.

    Raises:
        NeighborListError: see `fill_rows`.
    """
    wanted = torch.ones(atoms.n_segments, dtype=torch.bool, device=atoms.device)
    if width is None:
        counted = create_rows(atoms.n_rows, 0, cells.is_periodic, atoms.device)
        width = roomy_width(fill_rows(positions, atoms, cells, pbc, wanted, radius, half, counted))
    while True:
        _refuse_huge(atoms, width, cells.is_periodic)
        rows = create_rows(atoms.n_rows, width, cells.is_periodic, atoms.device)
        longest = fill_rows(positions, atoms, cells, pbc, wanted, radius, half, rows)
        if longest <= width:
            return rows
        width = roomy_width(longest)


def roomy_width(longest: int) -> int:
    """Return a width for rows of up to `longest` neighbours, with room for some more.

    >>> roomy_width(0), roomy_width(12), roomy_width(100)
    (4, 16, 108)
    """
    return longest + longest // 16 + 4 - (longest + longest // 16) % 4


def likely_width(batch: Batch, radius: float) -> int | None:
    """Return how many neighbours within `radius` (Å) an atom of a batch has at most, by the densities; None where these say nothing.

    Looking for neighbours just to count them takes as long as making the rows; a wrong guess costs that much.

    >>> batch = Batch.from_arrays([4], {"positions": torch.zeros(4, 3)}, {"cell": 4 * torch.eye(3)[None], "pbc": torch.ones(1, 3) > 0})
    >>> likely_width(batch, 5.0)
    44
    """
    pbc = batch["pbc"]
    is_crystal, is_cluster = pbc.all(1), ~pbc.any(1)
    volume = torch.linalg.det(batch["cell"]).abs()
    if not bool((is_cluster | (is_crystal & (volume > 0))).all()):
        return None
    n_atoms = batch.num_nodes_per_graph.view(-1)
    around = 1.25 * n_atoms / volume * (4.0 / 3.0 * torch.pi * radius**3)
    most = float(torch.where(is_crystal, around, n_atoms).max())
    # A collapsed cell makes it as large as can be.
    return int(most) + 4 if most * batch.num_nodes <= MOST_GUESSED_PLACES else None


def fill_rows(
    positions: Float[Tensor, "A 3"],
    atoms: Segments,
    cells: Cells,
    pbc: Bool[Tensor, "N 3"] | None,
    wanted: Bool[Tensor, " N"],
    radius: float,
    half: bool,
    rows: NeighborRows,
) -> int:
    """Write the rows of the wanted systems and return the length of the longest row there is; one wider than `rows` is cut.

    Raises:
        NeighborListError: a wanted system has a cell whose images are endless.
    """
    _refuse_endless(cells, wanted)
    large = _large_systems(positions, atoms, cells, wanted)
    if len(large):
        wanted = wanted.clone()
        wanted[torch.from_numpy(large).to(wanted.device)] = False
        find_pairs_in_cell_lists(positions, atoms, cells, pbc, large, radius, half, rows)
    find_pairs(positions, atoms, cells, wanted, radius, half, rows)
    return int(rows.counts.max()) if atoms.n_rows else 0


def _large_systems(positions: Tensor, atoms: Segments, cells: Cells, wanted: Tensor) -> Int64[ndarray, " M"]:
    large = np.flatnonzero(atoms.lengths >= LARGE_SYSTEM)
    if len(large) == 0:
        return large
    # Cell lists cannot place an atom that is nowhere or very far away; looking at all pairs can say that it is lost.
    usable = (wanted & (cells.state == 0)).cpu().numpy()
    usable_large = [s for s in large if usable[s] and float(_of_system(positions, atoms, s).abs().max()) < FURTHEST_ANG]
    _log.debug("neighbours of %d systems by nvalchemiops cell lists", len(usable_large))
    return np.array(usable_large, dtype=np.int64)


def _of_system(positions: Tensor, atoms: Segments, system: int) -> Tensor:
    return positions[int(atoms.ptr[system]) : int(atoms.ptr[system + 1])]


def _refuse_endless(cells: Cells, wanted: Tensor) -> None:
    if not cells.is_periodic:
        return
    endless = torch.nonzero(wanted & (cells.state == ENDLESS)).flatten().tolist()
    if endless:
        raise NeighborListError(
            f"system {endless[0]} of the batch has the cell {cells.vectors[endless[0]].tolist()} ({len(endless)} such systems); periodic "
            f"vectors must not be zero, linearly dependent, or so short that more than {MAX_IMAGES} images are within reach. Correct the "
            "structure or take the system out of the batch.",
            tuple(endless),
        )


def _refuse_huge(atoms: Segments, width: int, with_shifts: bool) -> None:
    n_bytes = atoms.n_rows * width * (16 if with_shifts else 4)
    if n_bytes > MAX_ROW_BYTES:
        raise NeighborListError(
            f"neighbour rows of {atoms.n_rows} atoms, {width} wide, take {n_bytes / 2**30:.1f} GiB; {MAX_ROW_BYTES / 2**30:.0f} GiB are "
            "allowed. Put fewer atoms into the batch, or leave out the system with the densest cell.",
        )
