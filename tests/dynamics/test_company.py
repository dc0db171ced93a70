"""A structure ends with the same bits whoever shares its batch: with each optimizer and cell mode, in bursts and step by step."""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import Any

import pytest
from ase import Atoms
from relax_structures import assert_same_bits, one_of_each, relax, to_batch

from campaign.data import Batch
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.models.emt import EMTModel
from campaign.outcomes import Outcome

N_STRANGERS = 64


class Listener:
    """Where it listens, steps are done one by one."""

    frequency, stage = 1, DynamicsStage.AFTER_STEP

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        pass


@cache
def structures() -> list[Atoms]:
    """Seven structures that have nothing in common, and 64 strangers of as many kinds, no two alike."""
    return [atoms for seed in range(1 + -(-N_STRANGERS // 7)) for atoms in one_of_each(seed)][: 7 + N_STRANGERS]


def crowd() -> Batch:
    """The seven in the middle of the strangers."""
    own, strangers = structures()[:7], structures()[7:]
    return to_batch([*strangers[:32], *own, *strangers[32:]])


SWAPS: dict[str, dict[str, Any]] = {
    "among 64 strangers": {},
    "refilled half way": {"limits": {"max_systems": 36}, "refill_every": 7},
    "compacted whenever one has ended": {"refill_every": 1},
    "few at a time": {"limits": {"max_systems": 5, "max_atoms": 40}},
}


@pytest.mark.parametrize("is_burst", [True, False], ids=["burst", "step by step"])
@pytest.mark.parametrize("cell", ["fixed", "isotropic", "full", "fixed_volume"])
@pytest.mark.parametrize("optimizer", ["fire", "fire2", "lbfgs"])
def test_same_bits_in_any_company(optimizer: str, cell: str, is_burst: bool) -> None:
    how: dict[str, Any] = {"optimizer": optimizer, "cell": cell, "fmax": 0.03, "smax_ev_per_ang3": 5e-3, "max_steps": 40}
    hooks = [] if is_burst else [Listener()]
    alone = [relax(EMTModel(), to_batch([atoms], first_id=32 + row), hooks=hooks, **how) for row, atoms in enumerate(structures()[:7])]
    for name, swap in SWAPS.items():
        company = relax(EMTModel(), crowd(), hooks=hooks, **swap, **how)
        assert (company.statistics.seconds["steps"] > 0) == is_burst
        assert len(company.outcomes) == 7 + N_STRANGERS and Outcome.CONVERGED in company.outcomes, name
        for row, one in enumerate(alone):
            assert_same_bits(one.system(32 + row), company.system(32 + row))
