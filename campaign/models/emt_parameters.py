"""Parameters of effective medium theory: eleven elements, a global cutoff, and what follows from both.

Numbers are those of K. W. Jacobsen, P. Stoltze and J. K. Nørskov, Surf. Sci. 366, 394 (1996), in its units, and for H, C, N and O those
of `ase.calculators.emt`, which calls them not for serious use. As ASE's EMT without `asap_cutoff`, the cutoff comes from the largest
Wigner-Seitz radius in the whole table, so it depends neither on a structure nor on a batch.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy import ndarray

__all__ = ["A_CUT", "BETA", "COLUMNS", "ELEMENTS", "PAPER_TABLE", "RC", "RC_LIST", "PaperRow", "element_table"]

BOHR: Final = 0.5291772105638411
"""Å; CODATA 2014 as `ase.units` derives it, which a test compares."""

BETA: Final = 1.809
"""Nearest-neighbour distance of fcc over Wigner-Seitz radius, (16π/3)^(1/3)/√2, rounded as in the paper."""


class PaperRow(NamedTuple):
    """One element as the paper has it: eV, bohr, eV, 1/bohr, 1/bohr, 1/bohr, 1/bohr³."""

    e0: float
    s0: float
    v0: float
    eta2: float
    kappa: float
    lambda_: float
    n0: float


PAPER_TABLE: Final[dict[int, PaperRow]] = {
    1: PaperRow(-3.21, 1.31, 0.132, 2.652, 2.790, 3.892, 0.00547),
    6: PaperRow(-3.50, 1.81, 0.332, 1.652, 2.790, 1.892, 0.01322),
    7: PaperRow(-5.10, 1.88, 0.132, 1.652, 2.790, 1.892, 0.01222),
    8: PaperRow(-4.60, 1.95, 0.332, 1.652, 2.790, 1.892, 0.00850),
    13: PaperRow(-3.28, 3.00, 1.493, 1.240, 2.000, 1.169, 0.00700),
    28: PaperRow(-4.44, 2.60, 3.673, 1.669, 2.757, 1.948, 0.01030),
    29: PaperRow(-3.51, 2.67, 2.476, 1.652, 2.740, 1.906, 0.00910),
    46: PaperRow(-3.90, 2.87, 2.773, 1.818, 3.107, 2.155, 0.00688),
    47: PaperRow(-2.96, 3.01, 2.132, 1.652, 2.790, 1.892, 0.00547),
    78: PaperRow(-5.85, 2.90, 4.067, 1.812, 3.145, 2.192, 0.00802),
    79: PaperRow(-3.80, 3.00, 2.321, 1.674, 2.873, 2.182, 0.00703),
}
"""Parameters by atomic number."""

ELEMENTS: Final = frozenset(PAPER_TABLE)
"""Atomic numbers that have parameters."""

_FCC_NEAREST: Final = BETA * BOHR * max(row.s0 for row in PAPER_TABLE.values())

RC: Final = 0.5 * (math.sqrt(3.0) + 2.0) * _FCC_NEAREST
"""Middle of the cutoff function in Å: between the third and fourth neighbours of the largest element."""

A_CUT: Final = math.log(1e4 - 1.0) / (2.0 * _FCC_NEAREST - RC)
"""Slope of the cutoff function in 1/Å: 1e-4 is left at the fourth neighbour."""

RC_LIST: Final = RC + 0.5
"""Distance in Å from which on a pair counts nothing."""

COLUMNS: Final = ("e0", "s0", "v0", "eta2", "kappa", "lambda", "n0", "inverse_12_gamma1", "pair_factor")
"""Columns of `element_table`: eV, Å, eV, 1/Å, 1/Å, 1/Å, 1/Å³, no unit, eV (−V₀/(2 γ₂))."""


def element_table() -> ndarray:
    """Return the parameters as kernels read them, float64 [119, columns]: a row per atomic number; NaN for an element without parameters.

    >>> table = element_table()
    >>> float(table[29, COLUMNS.index("e0")]), bool(np.isnan(table[26]).all())
    (-3.51, True)
    """
    table = np.full((119, len(COLUMNS)), np.nan)
    for number, row in PAPER_TABLE.items():
        table[number] = _element_row(row)
    return table


def _element_row(paper: PaperRow) -> list[float]:
    s0, eta2, kappa = paper.s0 * BOHR, paper.eta2 / BOHR, paper.kappa / BOHR
    gamma1, gamma2 = _gammas(s0, eta2, kappa)
    return [
        paper.e0,
        s0,
        paper.v0,
        eta2,
        kappa,
        paper.lambda_ / BOHR,
        paper.n0 / BOHR**3,
        1.0 / (12.0 * gamma1),
        -0.5 * paper.v0 / gamma2,
    ]


def _gammas(s0: float, eta2: float, kappa: float) -> tuple[float, float]:
    """Sums over three shells of fcc neighbours at equilibrium, which normalise σ₁ and σ₂."""
    gamma1 = gamma2 = 0.0
    for count, squared in ((12, 1.0), (6, 2.0), (24, 3.0)):
        r = BETA * s0 * math.sqrt(squared)
        weight = count / 12.0 / (1.0 + math.exp(A_CUT * (r - RC)))
        gamma1 += weight * math.exp(-eta2 * (r - BETA * s0))
        gamma2 += weight * math.exp(-kappa / BETA * (r - BETA * s0))
    return gamma1, gamma2
