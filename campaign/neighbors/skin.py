"""When a neighbour list with a skin is still complete: how far atoms may move, given how the cell has been strained.

A list made within cutoff + skin, at positions r⁰ and cell vectors a⁰_k with dual vectors d⁰_k. Since then the cell has become a_k, which
maps space by x → x·F with F = 1 + Σ_k d⁰_k ⊗ (a_k - a⁰_k), and atoms have moved by u_i = r_i - r⁰_i·F besides. A pair that is not listed
was at a distance x⁰ ≥ cutoff + skin and is now at

    |x| = |x⁰·F + u_j - u_i| ≥ (1 - |F - 1|)(cutoff + skin) - 2 max|u|

so nothing is missing as long as max|u| ≤ ((1 - |F - 1|)(cutoff + skin) - cutoff) / 2: half the skin for a cell that stays, less for one
that changes, whether it shrinks or not. A cell relaxation that carries its atoms along makes u small and rarely needs a new list.

It is also kept below half of the shortest lattice vector (which is not shorter than 1 / max|d⁰_k|), so that an atom that was moved by one,
into its cell, is noticed: the shifts of its pairs are other ones.

This holds whoever the atoms are, so it also decides whether the rows of a system that has changed its place in the batch can be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy import ndarray
from torch import Tensor

from campaign.data import Segments
from campaign.data.pointers import gather_rows
from campaign.data.warp_interop import launch, precision_of
from campaign.neighbors.skin_kernel import check_kernel

__all__ = ["Reference", "allowed_displacement", "outgrown_systems", "search_radius"]

_MARGIN_ANG: Final = {torch.float64: 1e-9, torch.float32: 1e-3}
"""What is searched beyond cutoff and skin, so that no pair that a model's own rounding puts inside the cutoff is missing: with positions
up to 1000 Å it is larger than the error of a distance."""


def search_radius(cutoff: float, skin: float, dtype: torch.dtype) -> float:
    """Return the radius (Å) to search within for positions of this dtype.

    >>> search_radius(5.0, 1.0, torch.float64) > 6.0
    True
    """
    return cutoff + skin + _MARGIN_ANG[dtype]


def allowed_displacement(cutoff: float, skin: float, strain: float) -> float:
    """Return how far (Å) atoms may move besides following the cell; negative where the strain |F - 1| alone has used up the skin.

    >>> allowed_displacement(5.0, 1.0, 0.0)
    0.5
    >>> round(allowed_displacement(5.0, 1.0, 0.1), 12)
    0.2
    """
    return ((1.0 - strain) * (cutoff + skin) - cutoff) / 2.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Where atoms and cells of N systems were when their rows were made; cells in float64."""

    positions: Float[Tensor, "A 3"]
    vectors: Float64[Tensor, "N 3 3"]
    duals: Float64[Tensor, "N 3 3"]
    pbc: Bool[Tensor, "N 3"]

    def renewed(self, systems: Bool[Tensor, " N"], atoms: Segments, now: Reference) -> Reference:
        """Return a reference that is `now` for some systems and unchanged for the others."""
        of_atom = systems[atoms.batch_idx].unsqueeze(1)
        of_cell = systems.view(-1, 1, 1)
        return Reference(
            positions=torch.where(of_atom, now.positions, self.positions),
            vectors=torch.where(of_cell, now.vectors, self.vectors),
            duals=torch.where(of_cell, now.duals, self.duals),
            pbc=torch.where(systems.unsqueeze(1), now.pbc, self.pbc),
        )

    def take(
        self, other: Reference, atoms: Segments, systems: Int[ndarray, " M"], other_atoms: Segments, other_systems: Int[ndarray, " M"]
    ) -> None:
        """Overwrite `systems` with `other_systems` of another reference, which have as many atoms each."""
        lengths = atoms.lengths[systems]
        device = atoms.device
        rows = torch.from_numpy(gather_rows(atoms.ptr[systems], lengths)).to(device)
        other_rows = torch.from_numpy(gather_rows(other_atoms.ptr[other_systems], lengths)).to(device)
        self.positions[rows] = other.positions[other_rows]
        places, other_places = torch.from_numpy(systems).to(device), torch.from_numpy(other_systems.astype(np.int64)).to(device)
        for own, others in ((self.vectors, other.vectors), (self.duals, other.duals), (self.pbc, other.pbc)):
            own[places] = others[other_places]


def outgrown_systems(
    reference: Reference,
    positions: Float[Tensor, "A 3"],
    vectors: Float[Tensor, "N 3 3"],
    pbc: Bool[Tensor, "N 3"],
    atoms: Segments,
    cutoff: float,
    skin: float,
) -> Bool[Tensor, " N"]:
    """Return which systems need new rows; `vectors` are their present cells in float64.

    A system needs them when an atom has moved too far, its cell has changed too much, its periodicity is another, or a number is NaN.
    """
    outgrown = torch.empty(atoms.n_segments, dtype=torch.bool, device=atoms.device)
    launch(
        check_kernel(precision_of(positions.dtype)),
        atoms.n_segments,
        [
            positions,
            reference.positions,
            atoms.batch_ptr,
            vectors,
            pbc,
            reference.vectors,
            reference.duals,
            reference.pbc,
            cutoff,
            skin,
            outgrown,
        ],
        atoms.device,
    )
    return outgrown
