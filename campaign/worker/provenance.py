"""What a shard says about where it comes from: model, package versions, hardware, job. Written when it is created, costs when it closes."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from campaign.dynamics.memory import device_peak_bytes
from campaign.models.base import BaseModelMixin
from campaign.spec import CampaignSpec
from campaign.worker.environment import RankEnvironment

PACKAGES: Final = ("relax-campaign", "torch", "numpy", "zarr", "warp-lang", "nvalchemi-toolkit-ops", "ase", "mpi4py")
"""Packages whose versions may matter for a result."""


def shard_attributes(
    spec: CampaignSpec, model: BaseModelMixin, device: torch.device, environment: RankEnvironment, n_threads: int
) -> dict[str, Any]:
    """Return the root attributes of a shard that are known when it is created."""
    return {
        "model": {**model.provenance(), "dtype": spec.model.dtype, "device": device.type, "deterministic": model.deterministic},
        "model_fingerprint": model.fingerprint(),
        "versions": versions(),
        "hardware": hardware(device, n_threads),
        "host": environment.host,
        "job_id": environment.job_id or "",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, n_threads: int) -> dict[str, str | int]:
    """Return what the rank computes on."""
    described: dict[str, str | int] = {"cpu": _cpu_name(), "cores": os.cpu_count() or 1, "threads": n_threads}
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = str(torch.version.cuda)
    return described


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that was used: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return device_peak_bytes(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
