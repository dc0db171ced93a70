"""ASE's atoms to tensors and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixedPlane

from campaign.data import AtomicData, Batch
from campaign.data.ase_atoms import fixed_components
from campaign.errors import InputError


def full() -> Atoms:
    """A slab with everything that has to survive."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    atoms.rattle(0.1, seed=0)
    atoms.set_tags(range(8))
    atoms.set_initial_charges(np.linspace(-1, 1, 8))
    atoms.set_initial_magnetic_moments(np.arange(8) / 4)
    atoms.set_masses([63.0] * 7 + [65.0])
    atoms.set_velocities(np.arange(24).reshape(8, 3) / 10)
    atoms.set_constraint([FixAtoms([0, 1]), FixCartesian([2, 5], mask=(True, False, True))])
    atoms.info = {"name": "slab", "nested": {"a": [1, 2]}, "number": 3, "charge": -2}
    return atoms


def there_and_back(atoms: Atoms) -> Atoms:
    return AtomicData.from_atoms(atoms, dtype=torch.float64).to_atoms()


@pytest.mark.parametrize("atoms", [full(), molecule("H2O"), bulk("Cu"), Atoms("H")], ids=["slab", "molecule", "bulk", "atom"])
def test_everything_survives(atoms: Atoms) -> None:
    before = atoms.copy()
    again = there_and_back(atoms)
    assert again == atoms
    for name in ("get_tags", "get_initial_charges", "get_initial_magnetic_moments", "get_masses"):
        assert np.array_equal(getattr(again, name)(), getattr(atoms, name)()), name
    np.testing.assert_allclose(again.get_velocities(), atoms.get_velocities(), rtol=1e-14)
    assert again.info == atoms.info
    assert np.array_equal(fixed_components(again), fixed_components(atoms))
    assert set(again.arrays) == set(atoms.arrays)
    assert before == atoms and before.info == atoms.info  # the input is not touched


def test_fields() -> None:
    data = AtomicData.from_atoms(full(), dtype=torch.float64)
    assert data.fixed.dtype == torch.bool and data.fixed.sum(dim=1).tolist() == [3, 3, 2, 0, 0, 2, 0, 0]
    assert data.cell.shape == (1, 3, 3) and data.pbc.tolist() == [[True, True, False]]
    assert data.charge.tolist() == [[-2.0]]
    assert data.atomic_numbers.dtype == torch.int64


def test_single_precision_is_the_default_of_the_contract() -> None:
    assert AtomicData.from_atoms(molecule("H2O")).dtype == torch.float32


def test_molecules_and_crystals_form_one_batch() -> None:
    structures = [AtomicData.from_atoms(atoms) for atoms in (molecule("H2O"), bulk("Cu"), full())]
    batch = Batch.from_data_list(structures, exclude_keys=["charge"])
    assert batch.pbc.any(dim=1).tolist() == [False, True, True]
    assert not batch.cell[0].any()


def test_a_cell_without_periodicity_survives() -> None:
    atoms = molecule("H2O", vacuum=4.0)
    assert np.array_equal(there_and_back(atoms).cell.array, atoms.cell.array)


@pytest.mark.parametrize("source", ["info and arrays", "calculator"])
def test_results_are_taken_over(source: str) -> None:
    atoms = bulk("Cu") * (2, 1, 1)
    atoms.calc = EMT()
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    if source == "info and arrays":
        atoms.calc = None
        atoms.info.update(energy=energy, stress=stress)
        atoms.arrays["forces"] = forces
    data = AtomicData.from_atoms(atoms, dtype=torch.float64)
    assert float(data.energy) == energy
    assert np.array_equal(data.forces.numpy(), forces)
    assert np.allclose(data.stress[0].numpy(), data.stress[0].numpy().T)
    again = data.to_atoms()
    assert isinstance(again.calc, SinglePointCalculator)
    assert again.get_potential_energy() == energy
    np.testing.assert_allclose(again.get_stress(), stress)
    assert "energy" not in again.info


def test_results_are_never_computed() -> None:
    atoms = bulk("Cu")
    atoms.calc = EMT()
    assert AtomicData.from_atoms(atoms).energy is None


def test_names_of_results_can_be_chosen() -> None:
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = -14.0
    assert AtomicData.from_atoms(atoms, energy_key="REF_energy").energy.tolist() == [[-14.0]]


@pytest.mark.parametrize(("value", "shape"), [(np.arange(6.0), (6,)), (np.arange(9.0), (9,)), (np.eye(3), (3, 3))])
def test_stress_in_all_its_shapes(value: np.ndarray, shape: tuple[int, ...]) -> None:
    atoms = bulk("Cu")
    atoms.info["stress"] = value.reshape(shape)
    stress = AtomicData.from_atoms(atoms, dtype=torch.float64).stress
    assert stress.shape == (1, 3, 3)
    if shape == (6,):
        assert stress[0].tolist() == [[0, 5, 4], [5, 1, 3], [4, 3, 2]]


def test_partial_charges_give_the_total_where_they_add_up() -> None:
    atoms = molecule("H2O")
    atoms.arrays["charges"] = np.array([-0.8, 0.4, 0.4])
    assert AtomicData.from_atoms(atoms).charge.tolist() == [[0.0]]
    atoms.arrays["charges"] = np.array([-0.8, 0.4, 0.1])
    assert AtomicData.from_atoms(atoms).charge is None


def bad(**changes: object) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    for name, value in changes.items():
        if name in ("cell", "pbc", "numbers", "positions"):
            setattr(atoms, name, value)
        elif name == "info":
            atoms.info = value
        elif name == "magmoms":
            atoms.set_initial_magnetic_moments(value)
        elif name == "constraint":
            atoms.set_constraint(value)
    return atoms


NAN = np.zeros((4, 3))
NAN[2, 1] = np.nan


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms(), r"has no atoms; at least one is needed.*Remove"),
        (bad(positions=NAN), r"atom 2 is at \[0.0, nan, 0.0\]; positions must be finite.*Correct"),
        (bad(cell=np.full((3, 3), np.inf)), r"the cell is .*inf.*must be finite.*Correct"),
        (bad(numbers=[29, 29, 29, 130]), r"atom 3 has atomic number 130; known are 0 to 118.*Correct"),
        (
            bad(cell=np.diag([3.0, 3.0, 0.0])),
            r"periodic along \[True, True, True\]; periodic vectors must be neither zero nor linearly.*Set the cell",
        ),
        (bad(cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]]), r"must be neither zero nor linearly dependent"),
        (bad(constraint=FixBondLength(0, 1)), r"constraint FixBondLengths? cannot be kept.*FixAtoms and FixCartesian can.*Remove it"),
        (bad(constraint=FixedPlane([0], (0, 0, 1))), r"constraint FixedPlane cannot be kept"),
        (bad(magmoms=np.zeros((4, 3))), r"moments have three components; one per atom is supported.*Reduce"),
        (bad(info={"charge": 0.5}), r"info\['charge'\] is 0.5; the charge of a structure is an integer.*Correct"),
        (bad(info={"charge": "plus"}), r"info\['charge'\] is 'plus'"),
        (bad(info={"stress": np.zeros(4)}), r"stress has shape \(4,\); it must be \(6,\), \(9,\) or \(3, 3\)"),
        (bad(info={"energy": "low"}), r"energy of the structure cannot be read as numbers.*Correct"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_what_a_relaxation_cannot_take_over_is_refused(atoms: Atoms, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        AtomicData.from_atoms(atoms)


def test_zero_vectors_and_left_handed_cells_are_fine() -> None:
    assert AtomicData.from_atoms(fcc111("Au", (1, 1, 2))).pbc.tolist() == [[True, True, False]]
    assert AtomicData.from_atoms(bad(cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]])).num_nodes == 4
