# mypy: ignore-errors
"""The Lennard-Jones formulas and the kernel that sums them over neighbour rows; see `lennard_jones.py`.

Warp reads the annotations of a kernel as types when it is defined, so this file does without `from __future__ import annotations`, and to
mypy they are none.
"""

from functools import cache
from typing import Any

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.models.row_kernels import neighbor_vector, off_diagonal

__all__ = ["atoms_kernel", "lennard_jones_pair", "smooth_cutoff"]


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
    ((1.0, 0.0), (0.0, -0.0))
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
def atoms_kernel(p: Precision, smooth: bool) -> wp.Kernel:
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
