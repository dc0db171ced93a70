"""Hooks that need the engine: snapshots to a sink, frozen atoms, logs, and guards against what a model may return."""

from campaign.dynamics.hooks.freeze import FreezeAtomsHook
from campaign.dynamics.hooks.logging import LoggingHook
from campaign.dynamics.hooks.observables import EnergyDrift, total_energy_per_system
from campaign.dynamics.hooks.safety import MaxForceClampHook, NaNDetectorHook
from campaign.dynamics.hooks.snapshot import ConvergedSnapshotHook, SnapshotHook, newest_of_each

__all__ = [
    "ConvergedSnapshotHook",
    "EnergyDrift",
    "FreezeAtomsHook",
    "LoggingHook",
    "MaxForceClampHook",
    "NaNDetectorHook",
    "SnapshotHook",
    "newest_of_each",
    "total_energy_per_system",
]
