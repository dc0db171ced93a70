"""What a search needs to know of periodic cells: dual vectors, how many images lie within the cutoff, and whether there is an end to them.

The dual vectors d_k of the periodic cell vectors a_l lie in what those span and have d_k·a_l = δ_kl; for a bulk crystal they are the
columns of the inverse cell, for a slab the in-plane ones, for a molecule there are none. Vectors along non-periodic directions, zero
vectors among them, play no part, whatever they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from campaign.data.warp_interop import launch
from campaign.neighbors import search_kernel

__all__ = ["ENDLESS", "MAX_IMAGES", "NOT_FINITE", "Cells", "measure_cells"]

MAX_IMAGES: Final = int(search_kernel.MAX_IMAGES)
"""Images of a cell within reach beyond which a list is refused: such a cell has collapsed."""

ENDLESS: Final = int(search_kernel.ENDLESS)
"""State of a system whose periodic vectors are zero, linearly dependent, or so short that images are countless."""

NOT_FINITE: Final = int(search_kernel.NOT_FINITE)
"""State of a system whose cell holds NaN or infinity."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of N systems, in float64 whatever the batch is in: searches happen in it."""

    vectors: Float[Tensor, "N 3 3"]
    """Cell vectors as rows, Å."""
    duals: Float[Tensor, "N 3 3"]
    """Dual vectors as rows, 1/Å; zero along non-periodic directions."""
    reach: Float[Tensor, "N 3"]
    """Radius times the length of each dual vector: images further than this are out of range; zero along non-periodic directions."""
    state: Int32[Tensor, " N"]
    """0, ENDLESS or NOT_FINITE."""
    is_periodic: bool
    """Whether any system is periodic along any direction."""


def measure_cells(
    cell: Float[Tensor, "N 3 3"] | None, pbc: Bool[Tensor, "N 3"] | None, n_systems: int, radius: float, device: torch.device
) -> Cells:
    """Return what a search within `radius` (Å) needs to know of these cells; None stands for no cell and no periodicity.

    >>> cells = measure_cells(2.0 * torch.eye(3).repeat(1, 1, 1), torch.tensor([[True, True, False]]), 1, 3.0, torch.device("cpu"))
    >>> cells.reach.tolist()
    [[1.5, 1.5, 0.0]]
    """
    duals = torch.zeros((n_systems, 3, 3), dtype=torch.float64, device=device)
    reach = torch.zeros((n_systems, 3), dtype=torch.float64, device=device)
    state = torch.zeros(n_systems, dtype=torch.int32, device=device)
    if cell is None or pbc is None or not bool(pbc.any()):
        return Cells(torch.zeros_like(duals), duals, reach, state, is_periodic=False)
    vectors = cell.detach().to(torch.float64).contiguous()
    launch(search_kernel.measure_cells, n_systems, [vectors, pbc.contiguous(), radius, duals, reach, state], device)
    return Cells(vectors, duals, reach, state, is_periodic=True)
