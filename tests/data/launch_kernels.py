"""Kernels for the tests of launching."""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision


@cache
def scale_kernel(p: Precision) -> wp.Kernel:
    """x times factor."""
    real = p.real

    @wp.kernel(enable_backward=False, module="unique")
    def scale(x: wp.array(dtype=real), factor: real):
        x[wp.tid()] = x[wp.tid()] * factor

    return scale


@cache
def combine_kernel(p: Precision) -> wp.Kernel:
    """One argument of each kind."""
    real, vec3, mat33 = p.real, p.vec3, p.mat33

    @wp.kernel(enable_backward=False, module="unique")
    def combine(
        vectors: wp.array(dtype=vec3),
        matrices: wp.array(dtype=mat33),
        counts: wp.array2d(dtype=wp.int32),
        mask: wp.array(dtype=wp.bool),
        factor: real,
        offset: wp.int32,
        result: wp.array(dtype=real),
    ):
        row = wp.tid()
        total = real(0.0)
        if mask[row]:
            total = (vectors[row][0] + vectors[row][1] + vectors[row][2]) * factor + matrices[row][0, 1] + real(offset)
            for column in range(counts.shape[1]):
                total += real(counts[row, column])
        result[row] = total

    return combine
