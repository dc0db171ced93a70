"""Hooks: what they are, how they are registered and called, and those that need only a batch and a model."""

from campaign.hooks.context import DynamicsContext, HookContext
from campaign.hooks.neighbor_list import NeighborListHook
from campaign.hooks.periodic import WrapPeriodicHook
from campaign.hooks.protocol import Hook
from campaign.hooks.registry import HookRegistryMixin
from campaign.hooks.stages import DynamicsStage

__all__ = ["DynamicsContext", "DynamicsStage", "Hook", "HookContext", "HookRegistryMixin", "NeighborListHook", "WrapPeriodicHook"]
