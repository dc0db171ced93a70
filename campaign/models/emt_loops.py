"""The loops of effective medium theory, in C++; see `emt.py` for the formulas and `loops.py` for what is declared around them.

A first loop needs only distances: it yields the densities, and keeps for each pair what its distance changes. Then dE/dσ₁ of each atom is
known, and a second loop, without exponentials or square roots, yields the forces.
"""

from __future__ import annotations

from typing import Final

from campaign.models.emt_parameters import A_CUT, BETA, COLUMNS, ELEMENTS, RC, RC_LIST
from campaign.models.emt_tables import FACTORS, FIRST_KNOT_ANG2, N_KNOTS, ROW_OF_KNOT, SPACING_ANG2
from campaign.models.loops import ADD_FORCE, NO_FORCE, PULL, VECTOR, VIRIAL, Loops, over_row
from campaign.models.system_loop import over_system, pull_each

__all__ = ["EMT_LOOPS"]

_N_ELEMENTS: Final = 1 + len(ELEMENTS)

_KEPT: Final = 3
"""Numbers kept per pair, all over r: dσ₁/dr here, dσ₁/dr there, du/dr of the pair energy."""

_KEPT_BY_SYSTEM: Final = 8
"""The same, the neighbour, and the vector to it in four numbers, of pairs within the cutoff, which are kept one after another."""

_KEPT_BY_ATOM: Final = 4
"""Two sums of the density, which are added to in turn; the number of pairs kept; dE/dσ₁."""

# e: place of an element in the table. Below the first knot, and for a distance that is no number, the functions themselves.
_DECLARE: Final = f"""
const real* parameters = T + 119;
const real* factors = parameters + {_N_ELEMENTS * len(COLUMNS)};
const real* knots = factors + {_N_ELEMENTS * _N_ELEMENTS * FACTORS};
real* kept = S + {_KEPT_BY_ATOM} * (long long)n_atoms;
auto element = [&](int atom) {{
    const long long z = atomic_numbers.data[atom];
    return z > 0 && z < 119 ? (int)T[z] : 0;
}};
auto parameter = [&](int e, int column) {{ return parameters[e * {len(COLUMNS)} + column]; }};
auto look_up = [&](int e, real r2, real& s, real& ds, real& p, real& dp) {{
    const real place = (r2 - real({FIRST_KNOT_ANG2!r})) * real({1.0 / SPACING_ANG2!r});
    if (place >= real(0)) {{
        int k = (int)place;
        if (k > {N_KNOTS - 1}) k = {N_KNOTS - 1};
        const real t = place - real(k);
        const real* c = knots + ((long long)e * {N_KNOTS} + k) * {ROW_OF_KNOT};
        s = c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5]))));
        ds = c[1] + t * (real(2) * c[2] + t * (real(3) * c[3] + t * (real(4) * c[4] + t * real(5) * c[5])));
        p = c[6] + t * (c[7] + t * (c[8] + t * (c[9] + t * (c[10] + t * c[11]))));
        dp = c[7] + t * (real(2) * c[8] + t * (real(3) * c[9] + t * (real(4) * c[10] + t * real(5) * c[11])));
        ds *= real({2.0 / SPACING_ANG2!r});
        dp *= real({2.0 / SPACING_ANG2!r});
    }} else {{
        const real r = wp::sqrt(r2), w = real(1) / (real(1) + wp::exp(real({A_CUT!r}) * (r - real({RC!r}))));
        const real at = real({BETA!r}) * parameter(e, {COLUMNS.index("s0")});
        const real eta2 = parameter(e, {COLUMNS.index("eta2")}), decay = parameter(e, {COLUMNS.index("kappa")}) / real({BETA!r});
        s = wp::exp(-eta2 * (r - at)) * w;
        p = wp::exp(-decay * (r - at)) * w;
        ds = s * (real({A_CUT!r}) * (w - real(1)) - eta2) / r;
        dp = p * (real({A_CUT!r}) * (w - real(1)) - decay) / r;
    }}
}};
"""

_START: Final = f"""
const int own = element(i_atom);
const real* factors_of = factors + own * {_N_ELEMENTS * FACTORS};
const real twice = real(2) * factors_of[own * {FACTORS} + 2];
real density = real(0);
"""

# From r2 and j: what either atom gives to the density of the other, what is kept, and u.
_PAIR: Final = f"""
const int other = element(j);
real to_here, to_there, keep_here, keep_there, keep_u, s_here, ds_here, p_here, dp_here;
look_up(other, r2, s_here, ds_here, p_here, dp_here);
if (other == own) {{
    to_here = to_there = s_here;
    keep_here = keep_there = ds_here;
    keep_u = twice * dp_here;
    total += twice * p_here;
}} else {{
    real s_there, ds_there, p_there, dp_there;
    look_up(own, r2, s_there, ds_there, p_there, dp_there);
    const real* of_both = factors_of + other * {FACTORS};
    to_here = of_both[0] * s_here;
    to_there = of_both[1] * s_there;
    keep_here = of_both[0] * ds_here;
    keep_there = of_both[1] * ds_there;
    keep_u = of_both[2] * dp_here + of_both[3] * dp_there;
    total += of_both[2] * p_here + of_both[3] * p_there;
}}
density += to_here;
"""

# From the density of atom a to its energy and to dE/dσ₁. With ds = −ln(σ₁/(12 γ₁)) / (β η₂):
# E = E₀ (1 + λ ds) exp(−λ ds) + 6 V₀ exp(−κ ds) − E₀. An atom without neighbours has −E₀ and no slope.
_EMBED: Final = f"""
auto embed = [&](int a, real sigma1, real& slope) {{
    const int e = element(a);
    const real e0 = parameter(e, {COLUMNS.index("e0")});
    real energy_here = -e0;
    slope = real(0);
    if (sigma1 != real(0)) {{
        const real beta_eta2 = real({BETA!r}) * parameter(e, {COLUMNS.index("eta2")});
        const real kappa = parameter(e, {COLUMNS.index("kappa")}), lambda = parameter(e, {COLUMNS.index("lambda")});
        const real ds = -wp::log(sigma1 * parameter(e, {COLUMNS.index("inverse_12_gamma1")})) / beta_eta2;
        const real cohesive = e0 * wp::exp(-lambda * ds);
        const real repulsive = real(6) * parameter(e, {COLUMNS.index("v0")}) * wp::exp(-kappa * ds);
        energy_here += cohesive * (real(1) + lambda * ds) + repulsive;
        slope = (lambda * lambda * ds * cohesive + kappa * repulsive) / (beta_eta2 * sigma1);
    }}
    return energy_here;
}};
"""

_BEYOND: Final = f"r2 >= real({RC_LIST**2!r})"

_SYSTEM_PAIRS: Final = f"""
for (int k = 0; k < m; ++k) {{
    const real r2 = r2_of[k];
    const int j = j_of[k];
    {_PAIR}
    S[{_KEPT_BY_ATOM} * j + (k & 1)] += to_there;
    keep[0] = keep_here; keep[1] = keep_there; keep[2] = keep_u; keep[3] = real(j);
    *(four*)(keep + 4) = d_of[k];
    keep += {_KEPT_BY_SYSTEM};
}}
"""

_SYSTEM_KEPT: Final = f"kept + (long long)begin * width * {_KEPT_BY_SYSTEM}"

_SYSTEM_FORCES: Final = f"""
keep = {_SYSTEM_KEPT};
for (int i_atom = begin; i_atom < end; ++i_atom) {{
    const int n_kept = (int)S[{_KEPT_BY_ATOM} * i_atom + 2];
    const real slope = S[{_KEPT_BY_ATOM} * i_atom + 3];
    auto slope_of = [&](const real* pair) {{ return slope * pair[0] + S[{_KEPT_BY_ATOM} * (int)pair[3] + 3] * pair[1] + pair[2]; }};
    {
    pull_each(
        "n_kept",
        f"*(const four*)(keep + {_KEPT_BY_SYSTEM} * k + 4)",
        f"(int)keep[{_KEPT_BY_SYSTEM} * k + 3]",
        f"slope_of(keep + {_KEPT_BY_SYSTEM} * k)",
    )
}
    keep += {_KEPT_BY_SYSTEM} * n_kept;
}}
"""

_ROW_PAIR: Final = f"""
{VECTOR}
const real r2 = dx * dx + dy * dy + dz * dz;
real* keep = kept + ((long long)i_atom * width + n) * {_KEPT};
keep[0] = keep[1] = keep[2] = real(0);
if (!({_BEYOND})) {{
    {_PAIR}
    keep[0] = keep_here; keep[1] = keep_there; keep[2] = keep_u;
}}
"""

_ROW_FORCE: Final = f"""
const real* keep = kept + ((long long)i_atom * width + n) * {_KEPT};
const real du = S[i_atom] * keep[0] + S[neighbor_matrix.data[(long long)i_atom * width + n]] * keep[1] + keep[2];
if (du != real(0)) {{
    {VECTOR}
    {PULL} {VIRIAL}
}}
"""

EMT_LOOPS: Final = Loops(
    system="\n".join(
        [
            _DECLARE,
            _EMBED,
            f"for (int k = {_KEPT_BY_ATOM} * begin; k < {_KEPT_BY_ATOM} * end; ++k) S[k] = real(0);",
            f"real* keep = {_SYSTEM_KEPT};",
            over_system(
                f"{_START} const real* first_kept = keep;",
                _SYSTEM_PAIRS,
                _BEYOND,
                f"S[{_KEPT_BY_ATOM} * i_atom] += density; S[{_KEPT_BY_ATOM} * i_atom + 2] = real((keep - first_kept) / {_KEPT_BY_SYSTEM});",
            ),
            f"for (int a = begin; a < end; ++a) {{ real* of = S + {_KEPT_BY_ATOM} * a; total += embed(a, of[0] + of[1], of[3]); }}",
            _SYSTEM_FORCES,
        ]
    ),
    rows=(
        # Only half of `total` is this atom's; its own energy waits behind the slopes for the second launch.
        _DECLARE
        + _EMBED
        + over_row(_START, _ROW_PAIR, "real slope; S[n_atoms + i] = real(0.5) * total + embed(i, density, slope); S[i] = slope;"),
        _DECLARE + over_row(NO_FORCE, _ROW_FORCE, ADD_FORCE) + "total = real(2) * S[n_atoms + i];",
    ),
    scratch_per_atom=_KEPT_BY_ATOM,
    system_scratch_per_pair=_KEPT_BY_SYSTEM,
    rows_scratch_per_pair=_KEPT,
)
