"""Units used throughout, which are ASE's: eV, Å, amu; and the few conversions people ask for.

Time has ASE's derived unit Å·sqrt(amu/eV). Numbers are CODATA 2014, as in `ase.units` by default; a test compares them.
"""

from __future__ import annotations

from typing import Final

GPA_PER_EV_PER_ANG3: Final = 160.21766208
"""1 eV/Å³ in GPa."""

EV_PER_K: Final = 8.6173303e-5
"""Boltzmann constant in eV/K."""

FS_TO_ASE_TIME: Final = 0.09822694788464063
"""1 fs in Å·sqrt(amu/eV)."""
