# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
"""The search of `all_pairs.py` and the measuring of cells, as Warp functions, for kernels here and for `burst_kernel.py`.

Counters begin as `int(0)`, which Warp takes for a variable and a bare 0 for a constant; annotations are types that Warp reads when a kernel
is defined, so this file does without `from __future__ import annotations`, and to mypy they are none. In float64 throughout, whatever
positions come in: a distance in a 10^4 Å box is wrong by 10^-3 Å in float32.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision

__all__ = ["measure_cell", "measure_cells", "search_function", "search_kernel"]

ENDLESS = wp.constant(1)
NOT_FINITE = wp.constant(2)
FLATTEST = wp.constant(wp.float64(1e-8))
MAX_IMAGES = wp.constant(1_000_000)
ROUNDING = wp.constant(wp.float64(1e-9))
FURTHEST_ANG = wp.constant(100_000_000)


@wp.func
def measure_cell(
    s: wp.int32,
    vectors: wp.array(dtype=wp.mat33d),
    pbc: wp.array(dtype=wp.bool, ndim=2),
    radius: wp.float64,
    duals: wp.array(dtype=wp.mat33d),
    reach: wp.array(dtype=wp.vec3d),
    state: wp.array(dtype=wp.int32),
):
    """Write the dual vectors of a cell, how many images are within the radius, and whether that can be said."""
    zero = wp.float64(0.0)
    none = wp.vec3d(zero, zero, zero)
    duals[s] = wp.matrix_from_rows(none, none, none)
    reach[s] = none
    state[s] = 0
    a = vectors[s][0]
    b = vectors[s][1]
    c = vectors[s][2]
    along_a = pbc[s, 0]
    along_b = pbc[s, 1]
    along_c = pbc[s, 2]
    n_periodic = int(along_a) + int(along_b) + int(along_c)
    if n_periodic == 0:
        return
    dual_a = none
    dual_b = none
    dual_c = none
    flatness = wp.float64(1.0)
    if n_periodic == 1:
        if along_a:
            dual_a = a / wp.dot(a, a)
        if along_b:
            dual_b = b / wp.dot(b, b)
        if along_c:
            dual_c = c / wp.dot(c, c)
    else:
        # With two periodic directions the normal of their plane takes the place of the third vector.
        if not along_a:
            a = wp.normalize(wp.cross(b, c))
        if not along_b:
            b = wp.normalize(wp.cross(c, a))
        if not along_c:
            c = wp.normalize(wp.cross(a, b))
        volume = wp.dot(a, wp.cross(b, c))
        flatness = wp.abs(volume) / (wp.length(a) * wp.length(b) * wp.length(c))
        if along_a:
            dual_a = wp.cross(b, c) / volume
        if along_b:
            dual_b = wp.cross(c, a) / volume
        if along_c:
            dual_c = wp.cross(a, b) / volume
    far = radius * wp.vec3d(wp.length(dual_a), wp.length(dual_b), wp.length(dual_c))
    one = wp.float64(1.0)
    two = wp.float64(2.0)
    images = (two * far[0] + one) * (two * far[1] + one) * (two * far[2] + one)
    if not wp.isfinite(wp.ddot(vectors[s], vectors[s])):
        state[s] = NOT_FINITE
        return
    # Written so that NaN, which zero vectors make, counts as endless.
    if not (flatness > FLATTEST and images < wp.float64(MAX_IMAGES)):
        state[s] = ENDLESS
        return
    duals[s] = wp.matrix_from_rows(dual_a, dual_b, dual_c)
    reach[s] = far


@wp.kernel(enable_backward=False, module="unique")
def measure_cells(
    vectors: wp.array(dtype=wp.mat33d),
    pbc: wp.array(dtype=wp.bool, ndim=2),
    radius: wp.float64,
    duals: wp.array(dtype=wp.mat33d),
    reach: wp.array(dtype=wp.vec3d),
    state: wp.array(dtype=wp.int32),
):
    measure_cell(wp.tid(), vectors, pbc, radius, duals, reach, state)


@cache
def search_function(precision: Precision):
    vec3 = precision.vec3

    # Scalars and `while` instead of vectors and `range`, rows of the cells read once: on CPU that is four times as fast.
    @wp.func
    def search_rows(
        s: wp.int32,
        first: wp.int32,
        last: wp.int32,
        begin: wp.int32,
        end: wp.int32,
        positions: wp.array(dtype=vec3),
        vectors: wp.array(dtype=wp.mat33d),
        duals: wp.array(dtype=wp.mat33d),
        reach: wp.array(dtype=wp.vec3d),
        state: wp.array(dtype=wp.int32),
        radius: wp.float64,
        half: wp.int32,
        by_system: wp.int32,
        fill: wp.int32,
        matrix: wp.array(dtype=wp.int32, ndim=2),
        shifts: wp.array(dtype=wp.vec3i, ndim=2),
        counts: wp.array(dtype=wp.int32),
    ) -> wp.int32:
        """Write the rows of atoms [begin, end) of system s, which has atoms [first, last); return the length of the longest.

        The rest of a row gets `fill`, unless that is negative.
        """
        width = matrix.shape[1]
        has_shifts = shifts.shape[1] > 0
        zero = wp.float64(0.0)
        one = wp.float64(1.0)
        radius_sq = radius * radius
        cell = vectors[s]
        a_x = cell[0, 0]
        a_y = cell[0, 1]
        a_z = cell[0, 2]
        b_x = cell[1, 0]
        b_y = cell[1, 1]
        b_z = cell[1, 2]
        c_x = cell[2, 0]
        c_y = cell[2, 1]
        c_z = cell[2, 2]
        dual = duals[s]
        a_dual_x = dual[0, 0]
        a_dual_y = dual[0, 1]
        a_dual_z = dual[0, 2]
        b_dual_x = dual[1, 0]
        b_dual_y = dual[1, 1]
        b_dual_z = dual[1, 2]
        c_dual_x = dual[2, 0]
        c_dual_y = dual[2, 1]
        c_dual_z = dual[2, 2]
        far = reach[s]
        a_far = far[0]
        b_far = far[1]
        c_far = far[2]
        is_periodic = a_far + b_far + c_far > zero
        # With a whole system in one thread a pair is looked at once and goes into both rows: in row j, i comes after all smaller ones.
        mirrors = by_system == 1 and half == 0 and state[s] == 0
        for i in range(begin, end):
            counts[i] = 0
            r = positions[i]
            distance = wp.abs(wp.float64(r[0])) + wp.abs(wp.float64(r[1])) + wp.abs(wp.float64(r[2]))
            # Written so that NaN is too far. Each row lists one lost pair of its own, which mirroring cannot say.
            if not (distance < wp.float64(0.5) * wp.float64(FURTHEST_ANG)):
                mirrors = False
        for i in range(begin, end):
            n = counts[i]
            has_lost = bool(False)
            here = positions[i]
            x = wp.float64(here[0])
            y = wp.float64(here[1])
            z = wp.float64(here[2])
            j_first = first
            j_last = last
            if mirrors or half == 1:
                j_first = i
            if state[s] == ENDLESS:
                j_last = j_first
            for j in range(j_first, j_last):
                there = positions[j]
                d_x = wp.float64(there[0]) - x
                d_y = wp.float64(there[1]) - y
                d_z = wp.float64(there[2]) - z
                # True for NaN and infinity, in positions and cells. One such pair is listed, so that whoever sums over the row gets NaN.
                is_lost = not (wp.abs(d_x) + wp.abs(d_y) + wp.abs(d_z) < wp.float64(FURTHEST_ANG)) or state[s] != 0
                if is_lost or not is_periodic:
                    is_pair = j != i and d_x * d_x + d_y * d_y + d_z * d_z < radius_sq
                    if is_lost:
                        is_pair = j != i and not has_lost
                        has_lost = has_lost or is_pair
                    if is_pair:
                        if n < width:
                            matrix[i, n] = j
                            if has_shifts:
                                shifts[i, n] = wp.vec3i(0, 0, 0)
                        n += 1
                        if mirrors:
                            m = counts[j]
                            if m < width:
                                matrix[j, m] = i
                                if has_shifts:
                                    shifts[j, m] = wp.vec3i(0, 0, 0)
                            counts[j] = m + 1
                    continue
                f = a_dual_x * d_x + a_dual_y * d_y + a_dual_z * d_z
                g = b_dual_x * d_x + b_dual_y * d_y + b_dual_z * d_z
                h = c_dual_x * d_x + c_dual_y * d_y + c_dual_z * d_z
                slack = ROUNDING * (wp.abs(f) + wp.abs(g) + wp.abs(h) + one)
                u_last = wp.floor(-f + a_far + slack)
                v_first = wp.ceil(-g - b_far - slack)
                v_last = wp.floor(-g + b_far + slack)
                w_first = wp.ceil(-h - c_far - slack)
                w_last = wp.floor(-h + c_far + slack)
                before = n
                u = wp.ceil(-f - a_far - slack)
                while u <= u_last:
                    u_x = d_x + u * a_x
                    u_y = d_y + u * a_y
                    u_z = d_z + u * a_z
                    v = v_first
                    while v <= v_last:
                        v_x = u_x + v * b_x
                        v_y = u_y + v * b_y
                        v_z = u_z + v * b_z
                        w = w_first
                        while w <= w_last:
                            w_x = v_x + w * c_x
                            w_y = v_y + w * c_y
                            w_z = v_z + w * c_z
                            if w_x * w_x + w_y * w_y + w_z * w_z < radius_sq:
                                is_pair = j != i or u != zero or v != zero or w != zero
                                if half == 1 and j == i:
                                    is_pair = u > zero or (u == zero and (v > zero or (v == zero and w > zero)))
                                if is_pair:
                                    if n < width:
                                        matrix[i, n] = j
                                        shifts[i, n] = wp.vec3i(int(u), int(v), int(w))
                                    n += 1
                            w += one
                        v += one
                    u += one
                if mirrors and j != i and n > before:
                    # The images of i as j sees them are the opposite ones, so they come in the opposite order.
                    m = counts[j]
                    if m + n - before <= width and n <= width:
                        for k in range(n - before):
                            matrix[j, m + k] = i
                            shifts[j, m + k] = -shifts[i, n - 1 - k]
                    counts[j] = m + n - before
            counts[i] = n
        longest = int(0)
        for i in range(begin, end):
            longest = wp.max(longest, counts[i])
            if fill >= 0:
                for k in range(counts[i], width):
                    matrix[i, k] = fill
                if has_shifts:
                    for k in range(counts[i], width):
                        shifts[i, k] = wp.vec3i(0, 0, 0)
        return longest

    return search_rows


@cache
def search_kernel(precision: Precision):
    vec3 = precision.vec3
    search_rows = search_function(precision)

    @wp.kernel(enable_backward=False, module="unique")
    def search(
        owner: wp.array(dtype=wp.int32),
        ptr: wp.array(dtype=wp.int32),
        wanted: wp.array(dtype=wp.bool),
        positions: wp.array(dtype=vec3),
        vectors: wp.array(dtype=wp.mat33d),
        duals: wp.array(dtype=wp.mat33d),
        reach: wp.array(dtype=wp.vec3d),
        state: wp.array(dtype=wp.int32),
        radius: wp.float64,
        half: wp.int32,
        by_system: wp.int32,
        fill: wp.int32,
        matrix: wp.array(dtype=wp.int32, ndim=2),
        shifts: wp.array(dtype=wp.vec3i, ndim=2),
        counts: wp.array(dtype=wp.int32),
    ):
        s = wp.tid()
        begin = int(0)
        end = int(0)
        if by_system == 0:
            begin = s
            end = s + 1
            s = owner[begin]
        else:
            begin = ptr[s]
            end = ptr[s + 1]
        if wanted[s]:
            search_rows(
                s,
                ptr[s],
                ptr[s + 1],
                begin,
                end,
                positions,
                vectors,
                duals,
                reach,
                state,
                radius,
                half,
                by_system,
                fill,
                matrix,
                shifts,
                counts,
            )

    return search
