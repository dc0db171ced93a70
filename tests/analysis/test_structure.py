"""Rows as ASE structures: what goes in comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import fcc111, molecule
from ase.constraints import FixAtoms, FixCartesian

from campaign.analysis.structure import atoms_from_row, parse_info
from campaign.constraints import constraints_from_mask
from campaign.errors import StoreDamagedError
from campaign.fields import encode_error

SLAB = fcc111("Cu", (2, 2, 3), vacuum=8.0)


def row(**fields: object) -> dict[str, object]:
    return {"atomic_numbers": SLAB.numbers, "positions": SLAB.positions, "cell": SLAB.cell.array, "pbc": SLAB.pbc, **fields}


def test_results_come_back_as_a_calculator_that_remembers() -> None:
    stress = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    forces = np.random.default_rng(0).normal(size=(12, 3))
    atoms = atoms_from_row(row(energy=np.array([-7.5]), forces=forces, stress=stress))
    assert atoms.get_potential_energy() == -7.5
    np.testing.assert_array_equal(atoms.get_forces(), forces)
    np.testing.assert_array_equal(atoms.get_stress(voigt=False), stress)
    np.testing.assert_array_equal(atoms.pbc, [True, True, False])


def test_what_was_not_computed_has_no_calculator() -> None:
    assert atoms_from_row(row(energy=np.array([np.nan]), forces=np.zeros((12, 3)))).calc is None


def test_a_molecule_has_no_stress() -> None:
    water = molecule("H2O")
    atoms = atoms_from_row(
        {
            "atomic_numbers": water.numbers,
            "positions": water.positions,
            "cell": np.zeros((3, 3)),
            "pbc": [False] * 3,
            "energy": [-14.2],
            "stress": np.zeros((3, 3)),
        }
    )
    assert "stress" not in atoms.calc.results


def test_what_came_with_the_input_is_restored() -> None:
    fixed = np.zeros((12, 3), bool)
    fixed[:4] = True
    fixed[5] = [False, False, True]
    atoms = atoms_from_row(
        row(
            tags=SLAB.get_tags(),
            atomic_masses=np.full(12, 2.0),
            initial_charges=np.linspace(-1, 1, 12),
            initial_magmoms=np.full(12, 0.5),
            fixed=fixed,
            info=json.dumps({"prototype": "fcc", "source": "my own"}),
            source="a.cif",
            system_id=np.array([7]),
            outcome=np.array([1]),
            error=np.frombuffer(encode_error("too slow"), np.uint8),
        )
    )
    np.testing.assert_array_equal(atoms.get_tags(), SLAB.get_tags())
    np.testing.assert_array_equal(atoms.get_masses(), np.full(12, 2.0))
    np.testing.assert_array_equal(atoms.get_initial_charges(), np.linspace(-1, 1, 12))
    np.testing.assert_array_equal(atoms.get_initial_magnetic_moments(), np.full(12, 0.5))
    # The input's own info wins over what we add.
    assert atoms.info == {"prototype": "fcc", "source": "my own", "system_id": 7, "outcome": "max_steps", "error": "too slow"}
    whole, partly = atoms.constraints
    assert isinstance(whole, FixAtoms)
    assert whole.index.tolist() == [0, 1, 2, 3]
    assert isinstance(partly, FixCartesian)
    assert partly.index.tolist() == [5]
    # ASE itself must hold what the mask held.
    before = atoms.positions.copy()
    atoms.set_positions(before + 1.0)
    np.testing.assert_array_equal(atoms.positions == before, fixed)


def test_plain_structures_stay_plain() -> None:
    atoms = atoms_from_row(row(atomic_masses=SLAB.get_masses(), tags=np.zeros(12, int), fixed=np.zeros((12, 3), bool)))
    assert not atoms.constraints
    assert set(atoms.arrays) == {"numbers", "positions"}


def test_each_pattern_of_fixed_components_is_one_constraint() -> None:
    mask = np.array([[1, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], bool)
    assert sorted(len(c.index) for c in constraints_from_mask(mask)) == [1, 1, 2]


@pytest.mark.parametrize("text", ["[1]", "{", "nonsense"])
def test_damaged_info_names_its_system(text: str) -> None:
    with pytest.raises(StoreDamagedError, match=r"info of system 12 is no JSON object but begins with .* Run `campaign verify`"):
        parse_info(text, 12)
