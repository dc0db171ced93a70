"""Morse potential with a smooth cutoff.

    u(r) = ε [exp(−2 ρ₀ (r/r₀ − 1)) − 2 exp(−ρ₀ (r/r₀ − 1))] · f(r)

P. M. Morse, Phys. Rev. 34, 57 (1929). Parameters and cutoff f, a quintic polynomial, are those of `ase.calculators.morse.MorsePotential`.
ε in eV, r₀ in Å; ρ₀ and the cutoffs, which count in r₀, have no unit.
"""

from __future__ import annotations

import torch
from ase.calculators.morse import MorsePotential

from campaign.data.warp_interop import launch
from campaign.errors import SpecError
from campaign.models.kernel_model import AtomResults, KernelModel, Rows
from campaign.models.morse_kernel import atoms_kernel

__all__ = ["MorseModel"]


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
        super().__init__(self.rcut2 * self.r0, dtype, device)

    def launch_rows(self, rows: Rows, results: AtomResults) -> None:
        launch(
            atoms_kernel(self.precision),
            rows.n_atoms,
            [
                rows.positions,
                rows.cell,
                rows.batch_idx,
                rows.neighbor_matrix,
                rows.num_neighbors,
                rows.shifts,
                self.epsilon,
                self.rho0,
                self.r0,
                self.rcut1 * self.r0,
                self.rcut2 * self.r0,
                results.energy,
                results.virial_diagonal,
                results.virial_off_diagonal,
                results.forces,
            ],
            rows.device,
        )

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
