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
from campaign.models.emt_parameters import A_CUT, BETA, BOHR, COLUMNS, PAPER_TABLE, RC, RC_LIST, element_table
from campaign.models.emt_tables import FACTORS, FIRST_KNOT_ANG2, N_KNOTS, SPACING_ANG2, emt_numbers
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


@pytest.mark.parametrize("number", sorted(PAPER_TABLE))
def test_tables_are_the_functions(number: int) -> None:
    numbers = emt_numbers()
    elements = 1 + len(PAPER_TABLE)
    knots = numbers[119 + elements * len(COLUMNS) + elements**2 * FACTORS :].reshape(elements, N_KNOTS, 2, 6)[int(numbers[number])]
    eta2, kappa, s0 = (element_table()[number, COLUMNS.index(name)] for name in ("eta2", "kappa", "s0"))
    fractions = np.linspace(0, 1, 21)
    r = np.sqrt(FIRST_KNOT_ANG2 + SPACING_ANG2 * (np.arange(N_KNOTS)[:, None] + fractions))
    w = 1 / (1 + np.exp(A_CUT * (r - RC)))
    for function, decay in enumerate((eta2, kappa / BETA)):
        exact = np.exp(-decay * (r - BETA * s0)) * w
        found = (knots[:, function, None, :] * fractions[None, :, None] ** np.arange(6)).sum(axis=-1)
        found_slope = (
            (knots[:, function, None, 1:] * np.arange(1, 6) * fractions[None, :, None] ** np.arange(5)).sum(axis=-1) * 2 / SPACING_ANG2
        )
        error = np.abs(found - exact)[r > 2.0].max(), np.abs(found_slope - exact * (A_CUT * (w - 1) - decay) / r)[r > 2.0].max()
        print(f"element {number}, function {function}: {error[0]:.2g} and {error[1]:.2g} 1/Å² beyond 2 Å")
        assert error[0] < 1e-12
        assert error[1] < 1e-9


def test_atoms_in_collapse_are_still_those_of_ase() -> None:
    for distance in (0.05, 0.6, FIRST_KNOT_ANG2**0.5 - 1e-9, FIRST_KNOT_ANG2**0.5 + 1e-9):
        dimer = Atoms("CuAu", positions=[[0, 0, 0], [distance, 0, 0]])
        (own,) = evaluate(EMTModel(), [dimer])
        dimer.calc = EMT()
        assert own["energy"][0] == pytest.approx(dimer.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(own["forces"], dimer.get_forces(), rtol=1e-10)
