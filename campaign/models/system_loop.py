"""The loop of one thread over a whole system and its half lists, as C++ text: what `loops.py` puts around the potentials, for a CPU.

A relaxation on a CPU spends its time here. Vectors are loaded, added and stored as four numbers at once; what depends on the distance alone
is worked out for a block of pairs, several at a time; and what a pair does to its second atom goes in turn to one of several sums of that
atom, since in small cells many pairs in a row have the same second atom, and each would wait for the one before.

The pairs are those of the neighbour rows, or of a *near list*, which `burst.py` keeps: those pairs of the rows that are within a smaller
radius, one after another, each as one integer, so that the list of a small system stays in the first level of the cache.

Pairs beyond the cutoff are left out before they are counted. So the order of all sums is that of the pairs within the cutoff, and no bit
depends on the kind of list or on its age.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BLOCK", "ENTER_SYSTEM", "NEAR_PAIRS", "SCRATCH_PER_ATOM", "SUM_FORCES", "over_system", "pull_each"]

BLOCK: Final = 64
"""Pairs of a block."""

LANES: Final = 4
"""Sums of forces that each atom has."""

SCRATCH_PER_ATOM: Final = 4 + 4 * LANES
"""Numbers kept per atom: its position and its sums of forces, four numbers each."""

_FURTHEST: Final = 3
"""Images of a near list lie so many cells away at most; a system with others has none."""

_IMAGES: Final = (2 * _FURTHEST + 1) ** 3

_PLACE_BITS: Final = 20
"""Of the integer of a near pair: the lower ones are the place of the neighbour in its system, the others say which image of it."""


def _image(a: str, b: str, c: str) -> str:
    """Return C++ for the number of an image."""
    side = 2 * _FURTHEST + 1
    return f"(({a} + {_FURTHEST}) * {side} + {b} + {_FURTHEST}) * {side} + {c} + {_FURTHEST}"


_FOUR: Final = """
#ifdef __CUDACC__
struct four {
    real x, y, z, w;
    __device__ four operator+(four o) const { return four{x + o.x, y + o.y, z + o.z, w + o.w}; }
    __device__ four operator-(four o) const { return four{x - o.x, y - o.y, z - o.z, w - o.w}; }
    __device__ four operator*(four o) const { return four{x * o.x, y * o.y, z * o.z, w * o.w}; }
    __device__ four operator*(real f) const { return four{x * f, y * f, z * f, w * f}; }
    __device__ void operator+=(four o) { *this = *this + o; }
    __device__ void operator-=(four o) { *this = *this - o; }
};
#else
typedef real four __attribute__((ext_vector_type(4)));
#endif
"""

ENTER_SYSTEM: Final = f"""
{_FOUR}
four* X4 = (four*)scratch.data;
four* F4 = X4 + n_atoms;
real* S = scratch.data + {SCRATCH_PER_ATOM} * (long long)n_atoms;
for (int a = begin; a < end; ++a) {{
    X4[a] = four{{X[3 * a], X[3 * a + 1], X[3 * a + 2], real(0)}};
    for (int lane = 0; lane < {LANES}; ++lane) F4[{LANES} * a + lane] = four{{real(0), real(0), real(0), real(0)}};
}}
const four C_a = {{C[0], C[1], C[2], real(0)}}, C_b = {{C[3], C[4], C[5], real(0)}}, C_c = {{C[6], C[7], C[8], real(0)}};
four V_diagonal = {{real(0), real(0), real(0), real(0)}}, V_off = V_diagonal;
alignas(64) four d_of[{BLOCK}];
alignas(64) real r2_of[{BLOCK}];
int j_of[{BLOCK}];
(void)S;
auto to_image = [&](int a, int b, int c) {{ return C_a * real(a) + C_b * real(b) + C_c * real(c); }};
const int furthest = near.shape[0] > 0 ? near_reach.data[i] : -1;
const bool is_near = furthest >= 0;
const unsigned* near_row = (const unsigned*)near.data + (is_near ? (long long)begin * width : 0);
alignas(64) four image_of[{_IMAGES}];
if (is_near && is_shifted) {{
    for (int a = -furthest; a <= furthest; ++a)
        for (int b = -furthest; b <= furthest; ++b)
            for (int c = -furthest; c <= furthest; ++c) image_of[{_image("a", "b", "c")}] = to_image(a, b, c);
}}
"""
"""Declares X4 and F4[2 a], F4[2 a + 1], positions and forces in fours, and S, the numbers that the potential keeps."""

SUM_FORCES: Final = f"""
for (int a = begin; a < end; ++a) {{
    four f = F4[{LANES} * a];
    for (int lane = 1; lane < {LANES}; ++lane) f += F4[{LANES} * a + lane];
    F[3 * a] = f.x; F[3 * a + 1] = f.y; F[3 * a + 2] = f.z;
}}
V[0] = V_diagonal.x; V[1] = V_diagonal.y; V[2] = V_diagonal.z;
V[3] = V_off.x; V[4] = V_off.y; V[5] = V_off.z;
"""


def over_system(before: str, block: str, is_beyond: str, after: str) -> str:
    """Return a loop over the atoms of a system, `i_atom`, and over blocks of the pairs of each.

    `block` sees pairs within the cutoff: for k in [0, m), d_of[k] is the vector to atom j_of[k] and r2_of[k] its square. All blocks of an
    atom but the last are full. What is beyond is left out without a branch, which would go wrong for every fourth pair.
    """
    keep = f"""
const four squares = d * d;
const real r2 = squares.x + squares.y + squares.z;
d_of[m] = d; r2_of[m] = r2; j_of[m] = j;
m += ({is_beyond}) ? 0 : 1;
"""
    return f"""
for (int i_atom = begin; i_atom < end; ++i_atom) {{
    const four here = X4[i_atom];
    const int count = is_near ? near_counts.data[i_atom] : num_neighbors.data[i_atom];
    const int* row = neighbor_matrix.data + (long long)i_atom * width;
    const int* shift = is_shifted ? (const int*)shifts.data + 3 * (long long)i_atom * width : nullptr;
    {before}
    int n = 0;
    while (n < count) {{
        int m = 0;
        while (n < count && m < {BLOCK}) {{
            const int last = count - n < {BLOCK} - m ? count : n + {BLOCK} - m;
            if (is_near) {{
                for (; n < last; ++n) {{
                    const int j = begin + (int)(near_row[n] & {2**_PLACE_BITS - 1});
                    four d = X4[j] - here;
                    if (is_shifted) d += image_of[near_row[n] >> {_PLACE_BITS}];
                    {keep}
                }}
            }} else {{
                for (; n < last; ++n) {{
                    const int j = row[n];
                    four d = X4[j] - here;
                    if (is_shifted) d += to_image(shift[3 * n], shift[3 * n + 1], shift[3 * n + 2]);
                    {keep}
                }}
            }}
        }}
        {block}
    }}
    if (is_near) near_row += count;
    {after}
}}
"""


NEAR_PAIRS: Final = f"""
const int begin = batch_ptr.data[i], end = batch_ptr.data[i + 1], width = neighbor_matrix.shape[1];
const bool is_shifted = shifts.shape[1] == width;
const double* X = (const double*)positions.data;
const double* C = (const double*)cell.data + 9 * i;
unsigned* out = (unsigned*)near.data + (long long)begin * width;
const double most = radius * radius;
int furthest = 0;
for (int i_atom = begin; i_atom < end; ++i_atom) {{
    const double x = X[3 * i_atom], y = X[3 * i_atom + 1], z = X[3 * i_atom + 2];
    const int count = num_neighbors.data[i_atom];
    const int* row = neighbor_matrix.data + (long long)i_atom * width;
    const int* shift = (const int*)shifts.data + 3 * (long long)i_atom * width;
    int m = 0, at = 0;
    for (int n = 0; n < count; ++n) {{
        const int j = row[n];
        double dx = X[3 * j] - x, dy = X[3 * j + 1] - y, dz = X[3 * j + 2] - z;
        if (is_shifted) {{
            const int a = shift[3 * n], b = shift[3 * n + 1], c = shift[3 * n + 2];
            dx += a * C[0] + b * C[3] + c * C[6];
            dy += a * C[1] + b * C[4] + c * C[7];
            dz += a * C[2] + b * C[5] + c * C[8];
            furthest = wp::max(furthest, wp::max(wp::max(wp::abs(a), wp::abs(b)), wp::abs(c)));
            at = {_image("a", "b", "c")};
        }}
        out[m] = (unsigned)(j - begin) | (unsigned)at << {_PLACE_BITS};
        // Written so that NaN is near.
        m += dx * dx + dy * dy + dz * dz > most ? 0 : 1;
    }}
    near_counts.data[i_atom] = m;
    out += m;
}}
near_reach.data[i] = furthest > {_FURTHEST} || end - begin > {2**_PLACE_BITS} ? -1 : furthest;
"""
"""Makes the near list of system i out of its rows, in float64; `near` has room for all of the rows."""


def pull_each(m: str, vector: str, other: str, slope: str) -> str:
    """Return what pairs k in [0, m) of `i_atom` do to its force and to those of its neighbours, and to the virial.

    For pair k, `vector` is the four to the neighbour, `other` its index and `slope` u'(r)/r.
    """
    return f"""
{{
    four f_of[{LANES}] = {{}};
    auto pull = [&](int k, int lane) {{
        const four d = {vector};
        const four g = d * ({slope});
        f_of[lane] += g;
        F4[{LANES} * ({other}) + lane] -= g;
        if (has_stress) {{
            V_diagonal += g * d;
            V_off += four{{g.y, g.x, g.x, real(0)}} * four{{d.z, d.z, d.y, real(0)}};
        }}
    }};
    int k = 0;
    for (; k + {LANES - 1} < ({m}); k += {LANES}) {{ {" ".join(f"pull(k + {lane}, {lane});" for lane in range(LANES))} }}
    {" ".join(f"if (k + {lane} < ({m})) pull(k + {lane}, {lane});" for lane in range(LANES - 1))}
    for (int lane = 0; lane < {LANES}; ++lane) F4[{LANES} * i_atom + lane] += f_of[lane];
}}
"""
