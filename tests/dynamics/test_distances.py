"""The shortest distance over covalent radii against a plain search over images, for every kind of periodicity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_structures import to_batch

from campaign.data import Batch
from campaign.dynamics.distances import shortest_distance_ratio


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


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.booleans()] * 3), st.integers(1, 5), st.booleans())
def test_any_cell(seed: int, pbc: tuple[bool, bool, bool], n: int, drops_vectors: bool) -> None:
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.0, 6.0, 3)) + np.triu(rng.uniform(-6.0, 6.0, (3, 3)), 1)
    if drops_vectors:
        cell[~np.array(pbc)] = 0.0
    positions = rng.uniform(-1, 1, (n, 3)) @ np.where(cell.any(1)[:, None], cell, 3 * np.eye(3))
    atoms = Atoms(rng.choice([1, 6, 29, 79], n), positions, cell=cell, pbc=pbc)
    ours = float(shortest_distance_ratio(to_batch([atoms])))
    assert ours == pytest.approx(by_search(atoms, 8), rel=1e-12, nan_ok=True)


def test_many_at_once() -> None:
    copper = bulk("Cu", a=3.6)
    pair = Atoms("HO", [[0, 0, 0], [0, 0, 0.97]])
    spot = Atoms("Cu2", [[1.0, 1, 1], [1, 1, 1]])
    batch = to_batch([copper, pair, Atoms("Cu"), spot])
    expected = [3.6 / 2**0.5 / (2 * covalent_radii[29]), 0.97 / (covalent_radii[1] + covalent_radii[8]), float("nan"), 0.0]
    assert shortest_distance_ratio(batch).view(-1).tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_has_no_ratio(value: float) -> None:
    batch = to_batch([bulk("Cu", cubic=True), bulk("Cu")])
    batch["positions"][1, 1] = value
    assert torch.isnan(shortest_distance_ratio(batch)).view(-1).tolist() == [True, False]


def test_a_collapsed_cell_has_no_ratio_and_takes_no_time() -> None:
    batch = to_batch([Atoms("Cu2", [[0.0, 0, 0], [1, 1, 0]], cell=[3, 3, 3], pbc=True)])
    batch["cell"][0, 1] = torch.tensor([3.0, 1e-9, 0.0])
    assert torch.isnan(shortest_distance_ratio(batch)).all()


def test_without_cell_and_in_single_precision() -> None:
    batch = Batch.from_arrays([2], {"positions": torch.tensor([[0.0, 0, 0], [0, 0, 1.24]]), "atomic_numbers": torch.tensor([1, 1])}, {})
    assert shortest_distance_ratio(batch).dtype is torch.float32
    assert float(shortest_distance_ratio(batch)) == pytest.approx(2.0, rel=1e-6)
