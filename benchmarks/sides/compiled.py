"""The compiled reference: numba, one structure after another, a process on each core, nothing but the arithmetic that the task needs.

Lennard-Jones forces are made of all pairs, each once, or of a half Verlet list with a skin where a structure is periodic; FIRE is ASE's,
step for step. The energy is worked out once, at the end. Sums may be reordered by the compiler, as a person would by hand.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy import ndarray

from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, in_blocks
from sides.serving import serve

SKIN_ANG: Final = 0.8
AT_A_TIME: Final = 8
"""Structures taken at once, so that taking them costs nothing beside relaxing them."""

_compiled = njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "arcp", "nsz"})
_Array = ndarray[Any, Any]


@_compiled
def _all_pairs(x: _Array, f: _Array, rc2: float, sigma2: float, epsilon24: float) -> None:
    """Write the forces of a structure without images."""
    n = len(x)
    f[:] = 0.0
    for i in range(n):
        xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
        fx = fy = fz = 0.0
        for j in range(i + 1, n):
            dx, dy, dz = x[j, 0] - xi, x[j, 1] - yi, x[j, 2] - zi
            r2 = dx * dx + dy * dy + dz * dz
            if r2 <= rc2:
                inverse = 1.0 / r2
                s2 = sigma2 * inverse
                s6 = s2 * s2 * s2
                g = epsilon24 * inverse * s6 * (1.0 - 2.0 * s6)
                fx += g * dx
                fy += g * dy
                fz += g * dz
                f[j, 0] -= g * dx
                f[j, 1] -= g * dy
                f[j, 2] -= g * dz
        f[i, 0] += fx
        f[i, 1] += fy
        f[i, 2] += fz


@_compiled
def _listed_pairs(x: _Array, f: _Array, first: _Array, other: _Array, shift: _Array, rc2: float, sigma2: float, epsilon24: float) -> None:
    """Write the forces of the pairs of a list."""
    n = len(x)
    f[:] = 0.0
    for i in range(n):
        xi, yi, zi = x[i, 0], x[i, 1], x[i, 2]
        fx = fy = fz = 0.0
        for k in range(first[i], first[i + 1]):
            j = other[k]
            dx, dy, dz = x[j, 0] + shift[k, 0] - xi, x[j, 1] + shift[k, 1] - yi, x[j, 2] + shift[k, 2] - zi
            r2 = dx * dx + dy * dy + dz * dz
            if r2 <= rc2:
                inverse = 1.0 / r2
                s2 = sigma2 * inverse
                s6 = s2 * s2 * s2
                g = epsilon24 * inverse * s6 * (1.0 - 2.0 * s6)
                fx += g * dx
                fy += g * dy
                fz += g * dz
                f[j, 0] -= g * dx
                f[j, 1] -= g * dy
                f[j, 2] -= g * dz
        f[i, 0] += fx
        f[i, 1] += fy
        f[i, 2] += fz


@_compiled
def _fill(x: _Array, cell: _Array, inverse: _Array, heights: _Array, reach: float, first: _Array, other: _Array, shift: _Array) -> int:
    """Write each pair with its images within `reach` once; return how many there are, which may be more than there was room for."""
    n, room, count = len(x), len(other), 0
    low, high, offset = np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3)
    for i in range(n):
        first[i] = count
        for j in range(i, n):
            for a in range(3):
                apart = 0.0
                for b in range(3):
                    apart += (x[j, b] - x[i, b]) * inverse[b, a]
                low[a] = np.ceil(-apart - reach / heights[a])
                high[a] = np.floor(-apart + reach / heights[a])
            for sa in range(low[0], high[0] + 1):
                for sb in range(low[1], high[1] + 1):
                    for sc in range(low[2], high[2] + 1):
                        # Of the images of an atom in its own cell one half: the others are the same pairs.
                        if i == j and not (sa > 0 or (sa == 0 and (sb > 0 or (sb == 0 and sc > 0)))):
                            continue
                        r2 = 0.0
                        for b in range(3):
                            offset[b] = sa * cell[0, b] + sb * cell[1, b] + sc * cell[2, b]
                            r2 += (x[j, b] - x[i, b] + offset[b]) ** 2
                        if r2 <= reach * reach:
                            if count < room:
                                other[count] = j
                                shift[count] = offset
                            count += 1
    first[n] = count
    return count


@_compiled
def _relax(
    x: _Array, f: _Array, cell: _Array, inverse: _Array, epsilon: float, sigma: float, rc: float, fmax: float, max_steps: int, skin: float
) -> tuple[int, bool, float]:
    """Relax one structure in place; return the steps, whether it converged, and its energy. No cell: no images."""
    n = len(x)
    rc2, sigma2, epsilon24 = rc * rc, sigma * sigma, 24.0 * epsilon
    is_periodic = len(cell) > 0
    room = 80 * n if is_periodic else 0
    first, other, shift = np.zeros(n + 1, np.int64), np.empty(room, np.int32), np.empty((room, 3))
    heights = 1.0 / np.sqrt((inverse**2).sum(0))
    at_build, is_stale = x.copy(), True
    v = np.zeros((n, 3))
    dt, alpha, n_downhill = 0.1, 0.1, 0
    step = 0
    while True:
        if is_periodic:
            if is_stale:
                while True:
                    count = _fill(x, cell, inverse, heights, rc + skin, first, other, shift)
                    if count <= len(other):
                        break
                    other, shift = np.empty(count + count // 4, np.int32), np.empty((count + count // 4, 3))
                at_build[:] = x
            _listed_pairs(x, f, first, other, shift, rc2, sigma2, epsilon24)
        else:
            _all_pairs(x, f, rc2, sigma2, epsilon24)
        largest2 = 0.0
        vf = vv = ff = 0.0
        for i in range(n):
            of_atom = f[i, 0] ** 2 + f[i, 1] ** 2 + f[i, 2] ** 2
            largest2 = max(largest2, of_atom)
            ff += of_atom
            vv += v[i, 0] ** 2 + v[i, 1] ** 2 + v[i, 2] ** 2
            vf += v[i, 0] * f[i, 0] + v[i, 1] * f[i, 1] + v[i, 2] * f[i, 2]
        is_converged = np.sqrt(largest2) < fmax
        if is_converged or step == max_steps:
            break
        keep, pull = 0.0, 0.0
        if step > 0:
            if vf > 0.0:
                keep, pull = 1.0 - alpha, alpha / np.sqrt(ff) * np.sqrt(vv)
                if n_downhill > 5:
                    dt = min(dt * 1.1, 1.0)
                    alpha *= 0.99
                n_downhill += 1
            else:
                alpha, dt, n_downhill = 0.1, dt * 0.5, 0
        pull += dt
        norm2 = 0.0
        for i in range(n):
            for b in range(3):
                v[i, b] = keep * v[i, b] + pull * f[i, b]
                norm2 += v[i, b] ** 2
        scale = dt
        if dt * np.sqrt(norm2) > 0.2:
            scale = 0.2 / np.sqrt(norm2)
        furthest2 = 0.0
        for i in range(n):
            moved2 = 0.0
            for b in range(3):
                x[i, b] += scale * v[i, b]
                moved2 += (x[i, b] - at_build[i, b]) ** 2
            furthest2 = max(furthest2, moved2)
        is_stale = 4.0 * furthest2 > skin * skin
        step += 1
    return step, is_converged, _energy(x, first, other, shift, is_periodic, rc2, sigma2, epsilon)


@_compiled
def _energy(x: _Array, first: _Array, other: _Array, shift: _Array, is_periodic: bool, rc2: float, sigma2: float, epsilon: float) -> float:
    """Return the energy, shifted so that a pair has none at the cutoff."""
    at_cutoff = (sigma2 / rc2) ** 6 - (sigma2 / rc2) ** 3
    energy = 0.0
    for i in range(len(x)):
        begin, end = (first[i], first[i + 1]) if is_periodic else (i + 1, len(x))
        for k in range(begin, end):
            r2 = 0.0
            for b in range(3):
                r2 += (x[other[k], b] + shift[k, b] - x[i, b]) ** 2 if is_periodic else (x[k, b] - x[i, b]) ** 2
            if r2 <= rc2:
                energy += (sigma2 / r2) ** 6 - (sigma2 / r2) ** 3 - at_cutoff
    return 4.0 * epsilon * energy


def prepare(settings: Settings) -> RelaxFunction:
    """Return a relaxation of structures in compiled code."""
    potential = settings.options
    how = (potential["epsilon"], potential["sigma"], potential["rc"], settings.fmax_ev_per_ang, settings.max_steps, SKIN_ANG)

    def relax(structures: Structures) -> Relaxed:
        n_systems = len(structures)
        positions, forces = structures.positions.copy(), np.empty_like(structures.positions)
        n_steps, converged, energy = np.empty(n_systems, np.int64), np.empty(n_systems, bool), np.empty(n_systems)
        for i in range(n_systems):
            atoms = slice(structures.ptr[i], structures.ptr[i + 1])
            cell = structures.cell[i][: 3 if structures.pbc[i].all() else 0]
            inverse = np.linalg.inv(cell) if len(cell) else cell
            n_steps[i], converged[i], energy[i] = _relax(positions[atoms], forces[atoms], cell, inverse, *how)
        return Relaxed(np.arange(n_systems), positions, energy, forces, n_steps, converged)

    return in_blocks(relax, AT_A_TIME)


if __name__ == "__main__":
    serve(prepare)
