"""What the dynamics contract expects to find here; the code is in the files that these names come from."""

from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.fused import FusedStage
from campaign.dynamics.loop import BaseDynamics
from campaign.hooks.stages import DynamicsStage

__all__ = ["BaseDynamics", "ConvergenceHook", "DynamicsStage", "FusedStage"]
