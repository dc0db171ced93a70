"""Space groups are kept: averages are ASE's, groups are spglib's, final energies are those under ASE's FixSymmetry."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.spacegroup import crystal
from numpy import ndarray
from relax_structures import assert_same_bits, relax, to_batch

from campaign.dynamics.symmetry import Orbits, find_orbits
from campaign.errors import ArgumentError, MissingDependencyError
from campaign.models.emt import EMTModel
from campaign.outcomes import Outcome

# spglib and ASE's use of it tell of what spglib will do in its next version.
pytestmark = pytest.mark.filterwarnings("ignore:.*OLD_ERROR_HANDLING.*:DeprecationWarning")

Array = ndarray[Any, Any]


def ordered() -> Atoms:
    """L1_2, 221, in a cell too small."""
    atoms = bulk("Au", a=3.6, cubic=True)
    atoms.symbols = "AuCu3"
    return atoms


def tetragonal() -> Atoms:
    """L1_0, 123, with an axis far from its length."""
    atoms = bulk("Au", a=3.9, cubic=True)
    atoms.symbols = "AuCu2Au"
    atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.0, 1.12]), scale_atoms=True)
    return atoms


def rutile() -> Atoms:
    """136, with the internal coordinate away from where it ends."""
    return crystal(["Cu", "Au"], [(0, 0, 0), (0.29, 0.29, 0)], spacegroup=136, cellpar=[5.3, 5.3, 3.5, 90, 90, 90])


def hexagonal() -> Atoms:
    """194, turned so that no axis lies along x, y or z, in a supercell."""
    atoms = bulk("Cu", "hcp", a=2.7, c=4.0) * (2, 1, 1)
    atoms.rotate(33, (1, 2, 3), rotate_cell=True)
    return atoms


def centred() -> Atoms:
    """bcc, 229, with noise below what counts."""
    atoms = bulk("Cu", "bcc", a=2.8, cubic=True) * (2, 2, 1)
    atoms.rattle(1e-7, seed=0)
    return atoms


CRYSTALS: dict[str, tuple[Callable[[], Atoms], int]] = {
    "L1_2": (ordered, 221),
    "L1_0": (tetragonal, 123),
    "rutile": (rutile, 136),
    "hcp": (hexagonal, 194),
    "bcc": (centred, 229),
}


def group(atoms: Atoms) -> int:
    dataset = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-5)
    return int(dataset.number)


def final(system: dict[str, torch.Tensor]) -> Atoms:
    return Atoms(system["atomic_numbers"].view(-1).numpy(), system["positions"].numpy(), cell=system["cell"].view(3, 3).numpy(), pbc=True)


def orbits_of(atoms: Atoms, fixed: Array | None = None) -> Orbits:
    fixed = np.zeros((len(atoms), 3), dtype=bool) if fixed is None else fixed
    return find_orbits(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, fixed)


@pytest.mark.parametrize("cell", ["fixed", "full"])
@pytest.mark.parametrize("optimizer", ["fire", "fire2", "lbfgs"])
def test_groups_are_kept_and_energies_are_those_of_ase(optimizer: str, cell: str) -> None:
    structures = [make() for make, _ in CRYSTALS.values()]
    how: dict[str, Any] = {"optimizer": optimizer, "cell": cell, "fmax": 1e-4, "smax_ev_per_ang3": 1e-6, "max_steps": 2000}
    relaxed = relax(EMTModel(), to_batch(structures), fix_symmetry=True, **how)
    assert relaxed.outcomes == [Outcome.CONVERGED] * len(structures), relaxed.errors
    for row, (name, (_, number)) in enumerate(CRYSTALS.items()):
        assert group(structures[row]) == number
        assert group(final(relaxed.system(row))) == number, name
        theirs = structures[row].copy()
        theirs.calc = EMT()
        theirs.set_constraint(FixSymmetry(theirs, symprec=1e-5))
        BFGS(FrechetCellFilter(theirs) if cell == "full" else theirs, logfile=None).run(fmax=1e-5, steps=500)
        ours = float(relaxed.batch["energy"][row])
        print(f"{name}: group {number}, ours {ours:.7f} eV, ASE {theirs.get_potential_energy():.7f} eV")
        assert ours == pytest.approx(theirs.get_potential_energy(), abs=2e-6 * len(theirs))


def test_a_saddle_is_left_where_symmetry_is_not_kept() -> None:
    """Layers pulled far apart pair up; noise of 1e-7 Å is enough to begin with."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.0, 1.4]), scale_atoms=True)
    atoms.rattle(1e-7, seed=0)
    free = relax(EMTModel(), to_batch([atoms]), fmax=1e-8, max_steps=1000)
    kept = relax(EMTModel(), to_batch([atoms]), fmax=1e-8, max_steps=1000, fix_symmetry=True)
    print("free", float(free.batch["energy"]), group(final(free.system(0))), "kept", float(kept.batch["energy"]))
    assert free.outcomes == kept.outcomes == [Outcome.CONVERGED]
    assert float(free.batch["energy"]) < float(kept.batch["energy"]) - 0.1
    assert group(final(kept.system(0))) == group(atoms) == 139 != group(final(free.system(0)))


def test_bits_do_not_depend_on_batch_mates() -> None:
    structures = [make() for make, _ in CRYSTALS.values()]
    how: dict[str, Any] = {"cell": "full", "fmax": 1e-3, "fix_symmetry": True}
    together = relax(EMTModel(), to_batch(structures), **how)
    refilled = relax(EMTModel(), to_batch(structures), limits={"max_systems": 2}, refill_every=3, **how)
    for row in range(len(structures)):
        alone = relax(EMTModel(), to_batch(structures[row : row + 1], first_id=row), **how)
        assert_same_bits(together.system(row), alone.system(row))
        assert_same_bits(together.system(row), refilled.system(row))


def averaged(orbits: Orbits, forces: Array) -> Array:
    """Return the average by the two formulas of `symmetry.py`, written out once more."""
    is_root = orbits.root == np.arange(len(forces))
    back = np.where(is_root[:, None], forces, np.einsum("aji,aj->ai", orbits.matrix, forces))
    sums = np.zeros_like(forces)
    np.add.at(sums, orbits.root, back)
    of_root = np.einsum("aij,aj->ai", orbits.matrix, sums)[orbits.root]
    return np.where(is_root[:, None], of_root, np.einsum("aij,aj->ai", orbits.matrix, of_root))


@pytest.mark.parametrize("name", CRYSTALS)
def test_averages_are_those_of_ase(name: str) -> None:
    atoms = CRYSTALS[name][0]()
    orbits, theirs = orbits_of(atoms), FixSymmetry(atoms, symprec=1e-5)
    rng = np.random.default_rng(0)
    forces, m = rng.normal(size=(len(atoms), 3)), rng.normal(size=(3, 3))
    stress = m + m.T
    expected, voigt = forces.copy(), stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    theirs.adjust_forces(atoms, expected)
    theirs.adjust_stress(atoms, voigt)
    assert np.abs(averaged(orbits, forces) - expected).max() < 1e-6
    mean = (orbits.projector @ stress.ravel()).reshape(3, 3)
    assert np.abs(mean[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] - voigt).max() < 1e-6


def test_fixed_atoms_and_vacuum_make_groups_smaller() -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
    fixed = np.zeros((12, 3), dtype=bool)
    whole = orbits_of(slab)
    fixed[:4] = True
    half = orbits_of(slab, fixed)
    assert (whole.n_operations, half.n_operations) == (48, 24), "two sides, then one"
    assert np.unique(half.root).tolist() == [0, 4, 8]
    fixed[:4] = (True, False, False)
    assert orbits_of(slab, fixed).n_operations == 8, "mirrors of the plane that keep x, times four translations"
    # Its cell is that of the crystal, which has operations that take the top layer to the bottom one.
    cut = bulk("Cu", cubic=True)
    assert orbits_of(cut).n_operations == 192
    cut.pbc = (True, True, False)
    assert orbits_of(cut).n_operations == 32, "without what takes an axis along z to x or y, and without the shifts along z"
    sheet = graphene(size=(1, 1, 1))
    assert orbits_of(sheet).n_operations == 24
    assert orbits_of(Atoms("Cu4", [[0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0]])).n_operations == 16


def test_structures_without_a_group_have_the_trivial_one() -> None:
    in_one_place, flat = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    in_one_place.positions[1] = in_one_place.positions[0]
    flat.cell[2] = flat.cell[0]
    for atoms in (in_one_place, flat):
        orbits = orbits_of(atoms)
        assert orbits.n_operations == 1 and orbits.root.tolist() == [0, 1, 2, 3]
        assert (averaged(orbits, atoms.positions) == atoms.positions).all()


def test_a_slab_with_fixed_layers_keeps_its_group() -> None:
    slab = fcc111("Pt", (1, 1, 4), a=3.8, vacuum=6.0)
    slab.set_constraint(FixAtoms([0, 1]))
    relaxed = relax(EMTModel(), to_batch([slab]), cell="full", fix_symmetry=True, fmax=1e-4, smax_ev_per_ang3=1e-6, max_steps=2000)
    after = final(relaxed.system(0))
    assert relaxed.outcomes == [Outcome.CONVERGED]
    assert group(after) == 156, "P3m1: the three-fold axis and its mirrors, and no inversion since one side is fixed"
    assert (after.cell.array[2] == slab.cell.array[2]).all()


def test_what_cannot_be_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = to_batch([ordered()])
    with pytest.raises(ArgumentError, match="fix_symmetry is set and strain_mask"):
        relax(EMTModel(), batch, cell="full", fix_symmetry=True, strain_mask=(True, True, False, True, True, True))
    real_import = builtins.__import__

    def without_spglib(name: str, *rest: Any, **more: Any) -> Any:
        if name == "spglib":
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_spglib)
    with pytest.raises(MissingDependencyError, match=r"pip install 'relax-campaign\[analysis\]'"):
        relax(EMTModel(), batch, fix_symmetry=True)
