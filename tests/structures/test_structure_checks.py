"""What can be relaxed at all: tables of what cannot, and the search for two atoms on one spot against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedLine, FixedPlane, FixScaled, Hookean
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.structures.checks import FAR_ANG, OVERLAP_ANG, check_structure, find_overlap, fixed_components, is_finite
from campaign.structures.frame import RefusalKind

EMT = frozenset({28, 29, 47, 79})


def with_position(value: float) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.positions[2, 1] = value
    return atoms


def with_mass(value: float) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.set_masses([value])
    return atoms


def with_cell(cell: list[list[float]], pbc: object = True) -> Atoms:
    return Atoms("Cu", cell=cell, pbc=pbc)


REFUSED = {
    # what: structure, kind, words of the reason
    "no atoms": (Atoms(), RefusalKind.NO_ATOMS, "no atoms"),
    "NaN": (with_position(np.nan), RefusalKind.NOT_FINITE, "position of atom 2"),
    "infinity": (with_position(np.inf), RefusalKind.NOT_FINITE, "position of atom 2"),
    "beyond all digits": (with_position(10 * FAR_ANG), RefusalKind.NOT_FINITE, "beyond 1e+07"),
    "a mass of NaN": (with_mass(np.inf), RefusalKind.NOT_FINITE, "mass of atom 0"),
    "no mass": (with_mass(0.0), RefusalKind.NOT_FINITE, "masses are positive"),
    "a charge of NaN": (Atoms("Cu", charges=[np.nan]), RefusalKind.NOT_FINITE, "initial charge of atom 0"),
    "a moment of NaN": (Atoms("Cu", magmoms=[[0, 0, np.nan]]), RefusalKind.NOT_FINITE, "magnetic moment"),
    "a cell of NaN": (with_cell([[np.nan, 0, 0], [0, 4, 0], [0, 0, 4]]), RefusalKind.NOT_FINITE, "cell"),
    "an element of another model": (Atoms("CuXe", positions=[[0, 0, 0], [3, 0, 0]]), RefusalKind.ELEMENT, "does not know Xe; it knows Ni"),
    "a dummy atom": (Atoms("CuX", positions=[[0, 0, 0], [3, 0, 0]]), RefusalKind.ELEMENT, "atom 1 has atomic number 0"),
    "no cell": (with_cell([[0, 0, 0]] * 3), RefusalKind.CELL, "no volume along its periodic directions (TTT)"),
    "a flat cell": (with_cell([[4, 0, 0], [0, 4, 0], [4, 4, 0]]), RefusalKind.CELL, "no volume"),
    "a slab with a line for a cell": (with_cell([[4, 0, 0], [8, 0, 0], [0, 0, 9]], [1, 1, 0]), RefusalKind.CELL, "(TTF)"),
    "two atoms on one spot": (Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0]]), RefusalKind.OVERLAP, "atoms 0 and 1 are 0 Å apart"),
    "two atoms on one spot of two images": (
        Atoms("Cu2", positions=[[0.05, 2, 2], [11.9, 2, -6]], cell=[4, 4, 4], pbc=True),
        RefusalKind.OVERLAP,
        "atoms 0 and 1 are 0.15 Å apart",
    ),
    "an atom on its own image": (with_cell([[0.2, 0, 0], [0, 4, 0], [0, 0, 4]]), RefusalKind.OVERLAP, "atom 0 is 0.2 Å from its own image"),
    "a constraint of another kind": (
        Atoms("Cu2", positions=[[0, 0, 0], [3, 0, 0]], constraint=FixBondLengths([[0, 1]])),
        RefusalKind.CONSTRAINT,
        "FixBondLengths cannot be kept",
    ),
    "a spring": (
        Atoms("Cu2", positions=[[0, 0, 0], [3, 0, 0]], constraint=Hookean(0, 1, 5.0, 2.0)),
        RefusalKind.CONSTRAINT,
        "Hookean",
    ),
    "a constraint on an atom that is not there": (Atoms("Cu", constraint=FixAtoms([3])), RefusalKind.CONSTRAINT, "names atom 3 of 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_reason(what: str) -> None:
    atoms, kind, words = REFUSED[what]
    refusal = check_structure(atoms, EMT)
    assert refusal is not None
    assert refusal.kind is kind and words in refusal.text
    assert len(refusal.text.encode()) <= 192, "the store keeps 192 bytes of it"


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Cu", "fcc", a=3.6),  # one atom, skewed cell
        bulk("Cu", "fcc", a=3.6).repeat(4),
        fcc111("Cu", (2, 2, 3), vacuum=8),  # pbc TTF, third vector there
        fcc111("Cu", (2, 2, 3)),  # pbc TTF, third vector is zero
        Atoms("Cu2", positions=[[0, 0, 0], [0, 0, OVERLAP_ANG * 1.01]]),
        Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 1e4]], cell=[2e4] * 3, pbc=True),
        Atoms("Cu2", positions=[[0, 0, 0], [4, 0, 0]], cell=[4, 4, 4]),  # images do not count without pbc
        Atoms("Cu", cell=[[4, 0, 0], [400, 4, 0], [0, 0, 4]], pbc=True),  # strongly skewed
    ],
)
def test_taken_as_it_is(atoms: Atoms) -> None:
    before = atoms.copy()
    assert check_structure(atoms, EMT) is None
    assert check_structure(atoms, None) is None
    assert atoms == before


def shortest_of_ase(atoms: Atoms, below: float) -> float | None:
    distances = neighbor_list("d", atoms, below, self_interaction=False)
    return float(distances.min()) if len(distances) else None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.floats(0.6, 6.0),
    st.floats(0.1, 1.5),
)
def test_find_overlap_agrees_with_the_neighbour_list_of_ase(
    seed: int, n_atoms: int, pbc: tuple[bool, bool, bool], size: float, below: float
) -> None:
    rng = np.random.default_rng(seed)
    cell = size * (np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3)))
    positions = rng.uniform(-2, 3, (n_atoms, 3)) @ cell
    mask = np.array(pbc)
    expected = shortest_of_ase(Atoms(f"Cu{n_atoms}", positions=positions, cell=cell, pbc=pbc), below)
    found = find_overlap(positions.copy(), cell, mask, below)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found[2] == pytest.approx(expected, abs=1e-9)
        assert 0 <= found[0] <= found[1] < n_atoms


def test_find_overlap_in_a_large_system_is_quick_and_exact() -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True).repeat(18)
    positions = atoms.positions.copy()
    assert find_overlap(positions, atoms.cell.array, atoms.pbc, 0.25) is None
    positions[20000] = positions[7] + atoms.cell.array[0] + (0, 0, 0.125)
    found = find_overlap(positions, atoms.cell.array, atoms.pbc, 0.25)
    assert found is not None and found[:2] == (7, 20000) and found[2] == pytest.approx(0.125)


def test_a_cell_that_is_too_flat_to_look_at_is_refused() -> None:
    atoms = Atoms(
        "Cu500", positions=np.random.default_rng(1).uniform(0, 40, (500, 3)), cell=[[40, 0, 0], [0, 40, 0], [0, 0, 0.006]], pbc=True
    )
    refusal = check_structure(atoms, None)
    assert refusal is not None and refusal.kind is RefusalKind.CELL and "0.006 Å thick" in refusal.text


@pytest.mark.parametrize(
    ("constraint", "fixed"),
    [
        (FixAtoms([1]), [[0, 0, 0], [1, 1, 1]]),
        (FixAtoms([-1]), None),  # not negative: ASE itself would count from the end
        (FixCartesian([0], mask=(True, False, True)), [[1, 0, 1], [0, 0, 0]]),
        (FixScaled([0], mask=(False, False, True)), [[0, 0, 1], [0, 0, 0]]),  # the cell is along x, y, z
        (FixedPlane([0, 1], (0, 1, 0)), [[0, 1, 0], [0, 1, 0]]),
        (FixedLine([0], (0, 0, -2)), [[1, 1, 0], [0, 0, 0]]),
        (FixedPlane([0], (1, 1, 0)), None),
    ],
)
def test_fixed_components(constraint: object, fixed: list[list[int]] | None) -> None:
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [2, 2, 2]], cell=[4, 5, 6], pbc=True)
    atoms.set_constraint(constraint)
    found, refusal = fixed_components(atoms)
    assert (refusal is None) == (fixed is not None)
    if fixed is not None:
        assert found.astype(int).tolist() == fixed


def test_constraints_add_up_and_scaled_ones_need_a_cell_along_the_axes() -> None:
    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.set_constraint([FixCartesian([0], mask=(True, False, False)), FixCartesian([0], mask=(False, True, False))])
    assert fixed_components(atoms)[0].tolist() == [[True, True, False]]
    atoms.set_constraint(FixScaled([0], mask=(False, False, True)))
    assert fixed_components(atoms)[1] is not None
    atoms.set_constraint(FixScaled([0], mask=(True, True, True)))
    assert fixed_components(atoms)[0].all()


def test_is_finite_looks_at_everything_that_is_stored() -> None:
    assert is_finite(bulk("Cu"))
    assert not is_finite(with_position(np.nan)) and not is_finite(Atoms("Cu", charges=[np.inf]))
