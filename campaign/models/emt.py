"""Effective medium theory for Al, Ni, Cu, Pd, Ag, Pt, Au, and, for play, H, C, N, O.

K. W. Jacobsen, P. Stoltze and J. K. Nørskov, Surf. Sci. 366, 394 (1996), with the cutoff of `ase.calculators.emt.EMT` (asap_cutoff=False).
The energy of atom i is that of `emt_atom` at its density σ₁i, plus its pair energy, less E₀, so that zero is the bulk metal. With r the
distance of a pair i, j:

    w   = 1 / (1 + exp(a (r − r_c)))                   cutoff; nothing counts from r_c + 0.5 Å on
    σ₁i = Σ_j χ_ij exp(−η₂j (r − β s₀j)) w              density at i from its neighbours
    σ₂i = Σ_j χ_ij exp(−κ_j (r/β − s₀j)) w              pair energy at i: ½ Σ_j of −V₀i/(2 γ₂i) σ₂ij − V₀j/(2 γ₂j) σ₂ji
    χ_ij = n₀j / n₀i

Two kernels go over the rows. The first needs only pairs, and yields σ₁ and dE/dσ₁ of each atom; the second needs dE/dσ₁ of both atoms of a
pair. The first leaves the derivatives of σ₁ by each distance in a table, so that the second evaluates no exponential.
"""

from __future__ import annotations

import torch
from ase.calculators.emt import EMT
from torch import Tensor

from campaign.data.warp_interop import launch
from campaign.models.emt_kernels import density_kernel, forces_kernel
from campaign.models.emt_parameters import A_CUT, BETA, ELEMENTS, RC, RC_LIST, element_table
from campaign.models.kernel_model import AtomResults, KernelModel, Rows

__all__ = ["EMTModel"]


class EMTModel(KernelModel):
    """Effective medium theory; it has no options. A system with another element gets non-finite outputs."""

    name = "emt"
    supported_elements = ELEMENTS

    def __init__(self, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> None:
        super().__init__(RC_LIST, dtype, device)
        self._tables: dict[torch.device, Tensor] = {}

    def launch_rows(self, rows: Rows, results: AtomResults) -> None:
        by_sigma1 = self.scratch("by_sigma1", (rows.n_atoms,), rows.device)
        slope_here = self.scratch("slope_here", tuple(rows.neighbor_matrix.shape), rows.device)
        slope_there = self.scratch("slope_there", tuple(rows.neighbor_matrix.shape), rows.device)
        neighbors = [rows.positions, rows.cell, rows.batch_idx, rows.neighbor_matrix, rows.num_neighbors, rows.shifts]
        virial = [results.virial_diagonal, results.virial_off_diagonal, results.forces]
        launch(
            density_kernel(self.precision),
            rows.n_atoms,
            [
                rows.atomic_numbers,
                *neighbors,
                self._table(rows.device),
                RC,
                A_CUT,
                RC_LIST,
                BETA,
                results.energy,
                by_sigma1,
                *virial,
                slope_here,
                slope_there,
            ],
            rows.device,
        )
        launch(forces_kernel(self.precision), rows.n_atoms, [*neighbors, by_sigma1, slope_here, slope_there, *virial], rows.device)

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = torch.from_numpy(element_table()).to(device=device, dtype=self.dtype)
        return self._tables[device]

    def ase_calculator(self) -> EMT:
        return EMT()
