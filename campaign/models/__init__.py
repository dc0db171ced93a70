"""Potentials: one call from a batch to energies, forces and stress. Each is a module, and the registry imports only the one asked for."""

from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs, NeighborConfig, NeighborListFormat

__all__ = ["BaseModelMixin", "ModelConfig", "ModelOutputs", "NeighborConfig", "NeighborListFormat"]
