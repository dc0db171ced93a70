# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
# The kernels below are written in Warp's language, whose types are values here; a Python type checker has nothing to say about them.
# In it, int(0) and bool(True) declare variables; bare literals would be constants.
"""Who ends, and why: one launch that measures every running system and decides, one thread per system, serial over its atoms.

Serial for the reason of `fire_rule.py`: what is decided about a system depends on its own numbers only. A system that ends gets its
outcome and the status at which the step loop leaves it alone, on the device and at once; so whoever looks may look late and sees the same.
"""

from enum import IntEnum
from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.dynamics.optimizers.strain import strain_functions

__all__ = ["N_TALLIES", "Cause", "Tally", "exit_function", "exit_kernel"]


class Cause(IntEnum):
    """What made a system diverge."""

    NONE = 0
    ENERGY_NOT_FINITE = 1
    FORCES_NOT_FINITE = 2
    STRESS_NOT_FINITE = 3
    ENERGY_OUT_OF_BOUNDS = 4
    FORCES_OUT_OF_BOUNDS = 5
    VOLUME_OUT_OF_BOUNDS = 6
    INPUT_NOT_FINITE = 7


class Tally(IntEnum):
    """What is counted over the batch."""

    ENDED_SYSTEMS = 0
    ENDED_ATOMS = 1
    NEWLY_CONVERGED = 2
    NEWLY_DIVERGED = 3


N_TALLIES = len(Tally)

_CONVERGED = wp.constant(wp.int64(0))
_MAX_STEPS = wp.constant(wp.int64(1))
_DIVERGED = wp.constant(wp.int64(2))


@cache
def exit_function(precision: Precision) -> wp.Function:
    """Return the function that judges system i; `Exits` documents its parameters.

    Precedence where several apply is that of `campaign.outcomes.worse`: what has an outcome keeps it, then diverged, converged, max_steps.
    """
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    cellular = strain_functions(precision)
    projector = cellular.projector
    gradient = cellular.gradient
    free = cellular.free
    zero = real(0.0)

    @wp.func
    def judge(
        i: wp.int32,
        ptr: wp.array(dtype=wp.int32),
        fixed: wp.array2d(dtype=wp.bool),
        any_fixed: wp.int32,
        energy: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        n_steps: wp.array2d(dtype=wp.int64),
        status: wp.array2d(dtype=wp.int64),
        outcome: wp.array2d(dtype=wp.int64),
        cause: wp.array2d(dtype=wp.int64),
        fmax: wp.array2d(dtype=real),
        smax: wp.array2d(dtype=real),
        initial_energy: wp.array2d(dtype=real),
        initial_volume: wp.array2d(dtype=real),
        volume_ratio: wp.array2d(dtype=real),
        newly: wp.array(dtype=wp.bool),
        tally: wp.array(dtype=wp.int32),
        decide: wp.int32,
        cell_mode: wp.int32,
        pressure: real,
        exit_status: wp.int32,
        max_steps: wp.int32,
        fmax_threshold: real,
        smax_threshold: real,
        energy_bound: real,
        force_bound: real,
        volume_bound: real,
    ):
        newly[i] = False
        begin = ptr[i]
        end = ptr[i + 1]
        if decide != 0 and outcome[i, 0] >= wp.int64(0):
            status[i, 0] = wp.int64(exit_status)
            wp.atomic_add(tally, 0, 1)
            wp.atomic_add(tally, 1, end - begin)
            return

        e = energy[i, 0]
        f_square = zero
        # Infinite or NaN as soon as one force is: one test for all of them.
        total = zero
        for j in range(begin, end):
            f = forces[j]
            total += wp.dot(f, f)
            f = free(f, fixed, any_fixed, j)
            f_square = wp.max(f_square, wp.dot(f, f))
        finite = wp.isfinite(total)
        f_largest = wp.sqrt(f_square)

        volume = wp.abs(wp.determinant(cell[i]))
        ratio = real(1.0)
        if n_steps[i, 0] == wp.int64(0):
            initial_energy[i, 0] = e
            initial_volume[i, 0] = volume
        elif initial_volume[i, 0] > zero:
            ratio = volume / initial_volume[i, 0]
        s_largest = zero
        s_finite = bool(True)
        if cell_mode != 0:
            p = projector(cell[i], pbc[i, 0], pbc[i, 1], pbc[i, 2])
            s = gradient(p, cell[i], stress[i], cell_mode, pressure)
            if not wp.isfinite(wp.ddot(s, s)):
                s_finite = False
            for r in range(3):
                for c in range(3):
                    s_largest = wp.max(s_largest, wp.abs(s[r, c]))
        # wp.max passes over NaN, which must show in what is stored.
        if not finite:
            f_largest = wp.sqrt(real(-1.0))
        if not s_finite:
            s_largest = wp.sqrt(real(-1.0))
        fmax[i, 0] = f_largest
        smax[i, 0] = s_largest
        volume_ratio[i, 0] = ratio
        if decide == 0:
            return

        why = int(0)
        if not (ratio <= volume_bound and ratio * volume_bound >= real(1.0)):
            why = 6
        if not (f_largest <= force_bound):
            why = 5
        if e < -energy_bound * real(end - begin):
            why = 4
        if not s_finite:
            why = 3
        if not finite:
            why = 2
        if not wp.isfinite(e):
            why = 1
        if why != 0:
            outcome[i, 0] = _DIVERGED
            cause[i, 0] = wp.int64(why)
            wp.atomic_add(tally, 3, 1)
        elif f_largest <= fmax_threshold and s_largest <= smax_threshold:
            outcome[i, 0] = _CONVERGED
            newly[i] = True
            wp.atomic_add(tally, 2, 1)
        elif n_steps[i, 0] >= wp.int64(max_steps) or status[i, 0] >= wp.int64(exit_status):
            # A hook may take a system out early by its status; it then ends as what it is, not converged.
            outcome[i, 0] = _MAX_STEPS
        else:
            return
        status[i, 0] = wp.int64(exit_status)
        wp.atomic_add(tally, 0, 1)
        wp.atomic_add(tally, 1, end - begin)

    return judge


@cache
def exit_kernel(precision: Precision) -> wp.Kernel:
    """Return the kernel that judges all systems of a batch but those in `waits`, if it has any entries: their numbers mean nothing yet."""
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    judge = exit_function(precision)

    @wp.kernel(enable_backward=False, module="unique")
    def judge_systems(
        waits: wp.array2d(dtype=wp.bool),
        ptr: wp.array(dtype=wp.int32),
        fixed: wp.array2d(dtype=wp.bool),
        any_fixed: wp.int32,
        energy: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        n_steps: wp.array2d(dtype=wp.int64),
        status: wp.array2d(dtype=wp.int64),
        outcome: wp.array2d(dtype=wp.int64),
        cause: wp.array2d(dtype=wp.int64),
        fmax: wp.array2d(dtype=real),
        smax: wp.array2d(dtype=real),
        initial_energy: wp.array2d(dtype=real),
        initial_volume: wp.array2d(dtype=real),
        volume_ratio: wp.array2d(dtype=real),
        newly: wp.array(dtype=wp.bool),
        tally: wp.array(dtype=wp.int32),
        decide: wp.int32,
        cell_mode: wp.int32,
        pressure: real,
        exit_status: wp.int32,
        max_steps: wp.int32,
        fmax_threshold: real,
        smax_threshold: real,
        energy_bound: real,
        force_bound: real,
        volume_bound: real,
    ):
        i = wp.tid()
        if waits.shape[0] > 0:  # noqa: SIM102 - Warp looks at both sides of an `and`
            if waits[i, 0]:
                return
        judge(
            i,
            ptr,
            fixed,
            any_fixed,
            energy,
            forces,
            stress,
            cell,
            pbc,
            n_steps,
            status,
            outcome,
            cause,
            fmax,
            smax,
            initial_energy,
            initial_volume,
            volume_ratio,
            newly,
            tally,
            decide,
            cell_mode,
            pressure,
            exit_status,
            max_steps,
            fmax_threshold,
            smax_threshold,
            energy_bound,
            force_bound,
            volume_bound,
        )

    return judge_systems
