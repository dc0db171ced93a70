"""EMT: parameters against ASE's, single atoms, what it does not cover. Agreement with ASE and the contract are in test_analytic.py."""

from __future__ import annotations

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT, parameters
from ase.data import atomic_numbers

from campaign.models.emt import EMTModel
from campaign.models.emt_kernels import emt_cutoff
from campaign.models.emt_parameters import A_CUT, BETA, BOHR, COLUMNS, PAPER_TABLE, RC, RC_LIST, element_table
from campaign.testing.model_contract import batch_for, evaluate

NAMES_IN_ASE = dict(zip(COLUMNS, ("E0", "s0", "V0", "eta2", "kappa", "lambda", "n0", "inv12gamma1", "neghalfv0overgamma2"), strict=True))


def test_parameters_are_those_of_ase() -> None:
    assert {atomic_numbers[symbol]: tuple(row) for symbol, row in parameters.items()} == PAPER_TABLE
    assert pytest.approx(ase.units.Bohr, rel=1e-15) == BOHR
    calculator = EMT()
    calculator.initialize(Atoms(list(parameters)))
    for ours, theirs in ((RC, calculator.rc), (RC_LIST, calculator.rc_list), (A_CUT, calculator.acut)):
        assert ours == pytest.approx(theirs, rel=1e-14)
    table = element_table()[sorted(PAPER_TABLE)]
    for column, name in enumerate(NAMES_IN_ASE.values()):
        np.testing.assert_allclose(table[:, column], calculator.par[name], rtol=1e-14)


@pytest.mark.parametrize("symbol", sorted(parameters))
def test_atom_alone(symbol: str) -> None:
    (own,) = evaluate(EMTModel(), [Atoms(symbol)])
    assert own["energy"][0] == -parameters[symbol][0]
    assert not own["forces"].any()
    assert not own["stress"].any()


def test_metal_at_its_lattice_constant_is_zero() -> None:
    copper = bulk("Cu", a=BETA * 2**0.5 * 2.67 * BOHR)
    (own,) = evaluate(EMTModel(), [copper])
    # Not exactly: the cutoff keeps a little of the fourth shell, which the normalisation leaves out.
    assert abs(own["energy"][0]) < 0.01


def test_other_elements_are_not_finite_and_spoil_no_other_system() -> None:
    structures = [bulk("Cu"), bulk("Fe"), bulk("Au"), Atoms("Fe")]
    outputs = evaluate(EMTModel(), structures)
    assert [bool(np.isfinite(own["energy"]).all()) for own in outputs] == [True, False, True, False]
    assert outputs[2]["energy"].tobytes() == evaluate(EMTModel(), [bulk("Au")])[0]["energy"].tobytes()


@pytest.mark.parametrize("number", [-5, 0, 119, 10**9])
def test_numbers_of_no_element_are_not_finite(number: int) -> None:
    model = EMTModel()
    batch = batch_for(model, [bulk("Cu"), bulk("Cu")])
    batch.atomic_numbers[0] = number
    energy = model(batch)["energy"]
    assert torch.isfinite(energy[:, 0]).tolist() == [False, True]


def test_cutoff_exponential_left_out_changes_no_bit() -> None:
    for r in np.linspace(RC - 40 / A_CUT, RC - 37 / A_CUT, 50):
        w, dw = emt_cutoff(float(r), RC, A_CUT)
        exact = 1 / (1 + np.exp(A_CUT * (r - RC)))
        assert (w, dw) == (exact, A_CUT * (exact - 1))
