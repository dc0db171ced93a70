"""Molecular dynamics: constant energy and constant temperature."""

from campaign.dynamics.integrators.nve import NVE
from campaign.dynamics.integrators.nvt_langevin import NVTLangevin

__all__ = ["NVE", "NVTLangevin"]
