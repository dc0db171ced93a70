# mypy: ignore-errors
"""Loops over the neighbours of atoms, in C++ that Warp compiles for CPU and CUDA: what a potential adds is what one pair gives.

C++ and not Warp's Python, since here is where a campaign with an analytic potential spends its time: the same loop takes 1.8 times as long
in Warp's Python on a CPU, where every array is addressed by its strides. Each loop comes in two forms.

    system    one thread works on one system, whose list has each pair once (a half list); for a CPU
    rows      one thread works on one atom, whose row has all its neighbours; then `system_sums` adds the atoms; for a GPU

No two threads write to one place, nothing is added atomically, and no order depends on the batch, so the bits of a system do not depend on
its batch mates. Rows may hold pairs beyond the cutoff (a Verlet skin): they are left out, so neither do bits depend on the list's age.

Warp reads the annotations of a kernel as types when it is defined, so this file does without `from __future__ import annotations`, and to
mypy they are none.
"""

from dataclasses import dataclass
from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.models.system_loop import BLOCK, ENTER_SYSTEM, NEAR_PAIRS, SUM_FORCES, over_system, pull_each

__all__ = ["Loops", "near_list_function", "pair_loops", "row_kernels", "system_function", "system_kernel", "system_sums_kernel"]


@dataclass(frozen=True, slots=True)
class Loops:
    """The loops of a potential, as the bodies of C++ functions whose arguments are those of `system_function` and `row_kernels`.

    Both may use, beside their arguments, what `_SHARED` declares: `real`, positions X, forces F, the potential's own numbers T, `width`.
    """

    system: str
    """For system i: fills F from its first to its last atom, and returns through `total` and `V` (xx, yy, zz, yz, xz, xy; eV)."""
    rows: tuple[str, ...]
    """For one atom, in as many launches: fills F of that atom, and at the end its share in `total` and `V`."""
    scratch_per_atom: int = 0
    """Numbers that the loops keep for each atom: entries [0, A) of S, and so on."""
    system_scratch_per_pair: int = 0
    """Numbers that `system` keeps for each place in the neighbour matrix, behind those of the atoms."""
    rows_scratch_per_pair: int = 0
    """The same for `rows`."""


_SHARED = """
typedef {real} real;
const real* __restrict__ X = (const real*)positions.data;
real* __restrict__ F = (real*)forces.data;
const real* T = table.data;
const int width = neighbor_matrix.shape[1];
const int n_atoms = forces.shape[0];
real total = real(0);
real V[6] = {{0, 0, 0, 0, 0, 0}};
(void)T; (void)n_atoms;
"""

_OF_SYSTEM = """
const int begin = batch_ptr.data[i], end = batch_ptr.data[i + 1];
real C[9];
for (int k = 0; k < 9; ++k) C[k] = ((const real*)cell.data)[9 * i + k];
const bool* P = pbc.data + 3 * i;
const bool is_periodic = P[0] || P[1] || P[2];
const bool is_shifted = is_periodic && shifts.shape[1] == width;
const bool has_stress = is_periodic && with_stress != 0;
"""

_LEAVE_SYSTEM = """
energy.data[i] = total;
if (with_stress != 0) {
    real scale = real(0);
    const real along = C[4] * C[8] - C[5] * C[7], across = C[3] * C[8] - C[5] * C[6], up = C[3] * C[7] - C[4] * C[6];
    const real volume = wp::abs(C[0] * along - C[1] * across + C[2] * up);
    if (is_periodic && volume > real(0)) scale = real(1) / volume;
    real* W = (real*)stress.data + 9 * i;
    const int place[9] = {0, 5, 4, 5, 1, 3, 4, 3, 2};
    for (int k = 0; k < 9; ++k) W[k] = scale == real(0) ? real(0) : V[place[k]] * scale;
}
"""

_OF_ATOM = """
real* S = scratch.data;
(void)S;
real C[9];
for (int k = 0; k < 9; ++k) C[k] = ((const real*)cell.data)[9 * batch_idx.data[i] + k];
const bool is_shifted = shifts.shape[1] == width;
F[3 * i] = F[3 * i + 1] = F[3 * i + 2] = real(0);
"""

_LEAVE_ATOM = """
atom_energy.data[i] = real(0.5) * total;
for (int k = 0; k < 6; ++k) atom_virial.data[6 * i + k] = real(0.5) * V[k];
"""

VECTOR = """
const int j = neighbor_matrix.data[(long long)i_atom * width + n];
real dx = X[3 * j] - x, dy = X[3 * j + 1] - y, dz = X[3 * j + 2] - z;
if (is_shifted) {
    const wp::vec_t<3, int> s = shifts.data[(long long)i_atom * width + n];
    const real a = real(s[0]), b = real(s[1]), c = real(s[2]);
    dx += a * C[0] + b * C[3] + c * C[6];
    dy += a * C[1] + b * C[4] + c * C[7];
    dz += a * C[2] + b * C[5] + c * C[8];
}
"""
"""Neighbour j of `i_atom`, at x, y, z, in place n of its row: the vector to it, dx, dy, dz."""

PULL = """
const real gx = du * dx, gy = du * dy, gz = du * dz;
fx += gx; fy += gy; fz += gz;
"""
"""What the pair does to `i_atom`, with `du` = u'(r)/r."""

VIRIAL = "V[0] += gx * dx; V[1] += gy * dy; V[2] += gz * dz; V[3] += gy * dz; V[4] += gx * dz; V[5] += gx * dy;"

NO_FORCE = "real fx = 0, fy = 0, fz = 0;"
ADD_FORCE = "F[3 * i_atom] += fx; F[3 * i_atom + 1] += fy; F[3 * i_atom + 2] += fz;"


def over_row(before: str, pair: str, after: str = "") -> str:
    """Return a loop over the places n of the row of atom i."""
    return f"""
const int i_atom = i;
const real x = X[3 * i_atom], y = X[3 * i_atom + 1], z = X[3 * i_atom + 2];
const int count = num_neighbors.data[i_atom];
{before}
for (int n = 0; n < count; ++n) {{
    {pair}
}}
{after}
"""


@cache
def pair_loops(constants: str, is_beyond: str, pair: str) -> Loops:
    """Return the loops of a pair potential.

    Args:
        constants: C++ that names the numbers of T.
        is_beyond: when the squared distance `r2` is beyond the cutoff, such that NaN is not.
        pair: C++ that sets `u`, the energy of the pair in eV, and `du` = u'(r)/r in eV/Å², from `r2`.
    """
    block = f"""
for (int k = 0; k < m; ++k) {{
    const real r2 = r2_of[k];
    real u, du;
    {pair}
    u_of[k] = u; du_of[k] = du;
}}
for (int k = m; k % 4 != 0; ++k) u_of[k] = real(0);
for (int k = 0; k < m; k += 4) u_sum += *(const four*)(u_of + k);
{pull_each("m", "d_of[k]", "j_of[k]", "du_of[k]")}
"""
    room = f"""
alignas(64) real u_of[{BLOCK}], du_of[{BLOCK}];
four u_sum = {{real(0), real(0), real(0), real(0)}};
"""
    leave = "total = (u_sum.x + u_sum.y) + (u_sum.z + u_sum.w);"
    one = f"""
{VECTOR}
const real r2 = dx * dx + dy * dy + dz * dz;
if (!({is_beyond})) {{
    real u, du;
    {pair}
    total += u;
    {PULL} {VIRIAL}
}}
"""
    return Loops(constants + room + over_system("", block, is_beyond, "") + leave, (constants + over_row(NO_FORCE, one, ADD_FORCE),))


@cache
def system_function(precision: Precision, loops: Loops) -> wp.Function:
    """Return the Warp function that evaluates system i: energy in eV, forces in eV/Å and, if `with_stress`, stress in eV/Å³.

    Its pairs are those of its rows, or of the near list where there is one: `near` is empty where there is none.
    The stress is virial / |det cell|, and zero for a system that is periodic in no direction or whose cell has no volume.
    """
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33

    @wp.func_native(_SHARED.format(real=_c_name(precision)) + _OF_SYSTEM + ENTER_SYSTEM + loops.system + SUM_FORCES + _LEAVE_SYSTEM)
    def evaluate_system(
        i: wp.int32,
        with_stress: wp.int32,
        batch_ptr: wp.array(dtype=wp.int32),
        atomic_numbers: wp.array(dtype=wp.int64),
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        near: wp.array(dtype=wp.int32),
        near_counts: wp.array(dtype=wp.int32),
        near_reach: wp.array(dtype=wp.int32),
        table: wp.array(dtype=real),
        scratch: wp.array(dtype=real),
        energy: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
    ): ...

    return evaluate_system


@cache
def near_list_function() -> wp.Function:
    """Return the Warp function that makes the near list of system i: those pairs of its rows that are within `radius`, in float64."""

    @wp.func_native(NEAR_PAIRS)
    def make_near_list(
        i: wp.int32,
        batch_ptr: wp.array(dtype=wp.int32),
        positions: wp.array(dtype=wp.vec3d),
        cell: wp.array(dtype=wp.mat33d),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        radius: wp.float64,
        near: wp.array(dtype=wp.int32),
        near_counts: wp.array(dtype=wp.int32),
        near_reach: wp.array(dtype=wp.int32),
    ): ...

    return make_near_list


@cache
def system_kernel(precision: Precision, loops: Loops) -> wp.Kernel:
    """Return the kernel with one thread per system, for half lists."""
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    evaluate = system_function(precision, loops)

    @wp.kernel(enable_backward=False, module="unique")
    def evaluate_systems(
        batch_ptr: wp.array(dtype=wp.int32),
        atomic_numbers: wp.array(dtype=wp.int64),
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        near: wp.array(dtype=wp.int32),
        near_counts: wp.array(dtype=wp.int32),
        near_reach: wp.array(dtype=wp.int32),
        table: wp.array(dtype=real),
        scratch: wp.array(dtype=real),
        energy: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
    ):
        evaluate(
            wp.tid(),
            1,
            batch_ptr,
            atomic_numbers,
            positions,
            cell,
            pbc,
            neighbor_matrix,
            num_neighbors,
            shifts,
            near,
            near_counts,
            near_reach,
            table,
            scratch,
            energy,
            forces,
            stress,
        )

    return evaluate_systems


@cache
def row_kernels(precision: Precision, loops: Loops) -> tuple[wp.Kernel, ...]:
    """Return the kernels with one thread per atom, for lists that have each pair from both sides; the last is followed by `system_sums`."""
    return tuple(_row_kernel(precision, source) for source in loops.rows)


def _row_kernel(precision: Precision, source: str) -> wp.Kernel:
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33

    @wp.func_native(_SHARED.format(real=_c_name(precision)) + _OF_ATOM + source + _LEAVE_ATOM)
    def evaluate_atom(
        i: wp.int32,
        batch_idx: wp.array(dtype=wp.int32),
        atomic_numbers: wp.array(dtype=wp.int64),
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        table: wp.array(dtype=real),
        scratch: wp.array(dtype=real),
        atom_energy: wp.array(dtype=real),
        atom_virial: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
    ): ...

    @wp.kernel(enable_backward=False, module="unique")
    def evaluate_atoms(
        batch_idx: wp.array(dtype=wp.int32),
        atomic_numbers: wp.array(dtype=wp.int64),
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        table: wp.array(dtype=real),
        scratch: wp.array(dtype=real),
        atom_energy: wp.array(dtype=real),
        atom_virial: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
    ):
        evaluate_atom(
            wp.tid(),
            batch_idx,
            atomic_numbers,
            positions,
            cell,
            neighbor_matrix,
            num_neighbors,
            shifts,
            table,
            scratch,
            atom_energy,
            atom_virial,
            forces,
        )

    return evaluate_atoms


@cache
def system_sums_kernel(p: Precision) -> wp.Kernel:
    """Energy in eV and stress in eV/Å³ of each system, from those of its atoms in order; the stress is as in `system_function`."""
    real, vec3, mat33 = p.real, p.vec3, p.mat33

    @wp.kernel(enable_backward=False, module="unique")
    def system_sums(
        batch_ptr: wp.array(dtype=wp.int32),
        atom_energy: wp.array(dtype=real),
        atom_virial: wp.array2d(dtype=real),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        energy: wp.array2d(dtype=real),
        stress: wp.array(dtype=mat33),
    ):
        system = wp.tid()
        total = real(0.0)
        diagonal = vec3()
        off = vec3()
        for atom in range(batch_ptr[system], batch_ptr[system + 1]):
            total += atom_energy[atom]
            diagonal += vec3(atom_virial[atom, 0], atom_virial[atom, 1], atom_virial[atom, 2])
            off += vec3(atom_virial[atom, 3], atom_virial[atom, 4], atom_virial[atom, 5])
        energy[system, 0] = total
        volume = wp.abs(wp.determinant(cell[system]))
        if volume > real(0.0) and (pbc[system, 0] or pbc[system, 1] or pbc[system, 2]):
            scale = real(1.0) / volume
            diagonal = diagonal * scale
            off = off * scale
            stress[system] = mat33(diagonal[0], off[2], off[1], off[2], diagonal[1], off[0], off[1], off[0], diagonal[2])
        else:
            stress[system] = mat33()

    return system_sums


def _c_name(precision: Precision) -> str:
    return "double" if precision.real is wp.float64 else "float"
