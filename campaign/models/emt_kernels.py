# mypy: ignore-errors
"""The formulas of effective medium theory and the two kernels that sum them over neighbour rows; see `emt.py`.

Warp reads the annotations of a kernel as types when it is defined, so this file does without `from __future__ import annotations`, and to
mypy they are none.
"""

from functools import cache
from typing import Any

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.models.emt_parameters import COLUMNS
from campaign.models.row_kernels import neighbor_vector, off_diagonal

__all__ = ["density_kernel", "emt_atom", "emt_cutoff", "forces_kernel"]

_E0, _S0, _V0, _ETA2, _KAPPA, _LAMBDA, _N0, _INVERSE_12_GAMMA1, _PAIR_FACTOR = (wp.constant(column) for column in range(len(COLUMNS)))


@wp.func
def emt_cutoff(r: Any, rc: Any, a: Any):
    """Factor w = 1/(1 + exp(a (r − rc))), and w'(r)/w in 1/Å.

    Below a (r − rc) = −38 the exponential is lost against 1 even in float64, and is left out: the nearest neighbours of most metals.

    >>> emt_cutoff(5.0, 5.0, 2.0)
    (0.5, -1.0)
    """
    x = a * (r - rc)
    w = type(r)(1.0)
    if not (x < type(r)(-38.0)):
        w = type(r)(1.0) / (type(r)(1.0) + wp.exp(x))
    return w, a * (w - type(r)(1.0))


@wp.func
def emt_atom(sigma1: Any, e0: Any, v0: Any, eta2: Any, kappa: Any, lam: Any, inverse_12_gamma1: Any, beta: Any):
    """Energy in eV of an atom in density `sigma1`, apart from its pair energy, and the energy's derivative by `sigma1`.

    With ds = −ln(σ₁/(12 γ₁)) / (β η₂), the distance of the neutral radius from s₀:
    E = E₀ (1 + λ ds) exp(−λ ds) + 6 V₀ exp(−κ ds).
    """
    one = type(sigma1)(1.0)
    ds = -wp.log(sigma1 * inverse_12_gamma1) / (beta * eta2)
    cohesive = e0 * wp.exp(-lam * ds)
    repulsive = type(sigma1)(6.0) * v0 * wp.exp(-kappa * ds)
    by_ds = -(lam * lam * ds * cohesive + kappa * repulsive)
    return cohesive * (one + lam * ds) + repulsive, -by_ds / (beta * eta2 * sigma1)


@wp.func
def _row_of(atomic_number: wp.int64):
    # Row 0 and row 118 of the table are NaN, so a number that is none of an element's ends as a non-finite energy.
    return wp.clamp(wp.int32(atomic_number), 0, 118)


@cache
def density_kernel(p: Precision) -> wp.Kernel:
    real, vec3, mat33 = p.real, p.vec3, p.mat33

    @wp.kernel(enable_backward=False, module="unique")
    def emt_density(
        atomic_numbers: wp.array(dtype=wp.int64),
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        batch_idx: wp.array(dtype=wp.int32),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        table: wp.array2d(dtype=real),
        rc: real,
        a_cut: real,
        rc_list: real,
        beta: real,
        energy: wp.array(dtype=real),
        by_sigma1: wp.array(dtype=real),
        virial_diagonal: wp.array(dtype=vec3),
        virial_off_diagonal: wp.array(dtype=vec3),
        forces: wp.array(dtype=vec3),
        slope_here: wp.array2d(dtype=real),
        slope_there: wp.array2d(dtype=real),
    ):
        atom = wp.tid()
        here = positions[atom]
        box = cell[batch_idx[atom]]
        own = _row_of(atomic_numbers[atom])
        s0 = table[own, _S0]
        eta2 = table[own, _ETA2]
        kappa = table[own, _KAPPA]
        n0 = table[own, _N0]
        pair_factor = table[own, _PAIR_FACTOR]
        sigma1 = real(0.0)
        total = real(0.0)
        n_near = wp.int32(0)
        force = vec3()
        diagonal = vec3()
        off = vec3()
        # Divisions are taken out of the loop, whose time is exponentials (9 ns each) and divisions.
        inverse_beta = real(1.0) / beta
        decay = kappa * inverse_beta
        for k in range(num_neighbors[atom]):
            neighbor = neighbor_matrix[atom, k]
            d = neighbor_vector(here, positions[neighbor], shifts[atom, k], box)
            r = wp.sqrt(wp.dot(d, d))
            slope_s = real(0.0)
            slope_o = real(0.0)
            if not (r >= rc_list):  # so that NaN is kept, and ends as a non-finite energy
                n_near += 1
                inverse_r = real(1.0) / r
                w, dw = emt_cutoff(r, rc, a_cut)
                # s: what the neighbour gives here; o: what this atom gives there.
                sigma1_s = wp.exp(-eta2 * (r - beta * s0)) * w
                pair_s = wp.exp(-kappa * (r * inverse_beta - s0)) * w
                other = _row_of(atomic_numbers[neighbor])
                if other == own:
                    slope_s = sigma1_s * (dw - eta2) * inverse_r
                    slope_o = slope_s
                    pair_s = real(2.0) * pair_factor * pair_s
                    du = pair_s * (dw - decay) * inverse_r
                else:
                    chi = table[other, _N0] / n0
                    inverse_chi = n0 / table[other, _N0]
                    kappa_o = table[other, _KAPPA]
                    eta2_o = table[other, _ETA2]
                    s0_o = table[other, _S0]
                    sigma1_o = sigma1_s * inverse_chi
                    pair_o = pair_s * inverse_chi * table[other, _PAIR_FACTOR]
                    sigma1_s = wp.exp(-eta2_o * (r - beta * s0_o)) * w * chi
                    pair_s = wp.exp(-kappa_o * (r * inverse_beta - s0_o)) * w * chi * pair_factor
                    slope_s = sigma1_s * (dw - eta2_o) * inverse_r
                    slope_o = sigma1_o * (dw - eta2) * inverse_r
                    du = (pair_s * (dw - kappa_o * inverse_beta) + pair_o * (dw - decay)) * inverse_r
                    pair_s = pair_s + pair_o
                sigma1 += sigma1_s
                total += pair_s
                force += du * d
                diagonal += du * wp.cw_mul(d, d)
                off += du * off_diagonal(d)
            slope_here[atom, k] = slope_s
            slope_there[atom, k] = slope_o
        e0 = table[own, _E0]
        own_energy = real(0.0)
        slope = real(0.0)
        if n_near > 0:
            own_energy, slope = emt_atom(
                sigma1, e0, table[own, _V0], eta2, kappa, table[own, _LAMBDA], table[own, _INVERSE_12_GAMMA1], beta
            )
        energy[atom] = own_energy + real(0.5) * total - e0
        by_sigma1[atom] = slope
        forces[atom] = force
        virial_diagonal[atom] = real(0.5) * diagonal
        virial_off_diagonal[atom] = real(0.5) * off

    return emt_density


@cache
def forces_kernel(p: Precision) -> wp.Kernel:
    real, vec3, mat33 = p.real, p.vec3, p.mat33

    @wp.kernel(enable_backward=False, module="unique")
    def emt_forces(
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        batch_idx: wp.array(dtype=wp.int32),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        by_sigma1: wp.array(dtype=real),
        slope_here: wp.array2d(dtype=real),
        slope_there: wp.array2d(dtype=real),
        virial_diagonal: wp.array(dtype=vec3),
        virial_off_diagonal: wp.array(dtype=vec3),
        forces: wp.array(dtype=vec3),
    ):
        atom = wp.tid()
        here = positions[atom]
        box = cell[batch_idx[atom]]
        own = by_sigma1[atom]
        force = vec3()
        diagonal = vec3()
        off = vec3()
        for k in range(num_neighbors[atom]):
            neighbor = neighbor_matrix[atom, k]
            du = own * slope_here[atom, k] + by_sigma1[neighbor] * slope_there[atom, k]
            if du != real(0.0):
                d = neighbor_vector(here, positions[neighbor], shifts[atom, k], box)
                force += du * d
                diagonal += du * wp.cw_mul(d, d)
                off += du * off_diagonal(d)
        forces[atom] = forces[atom] + force
        virial_diagonal[atom] = virial_diagonal[atom] + real(0.5) * diagonal
        virial_off_diagonal[atom] = virial_off_diagonal[atom] + real(0.5) * off

    return emt_forces
