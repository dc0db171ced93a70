"""Dynamics: the step loop, convergence, optimizers, integrators, sinks, and the relaxation that a rank runs."""

from campaign.dynamics import hooks, integrators, optimizers
from campaign.dynamics.base import BaseDynamics, ConvergenceHook, DynamicsStage, FusedStage
from campaign.dynamics.demo import DemoDynamics
from campaign.dynamics.exits import Exits, ExitSettings
from campaign.dynamics.integrators import NVE, NVTLangevin
from campaign.dynamics.optimizers import FIRE, FIRE2, LBFGS, CellMode, FIRE2VariableCell, FIREVariableCell
from campaign.dynamics.relax import Relaxation, RelaxSettings, RunStatistics
from campaign.dynamics.sampler import Sampler, SizeAwareSampler
from campaign.dynamics.sinks import DataSink, GPUBuffer, HostMemory, ZarrData

__all__ = [
    "FIRE",
    "FIRE2",
    "LBFGS",
    "NVE",
    "BaseDynamics",
    "CellMode",
    "ConvergenceHook",
    "DataSink",
    "DemoDynamics",
    "DynamicsStage",
    "ExitSettings",
    "Exits",
    "FIRE2VariableCell",
    "FIREVariableCell",
    "FusedStage",
    "GPUBuffer",
    "HostMemory",
    "NVTLangevin",
    "RelaxSettings",
    "Relaxation",
    "RunStatistics",
    "Sampler",
    "SizeAwareSampler",
    "ZarrData",
    "hooks",
    "integrators",
    "optimizers",
]
