"""Morse: what the formula says by hand. Agreement with ASE and the contract are in test_analytic.py."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from campaign.errors import SpecError
from campaign.models.morse import MorseModel
from campaign.testing.model_contract import evaluate


def test_depth_and_place_of_the_minimum() -> None:
    (own,) = evaluate(MorseModel(epsilon=0.7, r0=2.5), [Atoms("Cu2", positions=[[0, 0, 0], [0, 2.5, 0]])])
    assert own["energy"][0] == pytest.approx(-0.7, abs=1e-15)
    assert np.abs(own["forces"]).max() < 1e-14


def test_nothing_is_left_at_the_cutoff() -> None:
    pairs = [Atoms("Cu2", positions=[[0, 0, 0], [r, 0, 0]]) for r in (2.7 - 1e-7, 2.7 + 1e-7)]
    for own in evaluate(MorseModel(), pairs, skin_ang=1.0):
        assert abs(own["energy"][0]) < 1e-15
        assert np.abs(own["forces"]).max() < 1e-12


@pytest.mark.parametrize("options", [{"epsilon": 0}, {"r0": -1.0}, {"rho0": float("nan")}, {"rcut1": 3.0}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=r"morse was given .* positive, .* Mend"):
        MorseModel(**options)
