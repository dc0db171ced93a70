"""Lennard-Jones potential, truncated at `rc` and shifted to zero there, or smoothed between `ro` and `rc`.

    u(r) = 4 ε [(σ/r)¹² − (σ/r)⁶]

J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931). Truncation, shift and smoothing are those of `ase.calculators.lj.LennardJones`, whose
smoothing is that of HOOMD-blue. ε in eV, lengths in Å.
"""

from __future__ import annotations

import numpy as np
import torch
from ase.calculators.lj import LennardJones

from campaign.errors import SpecError
from campaign.models.kernel_model import KernelModel
from campaign.models.loops import Loops, pair_loops

__all__ = ["LennardJonesModel"]

_CONSTANTS = "const real epsilon = T[0], sigma2 = T[1], rc2 = T[2], ro2 = T[3], at_rc = T[4], cubed_width = T[5];"

# u = 4 ε (c6² − c6) and u'/r = −24 ε (2 c6² − c6) / r², with c6 = (σ²/r²)³.
_PAIR = """
const real inverse = real(1) / r2;
const real s = sigma2 * inverse, c6 = s * s * s, c12 = c6 * c6;
u = real(4) * epsilon * (c12 - c6);
du = real(-24) * epsilon * (real(2) * c12 - c6) * inverse;
"""
_SHIFT = "u -= at_rc;"

# f(r²) = (rc² − r²)² (rc² + 2 r² − 3 ro²) / (rc² − ro²)³ is 1 at ro and 0 at rc; (f u)'/r = f u'/r + 2 u df/d(r²).
_SMOOTH = """
if (r2 >= ro2) {
    const real f = (rc2 - r2) * (rc2 - r2) * (rc2 + real(2) * r2 - real(3) * ro2) * cubed_width;
    const real df = real(6) * (rc2 - r2) * (ro2 - r2) * cubed_width;
    du = f * du + real(2) * df * u;
    u = f * u;
}
"""


def _loops(smooth: bool) -> Loops:
    return pair_loops(_CONSTANTS, "r2 > rc2", _PAIR + (_SMOOTH if smooth else _SHIFT))


class LennardJonesModel(KernelModel):
    """Lennard-Jones for all atoms alike.

    Options: `epsilon` in eV; `sigma` in Å; `rc`, cutoff in Å, 3 σ by default; `smooth` multiplies by a smooth cutoff that starts at `ro` in
    Å, 0.66 rc by default, where otherwise the energy is shifted to zero at `rc` and forces jump there.

    Raises:
        SpecError: a length or energy is not positive, or `ro` is not below `rc`.
    """

    name = "lj"

    def __init__(
        self,
        epsilon: float = 1.0,
        sigma: float = 1.0,
        rc: float | None = None,
        ro: float | None = None,
        smooth: bool = False,
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
    ) -> None:
        self.epsilon, self.sigma, self.smooth = float(epsilon), float(sigma), smooth
        self.rc = 3.0 * self.sigma if rc is None else float(rc)
        self.ro = 0.66 * self.rc if ro is None else float(ro)
        if not (self.epsilon > 0 and self.sigma > 0 and 0 < self.ro < self.rc < float("inf") and isinstance(smooth, bool)):
            raise SpecError(
                f"lj was given epsilon={epsilon}, sigma={sigma}, rc={rc}, ro={ro}, smooth={smooth}; lengths and energy are "
                "positive, ro is below rc, which is 3 sigma by default, and smooth is true or false. Mend [model.options]."
            )
        c6 = (self.sigma / self.rc) ** 6
        at_rc = 4.0 * self.epsilon * (c6 * c6 - c6)
        cubed_width = 1.0 / (self.rc**2 - self.ro**2) ** 3
        table = np.array([self.epsilon, self.sigma**2, self.rc**2, self.ro**2, at_rc, cubed_width])
        super().__init__(_loops(smooth), table, self.rc, dtype, device)

    def ase_calculator(self) -> LennardJones:
        return LennardJones(epsilon=self.epsilon, sigma=self.sigma, rc=self.rc, ro=self.ro, smooth=self.smooth)

    def provenance(self) -> dict[str, str | int | float]:
        return {
            **super().provenance(),
            "epsilon_ev": self.epsilon,
            "sigma_ang": self.sigma,
            "rc_ang": self.rc,
            "ro_ang": self.ro,
            "smooth": int(self.smooth),
        }
