"""Optimizers: each takes the steps of a published algorithm, one kernel launch per step for all systems of a batch."""

from campaign.dynamics.optimizers.fire import FIRE, FIREVariableCell
from campaign.dynamics.optimizers.fire2 import FIRE2, FIRE2VariableCell
from campaign.dynamics.optimizers.lbfgs import LBFGS
from campaign.dynamics.optimizers.strain import CellMode

__all__ = ["FIRE", "FIRE2", "LBFGS", "CellMode", "FIRE2VariableCell", "FIREVariableCell"]
