# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
"""The kernels before and after a search that the host does not look at; see `verlet.py`.

Counters begin as `int(0)`, which Warp takes for a variable and a bare 0 for a constant; annotations are types that Warp reads when a kernel
is defined, so this file does without `from __future__ import annotations`, and to mypy they are none.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.neighbors.search_kernel import ENDLESS, measure_cell
from campaign.neighbors.skin_kernel import outgrown_function

__all__ = ["inspect_kernel", "settle_kernel"]


@cache
def inspect_kernel(precision: Precision):
    """Which systems need new rows, and what a search needs to know of their cells; `unlisted` are those that it cannot help."""
    vec3 = precision.vec3
    is_outgrown = outgrown_function(precision)

    @wp.kernel(enable_backward=False, module="unique")
    def inspect(
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
        radius: wp.float64,
        has_shifts: wp.int32,
        duals: wp.array(dtype=wp.mat33d),
        reach: wp.array(dtype=wp.vec3d),
        state: wp.array(dtype=wp.int32),
        wanted: wp.array(dtype=wp.bool),
        unlisted: wp.array(dtype=wp.bool),
    ):
        s = wp.tid()
        wanted[s] = False
        unlisted[s] = False
        if is_outgrown(s, positions, old_positions, ptr, vectors, pbc, old_vectors, old_duals, old_pbc, cutoff, skin):
            measure_cell(s, vectors, pbc, radius, duals, reach, state)
            # An endless list is the host's to refuse, and without room for shifts there is none for images.
            if state[s] == ENDLESS or (has_shifts == 0 and (pbc[s, 0] or pbc[s, 1] or pbc[s, 2])):
                unlisted[s] = True
            else:
                wanted[s] = True

    return inspect


@cache
def settle_kernel(precision: Precision):
    """New rows that fit are complete from here; where they do not, each atom is left with itself for a neighbour."""
    vec3 = precision.vec3
    not_a_number = precision.real(float("nan"))

    @wp.kernel(enable_backward=False, module="unique")
    def settle(
        wanted: wp.array(dtype=wp.bool),
        unlisted: wp.array(dtype=wp.bool),
        ptr: wp.array(dtype=wp.int32),
        positions: wp.array(dtype=vec3),
        vectors: wp.array(dtype=wp.mat33d),
        pbc: wp.array(dtype=wp.bool, ndim=2),
        duals: wp.array(dtype=wp.mat33d),
        fill: wp.int32,
        matrix: wp.array(dtype=wp.int32, ndim=2),
        shifts: wp.array(dtype=wp.vec3i, ndim=2),
        counts: wp.array(dtype=wp.int32),
        old_positions: wp.array(dtype=vec3),
        old_vectors: wp.array(dtype=wp.mat33d),
        old_duals: wp.array(dtype=wp.mat33d),
        old_pbc: wp.array(dtype=wp.bool, ndim=2),
        tally: wp.array(dtype=wp.int32),
    ):
        s = wp.tid()
        width = matrix.shape[1]
        if wanted[s]:
            longest = int(0)
            for i in range(ptr[s], ptr[s + 1]):
                longest = wp.max(longest, counts[i])
            if longest <= width:
                for i in range(ptr[s], ptr[s + 1]):
                    old_positions[i] = positions[i]
                old_vectors[s] = vectors[s]
                old_duals[s] = duals[s]
                for k in range(3):
                    old_pbc[s, k] = pbc[s, k]
                wp.atomic_add(tally, 1, 1)
            else:
                unlisted[s] = True
        if unlisted[s]:
            for i in range(ptr[s], ptr[s + 1]):
                counts[i] = wp.min(width, 1)
                for k in range(width):
                    matrix[i, k] = fill
                    if shifts.shape[1] > 0:
                        shifts[i, k] = wp.vec3i(0, 0, 0)
                if width > 0:
                    matrix[i, 0] = i
            # Wherever its atoms go until then, even back: it needs new rows.
            old_positions[ptr[s]] = vec3(not_a_number, not_a_number, not_a_number)
            wp.atomic_add(tally, 0, 1)

    return settle
