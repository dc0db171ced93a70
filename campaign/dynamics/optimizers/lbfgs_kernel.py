# mypy: ignore-errors
# The kernel below is written in Warp's language, whose types are values here; a Python type checker has nothing to say about it.
"""One L-BFGS step of all systems in one launch: one thread per system, serial over its atoms, for the reason given in `fire_kernel.py`.

Nocedal, Math. Comp. 35, 773 (1980), in the form of `ase.optimize.LBFGS` without line search: the two-loop recursion over the last steps s
and changes of the gradient y, from a constant inverse Hessian, and a step whose longest atom moves at most `maxstep`. It differs where
ASE goes wrong far from a minimum. A pair with y·s ≤ 0 has no place in an approximation that must stay positive, and is left out. Where the
direction does not follow the force, the history is dropped. And where the mean of the forces before and after a step points back, which is
to say that the energy rose, the bound on steps is halved; it grows again as long as it falls.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.dynamics.optimizers.strain import strain_functions

__all__ = ["lbfgs_kernel"]


@cache
def lbfgs_kernel(precision: Precision) -> wp.Kernel:
    """Return the kernel for one precision; `LBFGS` documents its parameters.

    `counts` has two columns: pairs in the history, a ring whose newest entry is at (pairs written − 1) mod memory; and pairs written.
    A first column of −1 says that the system has not moved yet. The step after the newest pair is stored in the next place of the ring.
    `trust` has the bound on the last step.
    """
    cellular = strain_functions(precision)
    projector = cellular.projector
    strain_force = cellular.force
    move = cellular.move
    free = cellular.free
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    zero = real(0.0)
    one = real(1.0)

    @wp.kernel(enable_backward=False, module="unique")
    def lbfgs_step(
        ptr: wp.array(dtype=wp.int32),
        mask: wp.array(dtype=wp.bool),
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
        cell_length: real,
        max_strain: real,
        steps: wp.array2d(dtype=vec3),
        changes: wp.array2d(dtype=vec3),
        steps_strain: wp.array2d(dtype=mat33),
        changes_strain: wp.array2d(dtype=mat33),
        last_forces: wp.array(dtype=vec3),
        last_forces_strain: wp.array(dtype=mat33),
        direction: wp.array(dtype=vec3),
        curvature: wp.array2d(dtype=real),
        weight: wp.array2d(dtype=real),
        trust: wp.array(dtype=real),
        counts: wp.array2d(dtype=wp.int32),
        memory: wp.int32,
        maxstep: real,
        damping: real,
        alpha: real,
    ):
        i = wp.tid()
        if not mask[i]:
            return
        begin = ptr[i]
        end = ptr[i + 1]
        if end == begin:
            return
        p = mat33()
        f_strain = mat33()
        scale = cell_length * wp.sqrt(real(end - begin))
        if cell_mode != 0:
            p = projector(cell[i], pbc[i, 0], pbc[i, 1], pbc[i, 2])
            f_strain = strain_force(p, cell[i], stress[i], cell_mode, scale)

        pairs = counts[i, 0]
        written = counts[i, 1]
        bound = maxstep
        if pairs < 0:
            pairs = 0
        else:
            # The step before this one has shown how the gradient changes along it, and whether it went too far.
            place = written % memory
            y_strain = last_forces_strain[i] - f_strain
            product = wp.ddot(y_strain, steps_strain[i, place])
            gained = wp.ddot(last_forces_strain[i] + f_strain, steps_strain[i, place])
            changes_strain[i, place] = y_strain
            for j in range(begin, end):
                f = free(forces[j], fixed, any_fixed, j)
                y = last_forces[j] - f
                s = steps[j, place]
                changes[j, place] = y
                product += wp.dot(y, s)
                gained += wp.dot(last_forces[j] + f, s)
            bound = wp.min(trust[i] * real(1.2), maxstep)
            if gained < zero:
                bound = wp.max(trust[i] * real(0.5), maxstep * real(1.0e-3))
            if product > zero:
                curvature[i, place] = one / product
                written += 1
                pairs = wp.min(pairs + 1, memory)
        trust[i] = bound

        for j in range(begin, end):
            direction[j] = free(forces[j], fixed, any_fixed, j)
        d_strain = f_strain
        for back in range(pairs):
            place = (written - 1 - back) % memory
            a = wp.ddot(steps_strain[i, place], d_strain)
            for j in range(begin, end):
                a += wp.dot(steps[j, place], direction[j])
            a *= curvature[i, place]
            weight[i, place] = a
            d_strain = d_strain - changes_strain[i, place] * a
            for j in range(begin, end):
                direction[j] = direction[j] - changes[j, place] * a
        d_strain = d_strain / alpha
        for j in range(begin, end):
            direction[j] = direction[j] / alpha
        for ahead in range(pairs):
            place = (written - pairs + ahead) % memory
            b = wp.ddot(changes_strain[i, place], d_strain)
            for j in range(begin, end):
                b += wp.dot(changes[j, place], direction[j])
            b = weight[i, place] - b * curvature[i, place]
            d_strain = d_strain + steps_strain[i, place] * b
            for j in range(begin, end):
                direction[j] = direction[j] + steps[j, place] * b

        downhill = wp.ddot(d_strain, f_strain)
        for j in range(begin, end):
            downhill += wp.dot(direction[j], free(forces[j], fixed, any_fixed, j))
        if not (downhill > zero):
            pairs = 0
            d_strain = f_strain / alpha
            for j in range(begin, end):
                direction[j] = free(forces[j], fixed, any_fixed, j) / alpha

        # The rows of the strain count as atoms, as in ASE's filters.
        longest = zero
        for r in range(3):
            longest = wp.max(longest, d_strain[r, 0] * d_strain[r, 0] + d_strain[r, 1] * d_strain[r, 1] + d_strain[r, 2] * d_strain[r, 2])
        for j in range(begin, end):
            longest = wp.max(longest, wp.dot(direction[j], direction[j]))
        longest = wp.sqrt(longest)
        factor = damping
        if longest >= bound:
            factor = damping * (bound / longest)
        norm = factor * wp.sqrt(wp.ddot(d_strain, d_strain)) / scale
        if norm > max_strain:
            factor *= max_strain / norm

        place = written % memory
        steps_strain[i, place] = d_strain * factor
        last_forces_strain[i] = f_strain
        for j in range(begin, end):
            steps[j, place] = direction[j] * factor
            last_forces[j] = free(forces[j], fixed, any_fixed, j)
        counts[i, 0] = pairs
        counts[i, 1] = written
        move(i, begin, end, positions, direction, cell, last_positions, last_cell, p, d_strain, factor, scale, max_strain, cell_mode)

    return lbfgs_step
