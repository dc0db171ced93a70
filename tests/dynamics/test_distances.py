"""Shortest distances and fragments against plain searches over images, for every kind of periodicity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_structures import to_batch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from campaign.data import Batch
from campaign.dynamics.distances import BOND_RATIO, contacts


def by_search(atoms: Atoms, reach: int) -> float:
    """Return the ratio by looking at all images up to `reach` cells away."""
    ranges = [
        range(-reach, reach + 1) if along and vector.any() else [0] for along, vector in zip(atoms.pbc, atoms.cell.array, strict=True)
    ]
    shifts = np.array(list(itertools.product(*ranges))) @ atoms.cell.array
    vectors = atoms.positions[None, :, None] - atoms.positions[:, None, None] + shifts
    radii = covalent_radii[atoms.numbers]
    ratios = np.linalg.norm(vectors, axis=-1) / (radii[:, None, None] + radii[None, :, None])
    np.fill_diagonal(ratios[:, :, len(shifts) // 2], np.inf)
    return float(ratios.min()) if np.isfinite(ratios.min()) else float("nan")


def fragments_by_ase(atoms: Atoms) -> int:
    """Return the number of connected components of ASE's neighbour list."""
    first, second = neighbor_list("ij", atoms, BOND_RATIO * covalent_radii[atoms.numbers])
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(atoms), len(atoms)))
    return int(connected_components(graph, directed=False)[0])


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.booleans()] * 3), st.integers(1, 5), st.booleans())
def test_any_cell(seed: int, pbc: tuple[bool, bool, bool], n: int, drops_vectors: bool) -> None:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.0, 6.0, 3)) + np.triu(rng.uniform(-6.0, 6.0, (3, 3)), 1)
    if drops_vectors:
        cell[~np.array(pbc)] = 0.0
    positions = rng.uniform(-1, 1, (n, 3)) @ np.where(cell.any(1)[:, None], cell, 3 * np.eye(3))
    atoms = Atoms(rng.choice([1, 6, 29, 79], n), positions, cell=cell, pbc=pbc)
    ours = contacts(to_batch([atoms]))
    assert float(ours.shortest_ratio) == pytest.approx(by_search(atoms, 8), rel=1e-12, nan_ok=True)
    assert int(ours.n_fragments) == fragments_by_ase(atoms)


def test_many_at_once() -> None:
    copper = bulk("Cu", a=3.6)
    pair = Atoms("HO", [[0, 0, 0], [0, 0, 0.97]])
    spot = Atoms("Cu2", [[1.0, 1, 1], [1, 1, 1]])
    batch = to_batch([copper, pair, Atoms("Cu"), spot])
    expected = [3.6 / 2**0.5 / (2 * covalent_radii[29]), 0.97 / (covalent_radii[1] + covalent_radii[8]), float("nan"), 0.0]
    assert contacts(batch).shortest_ratio.view(-1).tolist() == pytest.approx(expected, nan_ok=True)
    assert contacts(batch).n_fragments.view(-1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_has_no_ratio(value: float) -> None:
    batch = to_batch([bulk("Cu", cubic=True), bulk("Cu")])
    batch["positions"][1, 1] = value
    assert torch.isnan(contacts(batch).shortest_ratio).view(-1).tolist() == [True, False]
    assert contacts(batch).n_fragments.view(-1).tolist() == [0, 1]


def test_a_collapsed_cell_has_no_ratio_and_takes_no_time() -> None:
    batch = to_batch([Atoms("Cu2", [[0.0, 0, 0], [1, 1, 0]], cell=[3, 3, 3], pbc=True)])
    batch["cell"][0, 1] = torch.tensor([3.0, 1e-9, 0.0])
    assert torch.isnan(contacts(batch).shortest_ratio).all()
    assert int(contacts(batch).n_fragments) == 0


def test_without_cell_and_in_single_precision() -> None:
    batch = Batch.from_arrays([2], {"positions": torch.tensor([[0.0, 0, 0], [0, 0, 1.24]]), "atomic_numbers": torch.tensor([1, 1])}, {})
    assert contacts(batch).shortest_ratio.dtype is torch.float32
    assert float(contacts(batch).shortest_ratio) == pytest.approx(2.0, rel=1e-6)


def test_fragments_of_what_a_chemist_knows() -> None:
    crystal = bulk("Cu", cubic=True) * (3, 3, 3)
    slab = fcc111("Pt", (2, 2, 3), vacuum=8.0)
    with_water = slab.copy()
    water = molecule("H2O")
    water.translate([1.0, 1.0, slab.positions[:, 2].max() + 5.0])
    with_water += water
    # One molecule that the boundary of its cell cuts in two.
    cut = molecule("C6H6")
    cut.set_cell([9.0, 9.0, 9.0])
    cut.pbc = True
    cut.wrap()
    # A chain whose bonds all go through the boundary.
    chain = Atoms("C", cell=[1.4, 12, 12], pbc=True)
    broken = bulk("NaCl", "rocksalt", a=12.0)
    gas = Atoms("Ar5", np.arange(15.0).reshape(5, 3) * 4)
    three = [molecule(name) for name in ("H2O", "CH4", "C2H6")]
    for i, one in enumerate(three):
        one.translate([12.0 * i, 0, 0])
    liquid = three[0] + three[1] + three[2]
    # The order of the atoms says nothing.
    liquid = liquid[np.random.default_rng(3).permutation(len(liquid))]
    structures = [crystal, slab, with_water, cut, chain, broken, gas, liquid]
    ours = contacts(to_batch(structures)).n_fragments.view(-1).tolist()
    assert ours == [1, 1, 2, 1, 1, 2, 5, 3]
    assert ours == [fragments_by_ase(atoms) for atoms in structures]


@pytest.mark.parametrize(("factor", "n"), [(1 - 1e-9, 1), (1 + 1e-9, 2)])
def test_a_bond_is_up_to_its_limit_long(factor: float, n: int) -> None:
    # The pair that is not the shortest of its system.
    length = BOND_RATIO * 2 * covalent_radii[29] * factor
    atoms = Atoms("Cu3", [[0, 0, 0], [2.2, 0, 0], [2.2 + length, 0, 0]])
    assert int(contacts(to_batch([atoms])).n_fragments) == n
