"""Tables of the two functions of distance that effective medium theory is made of, with their slopes: one lookup per element and pair.

What an atom of an element gives to the density and to the pair energy of another one at distance r is an exponential times the cutoff,

    s(r) = exp(−η₂ (r − β s₀)) w(r)        p(r) = exp(−κ (r/β − s₀)) w(r)        w(r) = 1 / (1 + exp(a (r − r_c))),

and depends on that element only; what depends on both elements are factors. Exponentials, a root and divisions would be most of the work
of a pair. So both functions are polynomials of degree five in q = r² between knots, with their values, slopes and curvatures at both ends
(Hermite interpolation), and 2 df/dq is f'(r)/r, which is what forces need. At this spacing they differ from the functions by less than
1e-12 beyond 2 Å, which a test holds them to. Below the first knot, where only structures in collapse have pairs, the functions themselves
are evaluated.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from campaign.models.emt_parameters import A_CUT, BETA, COLUMNS, PAPER_TABLE, RC, RC_LIST, element_table

__all__ = ["FACTORS", "FIRST_KNOT_ANG2", "N_KNOTS", "ROW_OF_KNOT", "SPACING_ANG2", "emt_numbers"]

FIRST_KNOT_ANG2: Final = 1.44
N_KNOTS: Final = 1024
SPACING_ANG2: Final = (RC_LIST**2 - FIRST_KNOT_ANG2) / N_KNOTS
"""About 0.04 Å²."""

ROW_OF_KNOT: Final = 12
"""Numbers per knot: coefficients of s, then of p, of the powers 0 to 5 of (q − knot)/spacing."""

FACTORS: Final = 4
"""Numbers per element here and element there: χ = n₀ there over n₀ here, its inverse, and what p of either is multiplied by in u."""


def emt_numbers() -> Float[ndarray, " T"]:
    """Return all that the loops of EMT read, one after the other, in the units of `emt_parameters.COLUMNS`.

    First 119 numbers: which element of the table an atomic number is, 0 for one without parameters. Then the parameters of each, the
    columns of `element_table`, where those of element 0 are NaN. Then the factors of each pair of elements; then the knots of each element.
    """
    numbers = sorted(PAPER_TABLE)
    element_of = np.zeros(119)
    element_of[numbers] = np.arange(1, len(numbers) + 1)
    parameters = np.concatenate([np.full((1, len(COLUMNS)), np.nan), element_table()[numbers]])
    eta2, kappa, s0, n0, factor = (parameters[:, COLUMNS.index(name)] for name in ("eta2", "kappa", "s0", "n0", "pair_factor"))
    chi = n0[None, :] / n0[:, None]
    factors = np.stack([chi, 1.0 / chi, chi * factor[:, None], factor[None, :] / chi], axis=2)
    knots = np.stack([_coefficients(eta2, BETA * s0), _coefficients(kappa / BETA, BETA * s0)], axis=2)
    return np.concatenate([element_of, parameters.ravel(), factors.ravel(), knots.ravel()])


def _coefficients(decay: Float[ndarray, " E"], at: Float[ndarray, " E"]) -> Float[ndarray, "E K 6"]:
    """Return the coefficients of exp(−decay (r − at)) w(r) between all knots."""
    r = np.sqrt(FIRST_KNOT_ANG2 + SPACING_ANG2 * np.arange(N_KNOTS + 1))
    w = 1.0 / (1.0 + np.exp(A_CUT * (r - RC)))
    value = np.exp(-decay[:, None] * (r - at[:, None])) * w
    # Of the logarithm: f'/f = −decay + a (w − 1), and (f'/f)' = a w' = a² w (w − 1).
    log_slope = A_CUT * (w - 1.0) - decay[:, None]
    by_r, by_r_twice = value * log_slope, value * (log_slope**2 + A_CUT**2 * w * (w - 1.0))
    # df/dq = f'/(2r), and d²f/dq² = (f'' − f'/r)/(4 r²).
    slope = by_r / (2 * r) * SPACING_ANG2
    bend = (by_r_twice - by_r / r) / (4 * r**2) * SPACING_ANG2**2
    f0, f1, d0, d1, b0, b1 = value[:, :-1], value[:, 1:], slope[:, :-1], slope[:, 1:], bend[:, :-1], bend[:, 1:]
    # What is left to the right end after the powers 0 to 2, in value, slope and curvature.
    gap, gap_slope, gap_bend = f1 - f0 - d0 - b0 / 2, d1 - d0 - b0, b1 - b0
    return np.stack(
        [
            f0,
            d0,
            b0 / 2,
            10 * gap - 4 * gap_slope + gap_bend / 2,
            -15 * gap + 7 * gap_slope - gap_bend,
            6 * gap - 3 * gap_slope + gap_bend / 2,
        ],
        axis=2,
    )
