# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
# The functions below are written in Warp's language, whose types are values here; a Python type checker has nothing to say about them.
# In it, int(0) and bool(True) declare variables; bare literals would be constants.
"""The cell as a degree of freedom: which strains it may follow, with what force, and how a strain moves cell and atoms.

Each step takes the current cell as the reference (an incremental scheme), so a strain ε stays small and turns the cell h, with vectors as
rows, and positions x into h(1+ε)ᵀ and (1+ε)x. The force on ε is −P V σ P: V σ = dE/dε, and P projects onto the span of the periodic cell
vectors. P is 1 for bulk, a plane for slabs, a line for wires, 0 for molecules, so all of them relax in one batch and vacuum is never
strained. A cell mode narrows the force further: its trace (isotropic), all of it (full), all but its trace (fixed volume), nothing (fixed).
So does a mask of Cartesian components that no strain may have. What is left is always the orthogonal projection of the force on the strains
that are allowed, so a minimum under these restrictions is where it vanishes. A pressure p adds p V to the energy, which is p to σ.

An optimizer sees the strain as three more rows of coordinates, s = c ε with c = sqrt(n) L. A strain stores an energy proportional to the n
atoms, so with this scale the stiffness along s depends on the material and not on the size of the cell. ASE's filters scale by n instead,
which makes large cells soft; both have the same minimum.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from types import SimpleNamespace

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.errors import ArgumentError

__all__ = ["ALL_FREE", "CELL_LENGTH_ANG", "MAX_STRAIN", "CellMode", "StrainMask", "cell_code", "strain_functions"]

CELL_LENGTH_ANG = 1.5
"""L: with it the stiffness of a metal's cell is about that of its atoms.

Over rattled and strained Cu-Au cells FIRE took 68, 56, 53, 58 and 63 steps with 0.5, 1, 1.5, 2 and 3 Å; ASE's, with FrechetCellFilter, 64.
"""

MAX_STRAIN = 0.05
"""Bound on the Frobenius norm of the strain of one step; beyond it the reference of the step would be meaningless."""

StrainMask = tuple[bool, bool, bool, bool, bool, bool]
"""Which Cartesian components of the strain are free, in Voigt's order xx, yy, zz, yz, xz, xy, as in ASE's cell filters."""

ALL_FREE: StrainMask = (True, True, True, True, True, True)


class CellMode(IntEnum):
    """Which strains a cell may follow, along its periodic directions."""

    FIXED = 0
    ISOTROPIC = 1
    FULL = 2
    FIXED_VOLUME = 3

    @classmethod
    def parse(cls, value: "CellMode | str") -> "CellMode":
        """Return the mode called `value`, as in `[relax] cell`.

        Raises:
            ArgumentError: no mode is called that (a ValueError).

        >>> CellMode.parse("fixed_volume")
        <CellMode.FIXED_VOLUME: 3>
        """
        if isinstance(value, cls):
            return value
        try:
            return cls[str(value).upper()]
        except KeyError:
            names = ", ".join(repr(mode.name.lower()) for mode in cls)
            raise ArgumentError(f"cell mode {value!r}; modes are {names}. Choose one of them.") from None


def cell_code(mode: CellMode, mask: Sequence[bool] = ALL_FREE) -> int:
    """Return mode and mask as the one number that kernels take: the mode, and from the third bit on the components that are not free.

    Raises:
        ArgumentError: the mask has not six entries.

    >>> cell_code(CellMode.FULL), cell_code(CellMode.FULL, (True, False, True, True, True, True))
    (2, 10)
    """
    if len(mask) != 6:
        raise ArgumentError(f"strain_mask has {len(mask)} entries; it has six booleans, for xx, yy, zz, yz, xz and xy. Correct it.")
    return int(mode) + sum(4 << place for place, is_free in enumerate(mask) if not is_free and mode is not CellMode.FIXED)


@cache
def strain_functions(precision: Precision) -> SimpleNamespace:
    """Return the Warp functions `projector`, `narrow`, `gradient`, `force`, `free`, `load`, `store` and `move` for one precision.

    Their `mode` is a `cell_code`.
    """
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    rows = wp.types.matrix(shape=(6, 9), dtype=real)
    negligible = real(1.0e-10)
    zero = real(0.0)
    one = real(1.0)
    half = real(0.5)

    @wp.func
    def projector(cell: mat33, pbc_a: wp.bool, pbc_b: wp.bool, pbc_c: wp.bool) -> mat33:
        """P, from the cell vectors that are periodic and not zero."""
        a = vec3(cell[0, 0], cell[0, 1], cell[0, 2])
        b = vec3(cell[1, 0], cell[1, 1], cell[1, 2])
        c = vec3(cell[2, 0], cell[2, 1], cell[2, 2])
        use_a = pbc_a and wp.dot(a, a) > zero
        use_b = pbc_b and wp.dot(b, b) > zero
        use_c = pbc_c and wp.dot(c, c) > zero
        n = int(0)
        first = vec3(zero, zero, zero)
        second = vec3(zero, zero, zero)
        if use_a:
            first = a
            n += 1
        if use_b:
            if n == 0:
                first = b
            else:
                second = b
            n += 1
        if use_c:
            if n == 0:
                first = c
            else:
                second = c
            n += 1
        unit = wp.identity(3, dtype=real)
        p = mat33()
        if n == 3:
            p = unit
        if n == 2:
            normal = wp.cross(first, second)
            square = wp.dot(normal, normal)
            if square > zero:
                p = unit - wp.outer(normal, normal) / square
            else:
                n = 1
        if n == 1:
            p = wp.outer(first, first) / wp.dot(first, first)
        return p

    @wp.func
    def unmask(p: mat33, m: mat33, mode: wp.int32) -> mat33:
        """The projection of m, which is P m P, on such strains P ε P whose masked components are zero."""
        kept = m
        # An orthonormal basis of what the masked components forbid: the symmetric unit matrices E as seen by P, by Gram and Schmidt.
        forbidden = rows()
        six = int(6)
        for k in range(six):
            if (mode & (4 << k)) != 0:
                r = int(k)
                c = int(k)
                if k > 2:
                    r = wp.where(k == 3, 1, 0)
                    c = wp.where(k == 5, 1, 2)
                row = vec3(p[r, 0], p[r, 1], p[r, 2])
                column = vec3(p[c, 0], p[c, 1], p[c, 2])
                g = (wp.outer(row, column) + wp.outer(column, row)) * half
                for q in range(k):
                    b = mat33()
                    for n in range(9):
                        b[n // 3, n % 3] = forbidden[q, n]
                    g = g - b * wp.ddot(b, g)
                square = wp.ddot(g, g)
                if square > negligible:
                    g = g / wp.sqrt(square)
                    for n in range(9):
                        forbidden[k, n] = g[n // 3, n % 3]
                    kept = kept - g * wp.ddot(g, kept)
        for k in range(six):
            if (mode & (4 << k)) != 0:
                r = int(k)
                c = int(k)
                if k > 2:
                    r = wp.where(k == 3, 1, 0)
                    c = wp.where(k == 5, 1, 2)
                kept[r, c] = zero
                kept[c, r] = zero
        return kept

    @wp.func
    def narrow(p: mat33, m: mat33, mode: wp.int32) -> mat33:
        """The part of a symmetric matrix that mode and mask let the cell follow."""
        kind = mode & 3
        if kind == 0 or wp.trace(p) < half:
            return mat33()
        inner = p * ((m + wp.transpose(m)) * half) * p
        swelling = p
        if mode != kind:
            inner = unmask(p, inner, mode)
            swelling = unmask(p, p, mode)
        if kind == 2:
            return inner
        mean = mat33()
        square = wp.ddot(swelling, swelling)
        if square > negligible:
            mean = swelling * (wp.ddot(swelling, inner) / square)
        if kind == 1:
            return mean
        return inner - mean

    @wp.func
    def gradient(p: mat33, cell: mat33, stress: mat33, mode: wp.int32, pressure: real) -> mat33:
        """What must vanish: the stress that the cell could follow, with the pressure; a cell without a volume feels none."""
        m = stress
        if wp.determinant(cell) != zero:
            m = stress + wp.identity(3, dtype=real) * pressure
        return narrow(p, m, mode)

    @wp.func
    def force(p: mat33, cell: mat33, stress: mat33, mode: wp.int32, pressure: real, scale: real) -> mat33:
        """Force on the scaled strain s = scale ε."""
        return gradient(p, cell, stress, mode, pressure) * (-wp.abs(wp.determinant(cell)) / scale)

    @wp.func
    def deformation(strain: mat33, mode: wp.int32) -> mat33:
        """1+ε; where the volume is fixed exp(ε), whose determinant is exp(tr ε) = 1 to rounding and not to first order."""
        unit = wp.identity(3, dtype=real)
        f = unit + strain
        if (mode & 3) == 3:
            # By Horner's scheme; the eleventh power of a strain within the default bound is below 1e-14, and over 11! below rounding.
            terms = int(10)
            f = unit
            for k in range(terms):
                f = unit + strain * f * (one / real(terms - k))
        return f

    @wp.func
    def free(force: vec3, fixed: wp.array2d(dtype=wp.bool), any_fixed: wp.int32, j: wp.int32) -> vec3:
        """The force on atom j without the components that may not move."""
        f = force
        if any_fixed != 0:
            if fixed[j, 0]:
                f[0] = zero
            if fixed[j, 1]:
                f[1] = zero
            if fixed[j, 2]:
                f[2] = zero
        return f

    @wp.func
    def load(state: wp.array2d(dtype=real), i: wp.int32, column: wp.int32) -> mat33:
        """The matrix in nine columns of the state of system i."""
        m = mat33()
        for r in range(3):
            for c in range(3):
                m[r, c] = state[i, column + 3 * r + c]
        return m

    @wp.func
    def store(state: wp.array2d(dtype=real), i: wp.int32, column: wp.int32, m: mat33):
        for r in range(3):
            for c in range(3):
                state[i, column + 3 * r + c] = m[r, c]

    @wp.func
    def move(
        i: wp.int32,
        begin: wp.int32,
        end: wp.int32,
        positions: wp.array(dtype=vec3),
        direction: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        last_positions: wp.array(dtype=vec3),
        last_cell: wp.array(dtype=mat33),
        direction_strain: mat33,
        length: real,
        scale: real,
        max_strain: real,
        mode: wp.int32,
    ) -> wp.int32:
        """Remember where system i is and move it by `length` times a direction of atoms and scaled strain; less if that is too large."""
        last_cell[i] = cell[i]
        if mode == 0:
            for j in range(begin, end):
                x = positions[j]
                last_positions[j] = x
                positions[j] = x + direction[j] * length
        else:
            factor = length
            norm = wp.abs(length) * wp.sqrt(wp.ddot(direction_strain, direction_strain)) / scale
            if norm > max_strain:
                factor = length * (max_strain / norm)
            f = deformation(direction_strain * (factor / scale), mode)
            cell[i] = cell[i] * wp.transpose(f)
            for j in range(begin, end):
                x = positions[j]
                last_positions[j] = x
                positions[j] = f * x + direction[j] * factor
        return 0

    return SimpleNamespace(projector=projector, narrow=narrow, gradient=gradient, force=force, free=free, load=load, store=store, move=move)
