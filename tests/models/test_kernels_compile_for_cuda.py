"""Warp's compiler for CUDA needs no device, so that every kernel that a GPU would run is compiled for one, wherever tests run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import warp as wp

from campaign.data.warp_interop import PRECISIONS
from campaign.dynamics.distances import _kernel as contacts_kernel
from campaign.dynamics.exit_kernels import exit_kernel
from campaign.dynamics.integrators.kernels import baoa_kernel, kick_drift_kernel, kick_kernel
from campaign.dynamics.optimizers.fire2_rule import fire2_rule
from campaign.dynamics.optimizers.fire_rule import fire_rule
from campaign.dynamics.optimizers.lbfgs_rule import lbfgs_rule
from campaign.dynamics.optimizers.step_kernel import step_kernel
from campaign.dynamics.symmetry_kernel import symmetrise_kernel
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.models.loops import row_kernels, system_kernel, system_sums_kernel
from campaign.models.morse import MorseModel
from campaign.neighbors import row_kernels as rows
from campaign.neighbors.renewal_kernels import inspect_kernel, settle_kernel
from campaign.neighbors.search_kernel import measure_cells, search_kernel
from campaign.neighbors.skin_kernel import check_kernel

ARCHITECTURE = 80
"""Of the oldest GPUs that clusters still have."""

DOUBLE, SINGLE = PRECISIONS[torch.float64], PRECISIONS[torch.float32]
LJ, MORSE, EMT = LennardJonesModel(smooth=True).loops, MorseModel().loops, EMTModel().loops

KERNELS = {
    "half lists, lj": lambda: system_kernel(SINGLE, LJ),
    "half lists, emt": lambda: system_kernel(DOUBLE, EMT),
    "rows, lj": lambda: row_kernels(DOUBLE, LJ)[0],
    "rows, morse": lambda: row_kernels(DOUBLE, MORSE)[0],
    **{f"rows, emt, {n}": lambda n=n: row_kernels(SINGLE, EMT)[n] for n in (0, 1)},
    "sums": lambda: system_sums_kernel(DOUBLE),
    "fire": lambda: step_kernel(DOUBLE, fire_rule),
    "fire2": lambda: step_kernel(SINGLE, fire2_rule),
    "lbfgs": lambda: step_kernel(DOUBLE, lbfgs_rule),
    "judging": lambda: exit_kernel(DOUBLE),
    "symmetry": lambda: symmetrise_kernel(DOUBLE),
    "kick and drift": lambda: kick_drift_kernel(SINGLE),
    "kick": lambda: kick_kernel(SINGLE),
    "langevin": lambda: baoa_kernel(DOUBLE),
    "search": lambda: search_kernel(SINGLE),
    "cells": lambda: measure_cells,
    "skin": lambda: check_kernel(DOUBLE),
    "copied rows": lambda: rows.copy_rows,
    "inspection of lists": lambda: inspect_kernel(DOUBLE),
    "settling of lists": lambda: settle_kernel(SINGLE),
    "contacts": lambda: contacts_kernel(DOUBLE),
}


@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_cuda(name: str, tmp_path: Path) -> None:
    kernel = KERNELS[name]()
    wp.compile_aot_module(kernel.module, arch=ARCHITECTURE, module_dir=tmp_path, use_ptx=True)
    [compiled] = tmp_path.glob("*.ptx")
    assert f"{kernel.key}" in compiled.read_text()
