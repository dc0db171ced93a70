"""Effective medium theory for Al, Ni, Cu, Pd, Ag, Pt, Au, and, for play, H, C, N, O.

K. W. Jacobsen, P. Stoltze and J. K. Nørskov, Surf. Sci. 366, 394 (1996), with the cutoff of `ase.calculators.emt.EMT` (asap_cutoff=False).
The energy of atom i is that of `emt_atom` at its density σ₁i, plus its pair energy, less E₀, so that zero is the bulk metal. With r the
distance of a pair i, j:

    w   = 1 / (1 + exp(a (r − r_c)))                   cutoff; nothing counts from r_c + 0.5 Å on
    σ₁i = Σ_j χ_ij exp(−η₂j (r − β s₀j)) w              density at i from its neighbours
    σ₂i = Σ_j χ_ij exp(−κ_j (r/β − s₀j)) w              pair energy at i: ½ Σ_j of −V₀i/(2 γ₂i) σ₂ij − V₀j/(2 γ₂j) σ₂ji
    χ_ij = n₀j / n₀i

The exponentials are tabulated (`emt_tables.py`); the loops are in `emt_loops.py`.
"""

from __future__ import annotations

import torch
from ase.calculators.emt import EMT

from campaign.models.emt_loops import EMT_LOOPS
from campaign.models.emt_parameters import ELEMENTS, RC_LIST
from campaign.models.emt_tables import emt_numbers
from campaign.models.kernel_model import KernelModel

__all__ = ["EMTModel"]


class EMTModel(KernelModel):
    """Effective medium theory; it has no options. A system with another element gets non-finite outputs."""

    name = "emt"
    supported_elements = ELEMENTS

    def __init__(self, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> None:
        super().__init__(EMT_LOOPS, emt_numbers(), RC_LIST, dtype, device)

    def ase_calculator(self) -> EMT:
        return EMT()
