"""The one table of analytic models under test: a new one is a line here.

Each is its name and options for the registry, and structures that it can compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ase import Atoms
from model_structures import emt_structures, pair_structures

from campaign.models.base import BaseModelMixin
from campaign.models.emt_parameters import ELEMENTS
from campaign.models.registry import create_model

Case = tuple[str, dict[str, Any], Callable[[int], list[Atoms]]]


def _pairs(scale: float) -> Callable[[int], list[Atoms]]:
    return lambda seed: pair_structures(scale, seed)


def _alloys(seed: int) -> list[Atoms]:
    from ase.data import chemical_symbols

    return emt_structures([chemical_symbols[number] for number in sorted(ELEMENTS)], seed)


CASES: list[Case] = [
    ("lj", {}, _pairs(1.12)),
    ("lj", {"epsilon": 0.0103, "sigma": 3.4}, _pairs(3.8)),
    ("lj", {"epsilon": 0.2, "sigma": 2.3, "rc": 9.0, "smooth": True}, _pairs(2.6)),
    ("lj", {"epsilon": 0.2, "sigma": 2.3, "rc": 6.0, "ro": 3.0, "smooth": True}, _pairs(2.6)),
    ("morse", {}, _pairs(1.0)),
    ("morse", {"epsilon": 0.35, "r0": 2.9, "rho0": 4.1, "rcut1": 1.2, "rcut2": 2.2}, _pairs(2.9)),
    ("emt", {}, _alloys),
]


def label(case: Case) -> str:
    """What pytest calls a case."""
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


def make(case: Case, dtype: torch.dtype = torch.float64, device: torch.device = torch.device("cpu")) -> BaseModelMixin:  # noqa: B008
    """Create the model of a case, as for a device."""
    return create_model(case[0], dtype, device, case[1])
