"""Tables of the two functions of distance that effective medium theory is made of, with their slopes: one lookup per element and pair.

What an atom of an element gives to the density and to the pair energy of another one at distance r is an exponential times the cutoff,

    s(r) = exp(−η₂ (r − β s₀)) w(r)        p(r) = exp(−κ (r/β − s₀)) w(r)        w(r) = 1 / (1 + exp(a (r − r_c))),

and depends on that element only; what depends on both elements are factors. Four exponentials are half of the work of a pair, so both
functions are polynomials of degree five between knots, with their values, slopes and curvatures at both ends (Hermite interpolation).
At this spacing they differ from the functions by less than 1e-13 beyond 2 Å, which a test holds them to.
Below the first knot, where only structures in collapse have pairs, the functions themselves are evaluated.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from campaign.models.emt_parameters import A_CUT, BETA, COLUMNS, PAPER_TABLE, RC, RC_LIST, element_table

__all__ = ["FIRST_KNOT_ANG", "N_KNOTS", "ROW_OF_KNOT", "SPACING_ANG", "emt_numbers"]

FIRST_KNOT_ANG: Final = 1.2
N_KNOTS: Final = 1024
SPACING_ANG: Final = (RC_LIST - FIRST_KNOT_ANG) / N_KNOTS
"""About 0.005 Å."""

ROW_OF_KNOT: Final = 12
"""Numbers per knot: coefficients of s, then of p, of the powers 0 to 5 of (r − knot)/spacing."""


def emt_numbers() -> Float[ndarray, " T"]:
    """Return all that the loops of EMT read, one after the other, in the units of `emt_parameters.COLUMNS`.

    First 119 numbers: which element of the table an atomic number is, 0 for one without parameters. Then the parameters of each, the
    columns of `element_table`; those of element 0 are NaN. Then the knots of each.
    """
    numbers = sorted(PAPER_TABLE)
    element_of = np.zeros(119)
    element_of[numbers] = np.arange(1, len(numbers) + 1)
    parameters = np.concatenate([np.full((1, len(COLUMNS)), np.nan), element_table()[numbers]])
    eta2, kappa, s0 = (parameters[:, COLUMNS.index(name)] for name in ("eta2", "kappa", "s0"))
    knots = np.stack([_coefficients(eta2, BETA * s0), _coefficients(kappa / BETA, BETA * s0)], axis=2)
    return np.concatenate([element_of, parameters.ravel(), knots.ravel()])


def _coefficients(decay: Float[ndarray, " E"], at: Float[ndarray, " E"]) -> Float[ndarray, "E K 6"]:
    """Return the coefficients of exp(−decay (r − at)) w(r) between all knots."""
    r = FIRST_KNOT_ANG + SPACING_ANG * np.arange(N_KNOTS + 1)
    w = 1.0 / (1.0 + np.exp(A_CUT * (r - RC)))
    value = np.exp(-decay[:, None] * (r - at[:, None])) * w
    # Of the logarithm: f'/f = −decay + a (w − 1), and (f'/f)' = a w' = a² w (w − 1).
    log_slope = A_CUT * (w - 1.0) - decay[:, None]
    slope = value * log_slope * SPACING_ANG
    bend = value * (log_slope**2 + A_CUT**2 * w * (w - 1.0)) * SPACING_ANG**2
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
