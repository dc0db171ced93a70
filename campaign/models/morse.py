"""Morse potential with a smooth cutoff.

    u(r) = ε [exp(−2 ρ₀ (r/r₀ − 1)) − 2 exp(−ρ₀ (r/r₀ − 1))] · f(r)

P. M. Morse, Phys. Rev. 34, 57 (1929). Parameters and cutoff f, a quintic polynomial, are those of `ase.calculators.morse.MorsePotential`.
ε in eV, r₀ in Å; ρ₀ and the cutoffs, which count in r₀, have no unit.
"""

from __future__ import annotations

import numpy as np
import torch
from ase.calculators.morse import MorsePotential

from campaign.errors import SpecError
from campaign.models.kernel_model import KernelModel
from campaign.models.loops import pair_loops

__all__ = ["MorseModel"]

_CONSTANTS = "const real epsilon = T[0], rho0 = T[1], r0 = T[2], inner = T[3], outer = T[4], outer2 = T[5];"

# With x = exp(ρ₀ (1 − r/r₀)): u = ε x (x − 2) and u' = −2 ε ρ₀/r₀ x (x − 1). The cutoff is f = 6 s⁵ − 15 s⁴ + 10 s³ with
# s = (outer − r)/(outer − inner).
_PAIR = """
const real r = wp::sqrt(r2);
const real e = wp::exp(rho0 * (real(1) - r / r0));
u = epsilon * e * (e - real(2));
real slope = real(-2) * epsilon * rho0 / r0 * e * (e - real(1));
if (r > inner) {
    const real width = outer - inner, s = (outer - r) / width;
    const real f = s * s * s * ((real(6) * s - real(15)) * s + real(10));
    const real df = real(-30) * s * s * ((s - real(2)) * s + real(1)) / width;
    slope = f * slope + df * u;
    u = f * u;
}
du = slope / r;
"""

_LOOPS = pair_loops(_CONSTANTS, "r2 >= outer2", _PAIR)


class MorseModel(KernelModel):
    """Morse potential for all atoms alike.

    Options: `epsilon`, depth in eV; `r0`, distance of the minimum in Å; `rho0`, steepness; `rcut1` and `rcut2`, where the cutoff starts and
    ends, in r0.

    Raises:
        SpecError: an option is not positive, or `rcut1` is not below `rcut2`.
    """

    name = "morse"

    def __init__(
        self,
        epsilon: float = 1.0,
        rho0: float = 6.0,
        r0: float = 1.0,
        rcut1: float = 1.9,
        rcut2: float = 2.7,
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
    ) -> None:
        self.epsilon, self.rho0, self.r0 = float(epsilon), float(rho0), float(r0)
        self.rcut1, self.rcut2 = float(rcut1), float(rcut2)
        if not (self.epsilon > 0 and self.rho0 > 0 and self.r0 > 0 and 0 < self.rcut1 < self.rcut2 < float("inf")):
            raise SpecError(
                f"morse was given epsilon={epsilon}, rho0={rho0}, r0={r0}, rcut1={rcut1}, rcut2={rcut2}; all are positive, and rcut1 is "
                "below rcut2. Mend [model.options]."
            )
        outer = self.rcut2 * self.r0
        table = np.array([self.epsilon, self.rho0, self.r0, self.rcut1 * self.r0, outer, outer**2])
        super().__init__(_LOOPS, table, outer, dtype, device)

    def ase_calculator(self) -> MorsePotential:
        return MorsePotential(epsilon=self.epsilon, rho0=self.rho0, r0=self.r0, rcut1=self.rcut1, rcut2=self.rcut2)

    def provenance(self) -> dict[str, str | int | float]:
        return {
            **super().provenance(),
            "epsilon_ev": self.epsilon,
            "rho0": self.rho0,
            "r0_ang": self.r0,
            "rcut1_over_r0": self.rcut1,
            "rcut2_over_r0": self.rcut2,
        }
