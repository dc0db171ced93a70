# mypy: ignore-errors
# The function below is written in Warp's language, whose types are values here; a Python type checker has nothing to say about it.
"""One L-BFGS step of all systems in one launch: one thread per system, serial over its atoms, for the reason given in `fire_rule.py`.

Nocedal, Math. Comp. 35, 773 (1980), in the form of `ase.optimize.LBFGS` without line search: the two-loop recursion over the last steps s
and changes of the gradient y, from a constant inverse Hessian, and a step whose longest atom moves at most `maxstep`. It differs where
ASE goes wrong far from a minimum. A pair with y·s ≤ 0 has no place in an approximation that must stay positive, and is left out. Where the
direction does not follow the force, the history is dropped. And where the mean of the forces before and after a step points back, which is
to say that the energy rose, the bound on steps is halved; it grows again as long as it falls. The constant inverse Hessian is too large for
directions stiffer than twice `alpha` that the last steps did not show: where the newest pair was stiffer than `alpha`, y·s/y·y takes its
place.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.dynamics.optimizers.strain import strain_functions

__all__ = ["lbfgs_rule", "n_columns"]


def n_columns(memory: int) -> int:
    """Return the number of columns of `state`; the last two are the bound on the last step and the inverse Hessian to begin from.

    Before them come, for each of the last steps, the strain of the step, the change of the force on the strain, then that force, and for
    each step 1/(y·s) and what the first loop of the recursion leaves to the second.
    """
    return 18 * memory + 9 + 2 * memory + 2


@cache
def lbfgs_rule(precision: Precision) -> wp.Function:
    """Return the rule for one precision; `LBFGS` documents its parameters.

    `counts` has two columns: pairs in the history, a ring whose newest entry is at (pairs written − 1) mod memory; and pairs written.
    A first column of −1 says that the system has not moved yet. The step after the newest pair is stored in the next place of the ring.
    `atom_state` has the steps, the changes of the gradient, and the last forces; `motion` is the direction.
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
    def lbfgs_step(
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
        damping = numbers[1]
        alpha = numbers[2]
        memory = int(numbers[3])
        at_last = 18 * memory
        begin = ptr[i]
        end = ptr[i + 1]
        if end == begin:
            return
        p = mat33()
        f_strain = mat33()
        scale = cell_length * wp.sqrt(real(end - begin))
        if cell_mode != 0:
            p = projector(cell[i], pbc[i, 0], pbc[i, 1], pbc[i, 2])
            f_strain = strain_force(p, cell[i], stress[i], cell_mode, pressure, scale)

        pairs = counts[i, 0]
        written = counts[i, 1]
        bound = maxstep
        softness = state[i, at_last + 10 + 2 * memory]
        if pairs < 0:
            pairs = 0
        else:
            # The step before this one has shown how the gradient changes along it, and whether it went too far.
            place = written % memory
            y_strain = load(state, i, at_last) - f_strain
            product = wp.ddot(y_strain, load(state, i, 9 * place))
            square = wp.ddot(y_strain, y_strain)
            gained = wp.ddot(load(state, i, at_last) + f_strain, load(state, i, 9 * place))
            store(state, i, 9 * (memory + place), y_strain)
            for j in range(begin, end):
                f = free(forces[j], fixed, any_fixed, j)
                y = atom_state[j, 2 * memory] - f
                s = atom_state[j, place]
                atom_state[j, memory + place] = y
                product += wp.dot(y, s)
                square += wp.dot(y, y)
                gained += wp.dot(atom_state[j, 2 * memory] + f, s)
            bound = wp.min(state[i, at_last + 9 + 2 * memory] * real(1.2), maxstep)
            if gained < zero:
                bound = wp.max(state[i, at_last + 9 + 2 * memory] * real(0.5), maxstep * real(1.0e-3))
            if product > zero:
                state[i, at_last + 9 + place] = one / product
                softness = wp.min(product / square, one / alpha)
                written += 1
                pairs = wp.min(pairs + 1, memory)
        state[i, at_last + 9 + 2 * memory] = bound
        state[i, at_last + 10 + 2 * memory] = softness

        for j in range(begin, end):
            motion[j] = free(forces[j], fixed, any_fixed, j)
        d_strain = f_strain
        for back in range(pairs):
            place = (written - 1 - back) % memory
            a = wp.ddot(load(state, i, 9 * place), d_strain)
            for j in range(begin, end):
                a += wp.dot(atom_state[j, place], motion[j])
            a *= state[i, at_last + 9 + place]
            state[i, at_last + 9 + memory + place] = a
            d_strain = d_strain - load(state, i, 9 * (memory + place)) * a
            for j in range(begin, end):
                motion[j] = motion[j] - atom_state[j, memory + place] * a
        d_strain = d_strain * softness
        for j in range(begin, end):
            motion[j] = motion[j] * softness
        for ahead in range(pairs):
            place = (written - pairs + ahead) % memory
            b = wp.ddot(load(state, i, 9 * (memory + place)), d_strain)
            for j in range(begin, end):
                b += wp.dot(atom_state[j, memory + place], motion[j])
            b = state[i, at_last + 9 + memory + place] - b * state[i, at_last + 9 + place]
            d_strain = d_strain + load(state, i, 9 * place) * b
            for j in range(begin, end):
                motion[j] = motion[j] + atom_state[j, place] * b

        downhill = wp.ddot(d_strain, f_strain)
        for j in range(begin, end):
            downhill += wp.dot(motion[j], free(forces[j], fixed, any_fixed, j))
        if not (downhill > zero):
            pairs = 0
            d_strain = f_strain * softness
            for j in range(begin, end):
                motion[j] = free(forces[j], fixed, any_fixed, j) * softness

        # The rows of the strain count as atoms, as in ASE's filters.
        longest = zero
        for r in range(3):
            longest = wp.max(longest, d_strain[r, 0] * d_strain[r, 0] + d_strain[r, 1] * d_strain[r, 1] + d_strain[r, 2] * d_strain[r, 2])
        for j in range(begin, end):
            longest = wp.max(longest, wp.dot(motion[j], motion[j]))
        longest = wp.sqrt(longest)
        factor = damping
        if longest >= bound:
            factor = damping * (bound / longest)
        norm = factor * wp.sqrt(wp.ddot(d_strain, d_strain)) / scale
        if norm > max_strain:
            factor *= max_strain / norm

        place = written % memory
        store(state, i, 9 * place, d_strain * factor)
        store(state, i, at_last, f_strain)
        for j in range(begin, end):
            atom_state[j, place] = motion[j] * factor
            atom_state[j, 2 * memory] = free(forces[j], fixed, any_fixed, j)
        counts[i, 0] = pairs
        counts[i, 1] = written
        move(i, begin, end, positions, motion, cell, last_positions, last_cell, d_strain, factor, scale, max_strain, cell_mode)

    return lbfgs_step
