"""The loops of effective medium theory, in C++; see `emt.py` for the formulas and `loops.py` for what is declared around them.

A first loop needs only distances: it yields the densities, and keeps for each pair what its distance changes. Then dE/dσ₁ of each atom is
known, and a second loop, without exponentials or square roots, yields the forces.
"""

from __future__ import annotations

from typing import Final

from campaign.models.emt_parameters import A_CUT, BETA, COLUMNS, ELEMENTS, RC, RC_LIST
from campaign.models.emt_tables import FIRST_KNOT_ANG, N_KNOTS, ROW_OF_KNOT, SPACING_ANG
from campaign.models.loops import PULL, PULL_BACK, VECTOR, VIRIAL, Loops, over_row, over_system

__all__ = ["EMT_LOOPS"]

_KEPT: Final = 3
"""Numbers kept per pair, all over r: dσ₁/dr here, dσ₁/dr there, du/dr of the pair energy."""

# e: place of an element in the table. Below the first knot, and for a distance that is no number, the functions themselves.
_DECLARE: Final = f"""
const real* parameters = T + 119;
const real* knots = parameters + {(1 + len(ELEMENTS)) * len(COLUMNS)};
real* kept = S + 2 * n_atoms;
auto element = [&](int atom) {{
    const long long z = atomic_numbers.data[atom];
    return z > 0 && z < 119 ? (int)T[z] : 0;
}};
auto parameter = [&](int e, int column) {{ return parameters[e * {len(COLUMNS)} + column]; }};
auto look_up = [&](int e, real r, real& s, real& ds, real& p, real& dp) {{
    const real place = (r - real({FIRST_KNOT_ANG!r})) * real({1.0 / SPACING_ANG!r});
    if (place >= real(0)) {{
        int k = (int)place;
        if (k > {N_KNOTS - 1}) k = {N_KNOTS - 1};
        const real t = place - real(k);
        const real* c = knots + ((long long)e * {N_KNOTS} + k) * {ROW_OF_KNOT};
        s = c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5]))));
        ds = c[1] + t * (real(2) * c[2] + t * (real(3) * c[3] + t * (real(4) * c[4] + t * real(5) * c[5])));
        p = c[6] + t * (c[7] + t * (c[8] + t * (c[9] + t * (c[10] + t * c[11]))));
        dp = c[7] + t * (real(2) * c[8] + t * (real(3) * c[9] + t * (real(4) * c[10] + t * real(5) * c[11])));
        ds *= real({1.0 / SPACING_ANG!r});
        dp *= real({1.0 / SPACING_ANG!r});
    }} else {{
        const real w = real(1) / (real(1) + wp::exp(real({A_CUT!r}) * (r - real({RC!r}))));
        const real at = real({BETA!r}) * parameter(e, {COLUMNS.index("s0")});
        const real eta2 = parameter(e, {COLUMNS.index("eta2")}), decay = parameter(e, {COLUMNS.index("kappa")}) / real({BETA!r});
        s = wp::exp(-eta2 * (r - at)) * w;
        p = wp::exp(-decay * (r - at)) * w;
        ds = s * (real({A_CUT!r}) * (w - real(1)) - eta2);
        dp = p * (real({A_CUT!r}) * (w - real(1)) - decay);
    }}
}};
"""

_OF_ATOM: Final = f"""
const int own = element(i_atom);
const real n0 = parameter(own, {COLUMNS.index("n0")}), factor = parameter(own, {COLUMNS.index("pair_factor")});
"""

# here: from the neighbour to this atom; there: from this atom to the neighbour. χ is the neighbour's n₀ over this atom's.
_PAIR: Final = f"""
{VECTOR}
real* keep = kept + ((long long)i_atom * width + n) * {_KEPT};
keep[0] = keep[1] = keep[2] = real(0);
const real r2 = dx * dx + dy * dy + dz * dz;
if (!(r2 >= real({RC_LIST**2!r}))) {{
    const real r = wp::sqrt(r2), inverse = real(1) / r;
    const int other = element(j);
    real to_here, to_there, s_here, ds_here, p_here, dp_here;
    look_up(other, r, s_here, ds_here, p_here, dp_here);
    if (other == own) {{
        keep[0] = keep[1] = ds_here * inverse;
        keep[2] = real(2) * factor * dp_here * inverse;
        total += real(2) * factor * p_here;
        to_here = to_there = s_here;
    }} else {{
        real s_there, ds_there, p_there, dp_there;
        look_up(own, r, s_there, ds_there, p_there, dp_there);
        const real chi = parameter(other, {COLUMNS.index("n0")}) / n0, chi_there = n0 / parameter(other, {COLUMNS.index("n0")});
        const real a = chi * factor, b = chi_there * parameter(other, {COLUMNS.index("pair_factor")});
        keep[0] = chi * ds_here * inverse;
        keep[1] = chi_there * ds_there * inverse;
        keep[2] = (a * dp_here + b * dp_there) * inverse;
        total += a * p_here + b * p_there;
        to_here = chi * s_here;
        to_there = chi_there * s_there;
    }}
    density += to_here;
"""

# From the density S[a] of atom a to its energy, and to dE/dσ₁, which takes its place. With ds = −ln(σ₁/(12 γ₁)) / (β η₂):
# E = E₀ (1 + λ ds) exp(−λ ds) + 6 V₀ exp(−κ ds) − E₀. An atom without neighbours has −E₀ and no slope.
_EMBED: Final = f"""
auto embed = [&](int a) {{
    const int e = element(a);
    const real sigma1 = S[a], e0 = parameter(e, {COLUMNS.index("e0")});
    real energy_here = -e0, slope = real(0);
    if (sigma1 != real(0)) {{
        const real beta_eta2 = real({BETA!r}) * parameter(e, {COLUMNS.index("eta2")});
        const real kappa = parameter(e, {COLUMNS.index("kappa")}), lambda = parameter(e, {COLUMNS.index("lambda")});
        const real ds = -wp::log(sigma1 * parameter(e, {COLUMNS.index("inverse_12_gamma1")})) / beta_eta2;
        const real cohesive = e0 * wp::exp(-lambda * ds);
        const real repulsive = real(6) * parameter(e, {COLUMNS.index("v0")}) * wp::exp(-kappa * ds);
        energy_here += cohesive * (real(1) + lambda * ds) + repulsive;
        slope = (lambda * lambda * ds * cohesive + kappa * repulsive) / (beta_eta2 * sigma1);
    }}
    S[a] = slope;
    return energy_here;
}};
"""

_FORCE: Final = f"""
const real* keep = kept + ((long long)i_atom * width + n) * {_KEPT};
const int neighbor = neighbor_matrix.data[(long long)i_atom * width + n];
const real du = S[i_atom] * keep[0] + S[neighbor] * keep[1] + keep[2];
if (du != real(0)) {{
    {VECTOR}
    {PULL}
"""

_NO_FORCE: Final = "real fx = 0, fy = 0, fz = 0;"
_ADD_FORCE: Final = "F[3 * i_atom] += fx; F[3 * i_atom + 1] += fy; F[3 * i_atom + 2] += fz;"
_START: Final = _OF_ATOM + "real density = real(0);"

EMT_LOOPS: Final = Loops(
    system="\n".join(
        [
            _DECLARE,
            _EMBED,
            "for (int a = begin; a < end; ++a) S[a] = real(0);",
            over_system(_START, _PAIR + "S[j] += to_there; }", "S[i_atom] += density;"),
            "for (int a = begin; a < end; ++a) total += embed(a);",
            over_system(_NO_FORCE, f"{_FORCE} {PULL_BACK} if (has_stress) {{ {VIRIAL} }} }}", _ADD_FORCE),
        ]
    ),
    rows=(
        # Only half of `total` is this atom's; its own energy waits behind the densities for the second launch.
        _DECLARE + _EMBED + over_row(_START, _PAIR + "}", "S[i] = density; S[n_atoms + i] = real(0.5) * total + embed(i);"),
        _DECLARE + over_row(_NO_FORCE, f"{_FORCE} {VIRIAL} }}", _ADD_FORCE) + "total = real(2) * S[n_atoms + i];",
    ),
    scratch_per_atom=2,
    scratch_per_pair=_KEPT,
)
