# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
# The kernel below is written in Warp's language, whose types are values here; a Python type checker has nothing to say about it.
"""Forces and stresses averaged over the operations of a space group, in one launch: one thread per system, serial over its atoms."""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision

__all__ = ["average_function", "symmetrise_kernel"]


@cache
def average_function(precision: Precision) -> wp.Function:
    """Return the function that averages system i; `symmetry.py` says what `root`, `matrix` and `projector` are.

    Roots count from 1. A system whose roots are 0 keeps no symmetry, and what is followed is what the model gave.
    """
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33

    @wp.func
    def average(
        i: wp.int32,
        ptr: wp.array(dtype=wp.int32),
        root: wp.array2d(dtype=wp.int32),
        matrix: wp.array(dtype=mat33),
        projector: wp.array3d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
        followed_forces: wp.array(dtype=vec3),
        followed_stress: wp.array(dtype=mat33),
    ):
        begin = ptr[i]
        end = ptr[i + 1]
        keeps = bool(False)
        if end > begin:
            keeps = root[begin, 0] > 0
        if not keeps:
            for j in range(begin, end):
                followed_forces[j] = forces[j]
            followed_stress[i] = stress[i]
            return
        # The root is the first atom of its orbit, so it is there when the others add to it.
        for j in range(begin, end):
            r = begin + root[j, 0] - 1
            if r == j:
                followed_forces[j] = forces[j]
            else:
                followed_forces[r] = followed_forces[r] + wp.transpose(matrix[j]) * forces[j]
        for j in range(begin, end):
            if begin + root[j, 0] - 1 == j:
                followed_forces[j] = matrix[j] * followed_forces[j]
        for j in range(begin, end):
            r = begin + root[j, 0] - 1
            if r != j:
                followed_forces[j] = matrix[j] * followed_forces[r]
        given = stress[i]
        mean = mat33()
        nine = int(9)
        for a in range(nine):
            total = real(0.0)
            for b in range(nine):
                total += projector[i, a, b] * given[b // 3, b % 3]
            mean[a // 3, a % 3] = total
        followed_stress[i] = mean

    return average


@cache
def symmetrise_kernel(precision: Precision) -> wp.Kernel:
    """Return the kernel that averages all systems of a batch."""
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    average = average_function(precision)

    @wp.kernel(enable_backward=False, module="unique")
    def symmetrise(
        ptr: wp.array(dtype=wp.int32),
        root: wp.array2d(dtype=wp.int32),
        matrix: wp.array(dtype=mat33),
        projector: wp.array3d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
        followed_forces: wp.array(dtype=vec3),
        followed_stress: wp.array(dtype=mat33),
    ):
        average(wp.tid(), ptr, root, matrix, projector, forces, stress, followed_forces, followed_stress)

    return symmetrise
