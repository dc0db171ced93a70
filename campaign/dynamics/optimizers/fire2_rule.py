# mypy: ignore-errors
# The function below is written in Warp's language, whose types are values here; a Python type checker has nothing to say about it.
"""One FIRE 2.0 step of all systems in one launch: one thread per system, serial over its atoms, for the reason given in `fire_rule.py`.

Guénolé et al., Comput. Mater. Sci. 175, 109584 (2020), in the form of `ase.optimize.FIRE2`. When a step has gone uphill, FIRE 2.0 goes back
half of it and needs the forces there before it goes on. ASE evaluates twice within that step; here the system goes back and waits for
the evaluation that every step has, so going back counts as a step of its own and batch mates are not held up. Where ASE would go
back by more than `maxstep`, which after a rough start is hundreds of Å, it is half of `maxstep` here, half of the step that was taken.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.dynamics.optimizers.strain import strain_functions

__all__ = ["ALPHA", "COLUMNS", "DT", "STRAIN_VELOCITY", "fire2_rule"]

DT, ALPHA, STRAIN_VELOCITY = range(3)
"""Columns of the per-system state; the strain velocity takes nine."""

COLUMNS = STRAIN_VELOCITY + 9


@cache
def fire2_rule(precision: Precision) -> wp.Function:
    """Return the rule for one precision; `FIRE2` documents its parameters.

    `counts` has two columns: steps downhill since the last uphill one, and 1 where the next step goes on from rest.
    """
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
    def fire2_step(
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
        p = mat33()
        f_strain = mat33()
        v_strain = mat33()
        scale = cell_length * wp.sqrt(real(end - begin))
        if cell_mode != 0:
            p = projector(cell[i], pbc[i, 0], pbc[i, 1], pbc[i, 2])
            f_strain = strain_force(p, cell[i], stress[i], cell_mode, pressure, scale)
        dt = state[i, 0]
        alpha = state[i, 1]
        at_rest = counts[i, 1] != 0

        power = zero
        speed = zero
        f_square = wp.ddot(f_strain, f_strain)
        if not at_rest and cell_mode != 0:
            v_strain = load(state, i, 2)
            power = wp.ddot(v_strain, f_strain)
            speed = wp.ddot(v_strain, v_strain)
        for j in range(begin, end):
            f = free(forces[j], fixed, any_fixed, j)
            f_square += wp.dot(f, f)
            if not at_rest:
                power += wp.dot(f, motion[j])
                speed += wp.dot(motion[j], motion[j])

        if at_rest:
            counts[i, 1] = 0
        elif power > zero:
            counts[i, 0] = counts[i, 0] + 1
            if real(counts[i, 0]) > numbers[1]:
                dt = wp.min(dt * numbers[2], numbers[6])
                alpha *= numbers[4]
        else:
            counts[i, 0] = 0
            counts[i, 1] = 1
            dt = wp.max(dt * numbers[3], numbers[7])
            state[i, 0] = dt
            state[i, 1] = numbers[5]
            back = real(-0.5) * dt
            reach = real(0.5) * dt * wp.sqrt(speed)
            if reach > maxstep:
                back *= real(0.5) * maxstep / reach
            move(i, begin, end, positions, motion, cell, last_positions, last_cell, v_strain, back, scale, max_strain, cell_mode)
            return
        state[i, 0] = dt
        state[i, 1] = alpha

        # Kick, then turn towards the force.
        v_strain = v_strain + f_strain * dt
        v_square = wp.ddot(v_strain, v_strain)
        for j in range(begin, end):
            v = free(forces[j], fixed, any_fixed, j) * dt
            if not at_rest:
                v += motion[j]
            motion[j] = v
            v_square += wp.dot(v, v)
        push = zero
        if f_square > zero:
            push = alpha / wp.sqrt(f_square) * wp.sqrt(v_square)
        keep = one - alpha
        v_strain = v_strain * keep + f_strain * push
        square = wp.ddot(v_strain, v_strain)
        for j in range(begin, end):
            v = motion[j] * keep + free(forces[j], fixed, any_fixed, j) * push
            motion[j] = v
            square += wp.dot(v, v)
        reach = dt * wp.sqrt(square)
        factor = dt
        if reach > maxstep:
            factor = dt * (maxstep / reach)
        if cell_mode != 0:
            store(state, i, 2, v_strain)
        move(i, begin, end, positions, motion, cell, last_positions, last_cell, v_strain, factor, scale, max_strain, cell_mode)

    return fire2_step
