# mypy: ignore-errors
"""Whether a list with a skin is still complete, as `skin.py` derives it, as a Warp function, for the kernel here and for `burst_kernel.py`.

Counters begin as `int(0)`, which Warp takes for a variable and a bare 0 for a constant; annotations are types that Warp reads when a kernel
is defined, so this file does without `from __future__ import annotations`, and to mypy they are none. In float64 throughout, whatever
positions come in: a distance in a 10^4 Å box is wrong by 10^-3 Å in float32.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision

__all__ = ["check_kernel", "outgrown_function"]


@cache
def outgrown_function(precision: Precision):
    vec3 = precision.vec3

    @wp.func
    def is_outgrown(
        s: wp.int32,
        positions: wp.array(dtype=vec3),
        old_positions: wp.array(dtype=vec3),
        ptr: wp.array(dtype=wp.int32),
        vectors: wp.array(dtype=wp.mat33d),
        pbc: wp.array(dtype=wp.bool, ndim=2),
        old_vectors: wp.array(dtype=wp.mat33d),
        old_duals: wp.array(dtype=wp.mat33d),
        old_pbc: wp.array(dtype=wp.bool, ndim=2),
        cutoff: wp.float64,
        skin: wp.float64,
    ) -> bool:
        if pbc[s, 0] != old_pbc[s, 0] or pbc[s, 1] != old_pbc[s, 1] or pbc[s, 2] != old_pbc[s, 2]:
            return True
        # F - 1; dual vectors are zero along non-periodic directions, where vectors may do as they like.
        strain = wp.transpose(old_duals[s]) * (vectors[s] - old_vectors[s])
        size = wp.sqrt(wp.ddot(strain, strain))
        one = wp.float64(1.0)
        allowed = ((one - size) * (cutoff + skin) - cutoff) / wp.float64(2.0)
        # Written so that NaN counts as outgrown.
        if not (allowed >= wp.float64(0.0)):
            return True
        # No atom may go unnoticed that was moved by a whole lattice vector: those are not shorter than 1 / max|d|.
        longest_dual = wp.max(wp.max(wp.length(old_duals[s][0]), wp.length(old_duals[s][1])), wp.length(old_duals[s][2]))
        if longest_dual > wp.float64(0.0):
            allowed = wp.min(allowed, wp.float64(0.49) / longest_dual)
        allowed_sq = allowed * allowed
        is_strained = size > wp.float64(0.0)
        for i in range(ptr[s], ptr[s + 1]):
            new = positions[i]
            old = old_positions[i]
            x = wp.float64(old[0])
            y = wp.float64(old[1])
            z = wp.float64(old[2])
            u_x = wp.float64(new[0]) - x
            u_y = wp.float64(new[1]) - y
            u_z = wp.float64(new[2]) - z
            if is_strained:
                u_x -= x * strain[0, 0] + y * strain[1, 0] + z * strain[2, 0]
                u_y -= x * strain[0, 1] + y * strain[1, 1] + z * strain[2, 1]
                u_z -= x * strain[0, 2] + y * strain[1, 2] + z * strain[2, 2]
            if not (u_x * u_x + u_y * u_y + u_z * u_z <= allowed_sq):
                return True
        return False

    return is_outgrown


@cache
def check_kernel(precision: Precision):
    vec3 = precision.vec3
    is_outgrown = outgrown_function(precision)

    @wp.kernel(enable_backward=False, module="unique")
    def check(
        positions: wp.array(dtype=vec3),
        old_positions: wp.array(dtype=vec3),
        ptr: wp.array(dtype=wp.int32),
        vectors: wp.array(dtype=wp.mat33d),
        pbc: wp.array(dtype=wp.bool, ndim=2),
        old_vectors: wp.array(dtype=wp.mat33d),
        old_duals: wp.array(dtype=wp.mat33d),
        old_pbc: wp.array(dtype=wp.bool, ndim=2),
        cutoff: wp.float64,
        skin: wp.float64,
        outgrown: wp.array(dtype=wp.bool),
    ):
        s = wp.tid()
        outgrown[s] = is_outgrown(s, positions, old_positions, ptr, vectors, pbc, old_vectors, old_duals, old_pbc, cutoff, skin)

    return check
