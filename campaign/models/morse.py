"""Morse potential with a smooth cutoff.

    u(r) = ε [exp(−2 ρ₀ (r/r₀ − 1)) − 2 exp(−ρ₀ (r/r₀ − 1))] · f(r)

P. M. Morse, Phys. Rev. 34, 57 (1929). Parameters and cutoff f, a quintic polynomial, are those of `ase.calculators.morse.MorsePotential`. ε in eV,
r₀ in Å; ρ₀ and the cutoffs, which count in r₀, have no unit.
"""

from functools import cache
from typing import Any

import torch
import warp as wp
from ase.calculators.morse import MorsePotential

from campaign.data.warp_interop import Precision, launch
from campaign.errors import SpecError
from campaign.models.kernel_model import AtomResults, KernelModel, Rows
from campaign.models.row_kernels import neighbor_vector, off_diagonal

__all__ = ["MorseModel", "morse_pair", "quintic_cutoff"]


@wp.func
def morse_pair(r: Any, epsilon: Any, rho0: Any, r0: Any):
    """Energy u in eV and u'(r) in eV/Å of a pair at distance `r` in Å, without cutoff.

    With x = exp(ρ₀ (1 − r/r₀)): u = ε x (x − 2) and u' = −2 ε ρ₀/r₀ x (x − 1).

    >>> morse_pair(1.5, 2.0, 6.0, 1.5)
    (-2.0, -0.0)
    """
    x = wp.exp(rho0 * (type(r)(1.0) - r / r0))
    return epsilon * x * (x - type(r)(2.0)), type(r)(-2.0) * epsilon * rho0 / r0 * x * (x - type(r)(1.0))


@wp.func
def quintic_cutoff(r: Any, inner: Any, outer: Any):
    """Factor f and f'(r) in 1/Å that take a potential from 1 at `inner` to 0 at `outer`, continuous with two derivatives.

    f = 6 s⁵ − 15 s⁴ + 10 s³ with s = (outer − r)/(outer − inner).

    >>> quintic_cutoff(2.0, 2.5, 3.5)[0], quintic_cutoff(3.0, 2.5, 3.5)[0]
    (1.0, 0.5)
    """
    f = type(r)(1.0)
    df = type(r)(0.0)
    if r > inner:
        width = outer - inner
        s = (outer - r) / width
        f = s * s * s * ((type(r)(6.0) * s - type(r)(15.0)) * s + type(r)(10.0))
        df = type(r)(-30.0) * s * s * ((s - type(r)(2.0)) * s + type(r)(1.0)) / width
    return f, df


@cache
def _atoms_kernel(p: Precision) -> wp.Kernel:
    real, vec3, mat33 = p.real, p.vec3, p.mat33

    @wp.kernel(enable_backward=False, module="unique")
    def morse_atoms(
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        batch_idx: wp.array(dtype=wp.int32),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        epsilon: real,
        rho0: real,
        r0: real,
        inner: real,
        outer: real,
        energy: wp.array(dtype=real),
        virial_diagonal: wp.array(dtype=vec3),
        virial_off_diagonal: wp.array(dtype=vec3),
        forces: wp.array(dtype=vec3),
    ):
        atom = wp.tid()
        here = positions[atom]
        box = cell[batch_idx[atom]]
        total = real(0.0)
        force = vec3()
        diagonal = vec3()
        off = vec3()
        for k in range(num_neighbors[atom]):
            d = neighbor_vector(here, positions[neighbor_matrix[atom, k]], shifts[atom, k], box)
            r = wp.sqrt(wp.dot(d, d))
            if not (r >= outer):  # so that NaN is kept, and ends as a non-finite energy
                u, du = morse_pair(r, epsilon, rho0, r0)
                f, df = quintic_cutoff(r, inner, outer)
                over_r = (f * du + df * u) / r
                total += f * u
                force += over_r * d
                diagonal += over_r * wp.cw_mul(d, d)
                off += over_r * off_diagonal(d)
        energy[atom] = real(0.5) * total
        forces[atom] = force
        virial_diagonal[atom] = real(0.5) * diagonal
        virial_off_diagonal[atom] = real(0.5) * off

    return morse_atoms


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
        del device  # that of the batch
        self.epsilon, self.rho0, self.r0 = float(epsilon), float(rho0), float(r0)
        self.rcut1, self.rcut2 = float(rcut1), float(rcut2)
        if not (self.epsilon > 0 and self.rho0 > 0 and self.r0 > 0 and 0 < self.rcut1 < self.rcut2 < float("inf")):
            raise SpecError(
                f"morse was given epsilon={epsilon}, rho0={rho0}, r0={r0}, rcut1={rcut1}, rcut2={rcut2}; all are positive, and rcut1 is "
                "below rcut2. Mend [model.options]."
            )
        super().__init__(self.rcut2 * self.r0, dtype)

    def launch_rows(self, rows: Rows, results: AtomResults) -> None:
        launch(
            _atoms_kernel(self.precision),
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
