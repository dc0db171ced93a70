# mypy: ignore-errors
# ruff: noqa: UP018
# The function below is written in Warp's language, whose types are values here; a Python type checker has nothing to say about it.
# In it, int(0) and bool(True) declare variables; bare literals would be constants.
"""One FIRE step of all systems in one launch: one thread per system, serial over its atoms.

Serial on purpose: what a system does depends on its own numbers in their own order and on nothing else, so it takes the same steps, bit for
bit, whoever shares the batch. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), in the form of `ase.optimize.FIRE`: the force is the
acceleration (unit masses), velocities are kept in the optimizer, and the 3n-vector of the displacement, not each atom's, is held to
`maxstep`.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.dynamics.optimizers.strain import strain_functions

__all__ = ["ALPHA", "COLUMNS", "DT", "DT_MAX", "DT_MIN", "LAST_ENERGY", "STRAIN_VELOCITY", "fire_rule"]

DT, ALPHA, DT_MAX, DT_MIN, LAST_ENERGY, STRAIN_VELOCITY = range(6)
"""Columns of the per-system state; the strain velocity takes nine."""

COLUMNS = STRAIN_VELOCITY + 9


@cache
def fire_rule(precision: Precision) -> wp.Function:
    """Return the rule for one precision; `FIRE` documents its parameters."""
    cellular = strain_functions(precision)
    projector = cellular.projector
    strain_force = cellular.force
    move = cellular.move
    free = cellular.free
    load = cellular.load
    store = cellular.store
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    zero = real(0.0)
    one = real(1.0)

    @wp.func
    def fire_step(
        i: wp.int32,
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
        maxstep = numbers[0]
        begin = ptr[i]
        end = ptr[i + 1]
        if end == begin:
            return

        # The strain's share of force and velocity; zero where the cell stays.
        p = mat33()
        f_strain = mat33()
        v_strain = mat33()
        scale = cell_length * wp.sqrt(real(end - begin))
        if cell_mode != 0:
            p = projector(cell[i], pbc[i, 0], pbc[i, 1], pbc[i, 2])
            f_strain = strain_force(p, cell[i], stress[i], cell_mode, pressure, scale)

        dt = state[i, 0]
        alpha = state[i, 1]
        count = counts[i, 0]
        keep = zero
        push = zero
        uphill = bool(False)
        height = energy[i, 0]
        if pressure != zero and cell_mode != 0:
            height += pressure * wp.abs(wp.determinant(cell[i]))
        if count < 0:
            # First step of this system: motion are zero and there is nothing to judge yet.
            counts[i, 0] = 0
            state[i, 4] = height
        else:
            if cell_mode != 0:
                v_strain = load(state, i, 5)
            power = wp.ddot(v_strain, f_strain)
            f_square = wp.ddot(f_strain, f_strain)
            v_square = wp.ddot(v_strain, v_strain)
            for j in range(begin, end):
                f = free(forces[j], fixed, any_fixed, j)
                v = motion[j]
                power += wp.dot(f, v)
                f_square += wp.dot(f, f)
                v_square += wp.dot(v, v)
            if numbers[6] != zero:
                if height > state[i, 4]:
                    uphill = True
                else:
                    state[i, 4] = height
            if power > zero and not uphill:
                keep = one - alpha
                push = alpha / wp.sqrt(f_square) * wp.sqrt(v_square)
                if real(count) > numbers[1]:
                    dt = wp.min(dt * numbers[2], state[i, 2])
                    alpha *= numbers[5]
                counts[i, 0] = count + 1
            else:
                alpha = numbers[4]
                dt = wp.max(dt * numbers[3], state[i, 3])
                counts[i, 0] = 0
        state[i, 0] = dt
        state[i, 1] = alpha

        # New motion and the length of the step they would make.
        gain = push + dt
        v_strain = v_strain * keep + f_strain * gain
        square = wp.ddot(v_strain, v_strain)
        for j in range(begin, end):
            f = free(forces[j], fixed, any_fixed, j)
            v = f * gain
            if keep != zero:
                v += motion[j] * keep
            motion[j] = v
            square += wp.dot(v, v)
        reach = dt * wp.sqrt(square)
        factor = dt
        if reach > maxstep:
            factor = dt * (maxstep / reach)

        if uphill:
            for j in range(begin, end):
                positions[j] = last_positions[j]
            cell[i] = last_cell[i]
        if cell_mode != 0:
            store(state, i, 5, v_strain)
        move(i, begin, end, positions, motion, cell, last_positions, last_cell, v_strain, factor, scale, max_strain, cell_mode)

    return fire_step
