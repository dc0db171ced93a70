# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
"""What runs on the device, as Warp kernels: measuring cells, searching, checking a skin, copying and sorting rows.

The files that launch them say what they are for. Counters begin as `int(0)`, which Warp takes for a variable and a bare 0 for a constant;
annotations are types that Warp reads when a kernel is defined, so this file does without `from __future__ import annotations`, and to mypy
they are none. In float64 throughout, whatever positions come in: a distance in a 10^4 Å box is wrong by 10^-3 Å in float32.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision

__all__ = ["check_kernel", "copy_rows", "measure_cells", "search_kernel", "settle_rows"]

ENDLESS = wp.constant(1)
NOT_FINITE = wp.constant(2)
FLATTEST = wp.constant(wp.float64(1e-8))
MAX_IMAGES = wp.constant(1_000_000)
ROUNDING = wp.constant(wp.float64(1e-9))
FURTHEST_ANG = wp.constant(100_000_000)


@wp.kernel(enable_backward=False, module="unique")
def measure_cells(
    vectors: wp.array(dtype=wp.mat33d),
    pbc: wp.array(dtype=wp.bool, ndim=2),
    radius: wp.float64,
    duals: wp.array(dtype=wp.mat33d),
    reach: wp.array(dtype=wp.vec3d),
    state: wp.array(dtype=wp.int32),
):
    s = wp.tid()
    a = vectors[s][0]
    b = vectors[s][1]
    c = vectors[s][2]
    along_a = pbc[s, 0]
    along_b = pbc[s, 1]
    along_c = pbc[s, 2]
    n_periodic = int(along_a) + int(along_b) + int(along_c)
    if n_periodic == 0:
        return
    zero = wp.float64(0.0)
    none = wp.vec3d(zero, zero, zero)
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


@cache
def search_kernel(precision: Precision):
    vec3 = precision.vec3

    # Scalars and `while` instead of vectors and `range`, rows of the cells read once: on CPU that is four times as fast.
    @wp.kernel(enable_backward=False, module="unique")
    def search(
        positions: wp.array(dtype=vec3),
        owner: wp.array(dtype=wp.int32),
        ptr: wp.array(dtype=wp.int32),
        wanted: wp.array(dtype=wp.bool),
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
        thread = wp.tid()
        s = thread
        first = ptr[s]
        last = ptr[s + 1]
        begin = first
        end = last
        if by_system == 0:
            s = owner[thread]
            first = ptr[s]
            last = ptr[s + 1]
            begin = thread
            end = thread + 1
        if not wanted[s]:
            return
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
        for i in range(begin, end):
            for k in range(counts[i], width):
                matrix[i, k] = fill
            if has_shifts:
                for k in range(counts[i], width):
                    shifts[i, k] = wp.vec3i(0, 0, 0)

    return search


@cache
def check_kernel(precision: Precision):
    vec3 = precision.vec3

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
        if pbc[s, 0] != old_pbc[s, 0] or pbc[s, 1] != old_pbc[s, 1] or pbc[s, 2] != old_pbc[s, 2]:
            outgrown[s] = True
            return
        # F - 1; dual vectors are zero along non-periodic directions, where vectors may do as they like.
        strain = wp.transpose(old_duals[s]) * (vectors[s] - old_vectors[s])
        size = wp.sqrt(wp.ddot(strain, strain))
        one = wp.float64(1.0)
        allowed = ((one - size) * (cutoff + skin) - cutoff) / wp.float64(2.0)
        # Written so that NaN counts as outgrown.
        if not (allowed >= wp.float64(0.0)):
            outgrown[s] = True
            return
        # No atom may go unnoticed that was moved by a whole lattice vector: those are not shorter than 1 / max|d|.
        longest_dual = wp.max(wp.max(wp.length(old_duals[s][0]), wp.length(old_duals[s][1])), wp.length(old_duals[s][2]))
        if longest_dual > wp.float64(0.0):
            allowed = wp.min(allowed, wp.float64(0.49) / longest_dual)
        allowed_sq = allowed * allowed
        is_strained = size > wp.float64(0.0)
        result = bool(False)
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
                result = True
                break
        outgrown[s] = result

    return check


@wp.kernel(enable_backward=False, module="unique")
def copy_rows(
    old_matrix: wp.array(dtype=wp.int32, ndim=2),
    old_shifts: wp.array(dtype=wp.vec3i, ndim=2),
    old_counts: wp.array(dtype=wp.int32),
    old_ptr: wp.array(dtype=wp.int32),
    source: wp.array(dtype=wp.int32),
    owner: wp.array(dtype=wp.int32),
    ptr: wp.array(dtype=wp.int32),
    fill: wp.int32,
    matrix: wp.array(dtype=wp.int32, ndim=2),
    shifts: wp.array(dtype=wp.vec3i, ndim=2),
    counts: wp.array(dtype=wp.int32),
):
    i = wp.tid()
    s = owner[i]
    if source[s] < 0:
        return
    moved = ptr[s] - old_ptr[source[s]]
    old = i - moved
    n = old_counts[old]
    counts[i] = n
    for k in range(n):
        matrix[i, k] = old_matrix[old, k] + moved
    for k in range(n, matrix.shape[1]):
        matrix[i, k] = fill
    if shifts.shape[1] > 0:
        for k in range(n):
            if old_shifts.shape[1] > 0:
                shifts[i, k] = old_shifts[old, k]
            else:
                shifts[i, k] = wp.vec3i(0, 0, 0)
        for k in range(n, shifts.shape[1]):
            shifts[i, k] = wp.vec3i(0, 0, 0)


@wp.func
def is_less(j: wp.int32, s: wp.vec3i, k: wp.int32, t: wp.vec3i) -> bool:
    if j != k:
        return j < k
    if s[0] != t[0]:
        return s[0] < t[0]
    if s[1] != t[1]:
        return s[1] < t[1]
    return s[2] < t[2]


@wp.kernel(enable_backward=False, module="unique")
def settle_rows(
    found: wp.array(dtype=wp.int32, ndim=2),
    found_shifts: wp.array(dtype=wp.vec3i, ndim=2),
    found_counts: wp.array(dtype=wp.int32),
    owner: wp.array(dtype=wp.int32),
    moved: wp.array(dtype=wp.int32),
    offsets: wp.array(dtype=wp.vec3i),
    half: wp.int32,
    fill: wp.int32,
    matrix: wp.array(dtype=wp.int32, ndim=2),
    shifts: wp.array(dtype=wp.vec3i, ndim=2),
    counts: wp.array(dtype=wp.int32),
):
    i = wp.tid()
    m = found_counts[i]
    # Shifts as seen from where the atoms are: r_j - o_j·C + s·C - (r_i - o_i·C) = r_j + (s - o_j + o_i)·C - r_i.
    for k in range(m):
        found_shifts[i, k] = found_shifts[i, k] - offsets[found[i, k]] + offsets[i]
    # Shell sort, in place. Rows are 50 to 200 long.
    gap = m / 2
    while gap > 0:
        for k in range(gap, m):
            j = found[i, k]
            s = found_shifts[i, k]
            p = int(k)
            while p >= gap and is_less(j, s, found[i, p - gap], found_shifts[i, p - gap]):
                found[i, p] = found[i, p - gap]
                found_shifts[i, p] = found_shifts[i, p - gap]
                p -= gap
            found[i, p] = j
            found_shifts[i, p] = s
        gap = gap / 2
    width = matrix.shape[1]
    row = i + moved[owner[i]]
    n = int(0)
    for k in range(m):
        j = found[i, k]
        s = found_shifts[i, k]
        keep = half == 0 or j > i or (j == i and is_less(0, wp.vec3i(0, 0, 0), 0, s))
        if keep:
            if n < width:
                matrix[row, n] = j + moved[owner[i]]
                if shifts.shape[1] > 0:
                    shifts[row, n] = s
            n += 1
    counts[row] = n
    for k in range(n, width):
        matrix[row, k] = fill
    if shifts.shape[1] > 0:
        for k in range(n, width):
            shifts[row, k] = wp.vec3i(0, 0, 0)
