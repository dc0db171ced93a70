# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
"""Copying and sorting of neighbour rows, as Warp kernels.

Counters begin as `int(0)`, which Warp takes for a variable and a bare 0 for a constant; annotations are types that Warp reads when a kernel
is defined, so this file does without `from __future__ import annotations`, and to mypy they are none.
"""

import warp as wp

__all__ = ["copy_rows", "settle_rows"]


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
