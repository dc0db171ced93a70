"""A list with a skin is kept exactly as long as it cannot lack a pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_pairs import distances, images, of_system
from neighbor_structures import STRUCTURES

from campaign.data import AtomicData, Batch
from campaign.neighbors import VerletList
from campaign.neighbors.cells import measure_cells
from campaign.neighbors.skin import Reference, allowed_displacement, outgrown_systems, search_radius

CUTOFF, SKIN = 4.0, 0.8


def batch_of(*structures: Atoms, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=dtype) for atoms in structures])


def reference_of(batch: Batch) -> Reference:
    cells = measure_cells(batch.cell, batch.pbc, batch.num_graphs, search_radius(CUTOFF, SKIN, batch.positions.dtype), batch.device)
    return Reference(batch.positions.clone(), cells.vectors.clone(), cells.duals, batch.pbc.clone())


def outgrown(reference: Reference, batch: Batch, skin: float = SKIN) -> list[bool]:
    vectors = batch.cell.double().contiguous()
    return outgrown_systems(reference, batch.positions, vectors, batch.pbc, batch.atom_segments, CUTOFF, skin).tolist()


@pytest.fixture
def batch() -> Batch:
    return batch_of(STRUCTURES["molecule"], STRUCTURES["rattled bulk"], STRUCTURES["rattled slab"])


@pytest.mark.parametrize(
    ("step_ang", "expected"), [(0.0, False), (0.399, False), (0.401, True), (float("nan"), True), (float("inf"), True)]
)
def test_an_atom_may_move_half_the_skin(batch: Batch, step_ang: float, expected: bool) -> None:
    reference = reference_of(batch)
    atom = int(batch.batch_ptr[1]) + 3
    batch.positions[atom, 2] += step_ang
    assert outgrown(reference, batch) == [False, expected, False]


def test_without_a_skin_any_move_counts_and_none_does_not(batch: Batch) -> None:
    reference = reference_of(batch)
    assert outgrown(reference, batch, skin=0.0) == [False] * 3
    batch.positions[0, 0] += 1e-12
    assert outgrown(reference, batch, skin=0.0) == [True, False, False]


def test_a_cell_that_takes_its_atoms_along_costs_only_its_strain(batch: Batch) -> None:
    reference = reference_of(batch)
    strain = torch.eye(3, dtype=torch.float64) * 1.02
    # Atoms of the crystal move by more than an ångström, all along with the cell: |F - 1| = 0.02·√3 leaves most of the skin.
    start, stop = batch.batch_ptr[1:3].tolist()
    batch.cell[1] @= strain
    batch.positions[start:stop] @= strain
    assert allowed_displacement(CUTOFF, SKIN, 0.02 * 3**0.5) > 0
    assert outgrown(reference, batch) == [False] * 3
    # The same strain of the cell alone leaves them behind.
    batch.positions[start:stop] = reference.positions[start:stop]
    batch.positions[start:stop] += 0.0
    far = (reference.positions[start:stop] * 0.02).norm(dim=1).max() > allowed_displacement(CUTOFF, SKIN, 0.02 * 3**0.5)
    assert outgrown(reference, batch) == [False, bool(far), False]


def test_a_strain_larger_than_the_skin_always_counts(batch: Batch) -> None:
    reference = reference_of(batch)
    strain = torch.eye(3, dtype=torch.float64) * 0.8
    start, stop = batch.batch_ptr[1:3].tolist()
    batch.cell[1] @= strain
    batch.positions[start:stop] @= strain
    assert allowed_displacement(CUTOFF, SKIN, 0.2 * 3**0.5) < 0
    assert outgrown(reference, batch) == [False, True, False]


def test_vectors_that_are_not_periodic_may_do_as_they_like(batch: Batch) -> None:
    reference = reference_of(batch)
    batch.cell[0] = 7.0
    batch.cell[2, 2] *= 3.0
    assert outgrown(reference, batch) == [False] * 3


def test_an_atom_moved_by_a_lattice_vector_counts_however_short_that_is() -> None:
    batch = batch_of(STRUCTURES["tiny cell"])
    reference = reference_of(batch)
    batch.cell[0] /= 5.0
    small = reference_of(batch)
    assert float(batch.cell[0, 2].norm()) < SKIN / 2
    batch.positions[1] += batch.cell[0, 2]
    assert outgrown(small, batch) == [True]
    assert outgrown(reference, batch) == [True]


def test_another_periodicity_counts(batch: Batch) -> None:
    reference = reference_of(batch)
    batch.pbc[1, 0] = False
    assert outgrown(reference, batch) == [False, True, False]


def test_a_cell_of_nan_counts(batch: Batch) -> None:
    reference = reference_of(batch)
    batch.cell[2, 0, 1] = float("nan")
    assert outgrown(reference, batch) == [False, False, True]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.12), st.floats(0.0, 0.6))
def test_a_list_that_is_kept_lacks_nothing(seed: int, strain_size: float, step_ang: float) -> None:
    """Whatever strain and displacement: if the policy keeps the list, all pairs below the cutoff are on it."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = rng.random(3) < 0.7
    atoms.rattle(0.2, rng=rng)
    batch = batch_of(atoms)
    kept = VerletList(CUTOFF, SKIN)
    kept.update(batch)
    strain = rng.normal(size=(3, 3))
    deformation = np.eye(3) + strain_size * strain / np.linalg.norm(strain)
    step = rng.normal(size=(len(atoms), 3))
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ deformation)
    moved.positions = atoms.positions @ deformation + step_ang * step / np.linalg.norm(step, axis=1)[:, None]
    batch.cell[0], batch.positions[:] = torch.from_numpy(moved.cell.array), torch.from_numpy(moved.positions)
    kept.update(batch)
    listed = set(map(tuple, of_system(kept.rows, batch, 0).tolist()))
    needed = images(moved, CUTOFF)
    needed = needed[distances(needed, moved) < CUTOFF - 1e-9]
    assert set(map(tuple, needed.tolist())) <= listed
