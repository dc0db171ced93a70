# mypy: ignore-errors
"""The Morse formulas and the kernel that sums them over neighbour rows; see `morse.py`.

Warp reads the annotations of a kernel as types when it is defined, so this file does without `from __future__ import annotations`, and to
mypy they are none.
"""

from functools import cache
from typing import Any

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.models.row_kernels import neighbor_vector, off_diagonal

__all__ = ["atoms_kernel", "morse_pair", "quintic_cutoff"]


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
def atoms_kernel(p: Precision) -> wp.Kernel:
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
