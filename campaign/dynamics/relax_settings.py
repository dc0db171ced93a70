"""How systems are relaxed: optimizer, thresholds, cell, as a campaign's `[relax]` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from campaign.dynamics.exits import ExitSettings
from campaign.dynamics.optimizers import FIRE, FIRE2, LBFGS, CellMode
from campaign.dynamics.optimizers.optimizer import Optimizer
from campaign.dynamics.optimizers.strain import ALL_FREE, StrainMask
from campaign.units import GPA_PER_EV_PER_ANG3

__all__ = ["OPTIMIZERS", "RelaxSettings"]

OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {"fire": FIRE, "fire2": FIRE2, "lbfgs": LBFGS}
"""Optimizers by their name in `[relax] optimizer`."""


@dataclass(frozen=True, slots=True)
class RelaxSettings:
    """How systems are relaxed; names and meaning of all but the last are those of `[relax]` in a spec.

    >>> RelaxSettings(fmax_ev_per_ang=0.02, max_steps=500).optimizer
    'fire'
    """

    fmax_ev_per_ang: float
    max_steps: int
    smax_ev_per_ang3: float = 0.002
    optimizer: Literal["fire", "fire2", "lbfgs"] = "fire"
    cell: Literal["fixed", "isotropic", "full", "fixed_volume"] = "fixed"
    maxstep_ang: float = 0.2
    strain_mask: StrainMask = ALL_FREE
    pressure_gpa: float = 0.0
    fix_symmetry: bool = False
    refill_every: int | None = None
    """Steps between two looks for systems that have ended; None adapts to what an exchange costs."""

    def exits(self) -> ExitSettings:
        """Return when a system has ended."""
        return ExitSettings(
            fmax_ev_per_ang=self.fmax_ev_per_ang,
            smax_ev_per_ang3=self.smax_ev_per_ang3,
            max_steps=self.max_steps,
            cell_mode=CellMode.parse(self.cell),
            strain_mask=self.strain_mask,
            pressure_ev_per_ang3=self.pressure_ev_per_ang3,
        )

    @property
    def pressure_ev_per_ang3(self) -> float:
        """The pressure in the engine's unit."""
        return self.pressure_gpa / GPA_PER_EV_PER_ANG3
