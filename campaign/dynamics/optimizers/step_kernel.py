# mypy: ignore-errors
"""One step of all systems in one launch: the kernel around the rule of an optimizer.

A rule is a Warp function that moves one system: it reads its energy, forces and stress, follows them as the optimizer does, writes where
the system was to `last_positions` and `last_cell`, and moves it. All rules have the arguments below, so that whoever launches one (here,
or `burst_kernel.py`, which does many steps at once) needs to know none of them.

    motion      what positions move along: the velocities, or a direction
    state       real numbers per system, `counts` whole ones; what is in which column is the rule's own affair
    atom_state  vectors per atom
    numbers     the optimizer's parameters
"""

from collections.abc import Callable
from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision

__all__ = ["Rule", "step_kernel"]

Rule = Callable[[Precision], wp.Function]
"""What makes the Warp function of an optimizer for one precision."""


@cache
def step_kernel(precision: Precision, rule: Rule) -> wp.Kernel:
    """Return the kernel that moves the systems of `mask` by one step, one thread per system."""
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    follow = rule(precision)

    @wp.kernel(enable_backward=False, module="unique")
    def step(
        mask: wp.array(dtype=wp.bool),
        ptr: wp.array(dtype=wp.int32),
        fixed: wp.array2d(dtype=wp.bool),
        any_fixed: wp.int32,
        energy: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        last_positions: wp.array(dtype=vec3),
        last_cell: wp.array(dtype=mat33),
        cell_mode: wp.int32,
        pressure: real,
        cell_length: real,
        max_strain: real,
        motion: wp.array(dtype=vec3),
        state: wp.array2d(dtype=real),
        counts: wp.array2d(dtype=wp.int32),
        atom_state: wp.array2d(dtype=vec3),
        numbers: wp.array(dtype=real),
    ):
        i = wp.tid()
        if mask[i]:
            follow(
                i,
                ptr,
                fixed,
                any_fixed,
                energy,
                forces,
                stress,
                pbc,
                positions,
                cell,
                last_positions,
                last_cell,
                cell_mode,
                pressure,
                cell_length,
                max_strain,
                motion,
                state,
                counts,
                atom_state,
                numbers,
            )

    return step
