"""The moments of a step at which hooks may act, in the order in which a step passes them."""

from __future__ import annotations

from enum import Enum

__all__ = ["DynamicsStage"]


class DynamicsStage(Enum):
    """When a hook of the dynamics fires; the numbers are those of the dynamics contract."""

    BEFORE_STEP = 0
    """Nothing of the step has happened."""
    BEFORE_PRE_UPDATE = 1
    """Before the integrator or optimizer moves atoms."""
    AFTER_PRE_UPDATE = 2
    """Atoms have moved."""
    BEFORE_COMPUTE = 3
    """Before the model is evaluated; neighbour lists are made here."""
    AFTER_COMPUTE = 4
    """Energy, forces and stress belong to the positions."""
    BEFORE_POST_UPDATE = 5
    """Before the second half of an integrator."""
    AFTER_POST_UPDATE = 6
    """Velocities are final."""
    AFTER_STEP = 7
    """Everything of the step has happened, convergence has been checked."""
    ON_CONVERGE = 8
    """At least one system has converged in this step."""
