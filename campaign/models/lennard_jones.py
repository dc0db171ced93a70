"""Lennard-Jones potential, truncated at `rc` and shifted to zero there, or smoothed between `ro` and `rc`.

    u(r) = 4 ε [(σ/r)¹² − (σ/r)⁶]

J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931). Truncation, shift and smoothing are those of `ase.calculators.lj.LennardJones`, whose
smoothing is that of HOOMD-blue. ε in eV, lengths in Å.
"""

from __future__ import annotations

import torch
from ase.calculators.lj import LennardJones

from campaign.data.warp_interop import launch
from campaign.errors import SpecError
from campaign.models.kernel_model import AtomResults, KernelModel, Rows
from campaign.models.lennard_jones_kernel import atoms_kernel

__all__ = ["LennardJonesModel"]


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
        super().__init__(self.rc, dtype, device)

    def launch_rows(self, rows: Rows, results: AtomResults) -> None:
        launch(
            atoms_kernel(self.precision, self.smooth),
            rows.n_atoms,
            [
                rows.positions,
                rows.cell,
                rows.batch_idx,
                rows.neighbor_matrix,
                rows.num_neighbors,
                rows.shifts,
                self.epsilon,
                self.sigma,
                self.rc,
                self.ro,
                results.energy,
                results.virial_diagonal,
                results.virial_off_diagonal,
                results.forces,
            ],
            rows.device,
        )

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
