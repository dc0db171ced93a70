"""Lennard-Jones potential, truncated at `rc` and shifted to zero there, or smoothed between `ro` and `rc`.

    u(r) = 4 ε [(σ/r)¹² − (σ/r)⁶]

J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931). Truncation, shift and smoothing are those of `ase.calculators.lj.LennardJones`, whose
smoothing is that of HOOMD-blue. ε in eV, lengths in Å.
"""

from functools import cache
from typing import Any

import torch
import warp as wp
from ase.calculators.lj import LennardJones

from campaign.data.warp_interop import Precision, launch
from campaign.errors import SpecError
from campaign.models.kernel_model import AtomResults, KernelModel, Rows
from campaign.models.row_kernels import neighbor_vector, off_diagonal

__all__ = ["LennardJonesModel", "lennard_jones_pair", "smooth_cutoff"]


@wp.func
def lennard_jones_pair(r2: Any, epsilon: Any, sigma: Any):
    """Energy u in eV and u'(r)/r in eV/Å² of a pair at squared distance `r2` in Å².

    u = 4 ε (s⁶ − s³) and u'/r = −24 ε (2 s⁶ − s³) / r², with s = σ²/r².

    >>> lennard_jones_pair(2.0 ** (1 / 3), 1.0, 1.0)[0]
    -1.0
    """
    s = sigma * sigma / r2
    c6 = s * s * s
    c12 = c6 * c6
    return type(r2)(4.0) * epsilon * (c12 - c6), type(r2)(-24.0) * epsilon * (type(r2)(2.0) * c12 - c6) / r2


@wp.func
def smooth_cutoff(r2: Any, rc2: Any, ro2: Any):
    """Factor f and df/d(r²) that take a potential from 1 at r² = `ro2` to 0 at `rc2`, continuous with first derivative.

    f = (rc² − r²)² (rc² + 2 r² − 3 ro²) / (rc² − ro²)³

    >>> smooth_cutoff(1.0, 4.0, 2.0), smooth_cutoff(4.0, 4.0, 2.0)
    ((1.0, 0.0), (0.0, 0.0))
    """
    f = type(r2)(1.0)
    df = type(r2)(0.0)
    if r2 >= ro2:
        width = rc2 - ro2
        scale = type(r2)(1.0) / (width * width * width)
        f = (rc2 - r2) * (rc2 - r2) * (rc2 + type(r2)(2.0) * r2 - type(r2)(3.0) * ro2) * scale
        df = type(r2)(6.0) * (rc2 - r2) * (ro2 - r2) * scale
    return f, df


@cache
def _atoms_kernel(p: Precision, smooth: bool) -> wp.Kernel:
    real, vec3, mat33 = p.real, p.vec3, p.mat33

    @wp.kernel(enable_backward=False, module="unique")
    def lennard_jones_atoms(
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        batch_idx: wp.array(dtype=wp.int32),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        epsilon: real,
        sigma: real,
        rc: real,
        ro: real,
        energy: wp.array(dtype=real),
        virial_diagonal: wp.array(dtype=vec3),
        virial_off_diagonal: wp.array(dtype=vec3),
        forces: wp.array(dtype=vec3),
    ):
        atom = wp.tid()
        here = positions[atom]
        box = cell[batch_idx[atom]]
        rc2 = rc * rc
        at_rc, _slope = lennard_jones_pair(rc2, epsilon, sigma)
        total = real(0.0)
        force = vec3()
        diagonal = vec3()
        off = vec3()
        for k in range(num_neighbors[atom]):
            d = neighbor_vector(here, positions[neighbor_matrix[atom, k]], shifts[atom, k], box)
            r2 = wp.dot(d, d)
            if not (r2 > rc2):  # so that NaN is kept, and ends as a non-finite energy
                u, du = lennard_jones_pair(r2, epsilon, sigma)
                if wp.static(smooth):
                    f, df = smooth_cutoff(r2, rc2, ro * ro)
                    du = f * du + real(2.0) * df * u
                    u = f * u
                else:
                    u = u - at_rc
                total += u
                force += du * d
                diagonal += du * wp.cw_mul(d, d)
                off += du * off_diagonal(d)
        energy[atom] = real(0.5) * total
        forces[atom] = force
        virial_diagonal[atom] = real(0.5) * diagonal
        virial_off_diagonal[atom] = real(0.5) * off

    return lennard_jones_atoms


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
        del device  # that of the batch
        self.epsilon, self.sigma, self.smooth = float(epsilon), float(sigma), smooth
        self.rc = 3.0 * self.sigma if rc is None else float(rc)
        self.ro = 0.66 * self.rc if ro is None else float(ro)
        if not (self.epsilon > 0 and self.sigma > 0 and 0 < self.ro < self.rc < float("inf") and isinstance(smooth, bool)):
            raise SpecError(
                f"lj was given epsilon={epsilon}, sigma={sigma}, rc={rc}, ro={ro}, smooth={smooth}; lengths and energy are "
                "positive, ro is below rc, which is 3 sigma by default, and smooth is true or false. Mend [model.options]."
            )
        super().__init__(self.rc, dtype)

    def launch_rows(self, rows: Rows, results: AtomResults) -> None:
        launch(
            _atoms_kernel(self.precision, self.smooth),
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
