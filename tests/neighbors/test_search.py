"""Every pair below the cutoff, each once, and nothing else: against lists that are not ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_pairs import assert_same_pairs, counted, images, of_system
from neighbor_structures import SKEWED, STRUCTURES

from campaign.data import AtomicData, Batch
from campaign.errors import NeighborListError
from campaign.neighbors import NeighborRows, search
from campaign.neighbors.all_pairs import find_pairs
from campaign.neighbors.cells import measure_cells
from campaign.neighbors.rows import create_rows
from campaign.neighbors.search import make_rows, roomy_width


def batch_of(*structures: Atoms, dtype: torch.dtype = torch.float64) -> Batch:
    return Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=dtype) for atoms in structures])


def rows_of(batch: Batch, cutoff: float, half: bool = False, width: int | None = None) -> NeighborRows:
    cells = measure_cells(batch.cell, batch.pbc, batch.num_graphs, cutoff, batch.device)
    return make_rows(batch.positions, batch.atom_segments, cells, batch.pbc, cutoff, half, width)


@pytest.fixture(params=["all pairs", "cell lists"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Send every system to one of the two searches, whatever its size."""
    monkeypatch.setattr(search, "LARGE_SYSTEM", 10**9 if request.param == "all pairs" else 1)
    return str(request.param)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("cutoff", [2.9, 5.3])
def test_pairs_are_those_of_trying_every_image(backend: str, name: str, cutoff: float) -> None:
    batch = batch_of(STRUCTURES[name])
    ours = of_system(rows_of(batch, cutoff), batch, 0)
    assert_same_pairs(ours, images(STRUCTURES[name], cutoff), STRUCTURES[name], cutoff)


# matscipy wants cells of full rank, and runs out of memory for a huge one.
@pytest.mark.parametrize("name", [name for name in STRUCTURES if "without" not in name and "huge" not in name])
def test_pairs_are_those_of_matscipy(backend: str, name: str) -> None:
    neighbour_list = pytest.importorskip("matscipy.neighbours").neighbour_list
    atoms = STRUCTURES[name]
    if atoms.cell.rank != 3:
        atoms = atoms.copy()
        atoms.set_cell([1.0, 1.0, 1.0])  # matscipy wants a cell also where nothing is periodic
    first, second, shifts = neighbour_list("ijS", atoms, 4.4)
    theirs = np.column_stack([first, second, shifts]).astype(int)
    batch = batch_of(atoms)
    assert_same_pairs(of_system(rows_of(batch, 4.4), batch, 0), theirs, atoms, 4.4)


@pytest.mark.parametrize("name", [name for name in STRUCTURES if all(STRUCTURES[name].pbc) or not any(STRUCTURES[name].pbc)])
def test_pairs_are_those_of_vesin(backend: str, name: str) -> None:
    vesin = pytest.importorskip("vesin")
    atoms = STRUCTURES[name]
    calculator = vesin.NeighborList(cutoff=4.4, full_list=True)
    first, second, shifts = calculator.compute(atoms.positions, np.array(atoms.cell), bool(atoms.pbc.all()), quantities="ijS")
    theirs = np.column_stack([first, second, shifts]).astype(int)
    batch = batch_of(atoms)
    assert_same_pairs(of_system(rows_of(batch, 4.4), batch, 0), theirs, atoms, 4.4)


def test_all_structures_in_one_batch_are_as_each_alone(backend: str) -> None:
    structures = list(STRUCTURES.values())
    batch = batch_of(*structures)
    rows = rows_of(batch, 4.4)
    for system, atoms in enumerate(structures):
        alone = batch_of(atoms)
        assert np.array_equal(of_system(rows, batch, system), of_system(rows_of(alone, 4.4), alone, 0)), list(STRUCTURES)[system]


def test_no_pair_across_systems() -> None:
    # Three systems at the same place: every atom of another would be within the cutoff.
    batch = batch_of(*[STRUCTURES["molecule"]] * 3)
    rows = rows_of(batch, 50.0)
    assert rows.counts.tolist() == [11] * 36
    used = rows.matrix < batch.num_nodes
    of_neighbor = batch.batch_idx[rows.matrix.clamp(max=batch.num_nodes - 1)]
    assert (of_neighbor == batch.batch_idx.unsqueeze(1))[used].all()


@pytest.mark.parametrize("name", STRUCTURES)
def test_rows_are_sorted_and_filled_to_their_end(backend: str, name: str) -> None:
    batch = batch_of(STRUCTURES[name], STRUCTURES["rattled bulk"])
    rows = rows_of(batch, 4.4)
    for i, n in enumerate(rows.counts.tolist()):
        entries = [(j, *shift) for j, shift in zip(rows.matrix[i, :n].tolist(), rows.shifts[i, :n].tolist(), strict=True)]
        assert entries == sorted(set(entries))
        assert (rows.matrix[i, n:] == batch.num_nodes).all()
        assert (rows.shifts[i, n:] == 0).all()


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_half_list_has_each_pair_from_one_side(backend: str, name: str) -> None:
    batch = batch_of(STRUCTURES[name])
    full, half = of_system(rows_of(batch, 4.4), batch, 0), of_system(rows_of(batch, 4.4, half=True), batch, 0)
    mirrored = np.column_stack([half[:, 1], half[:, 0], -half[:, 2:]])
    assert counted(half) + counted(mirrored) == counted(full)
    assert (half[:, 0] <= half[:, 1]).all()


def test_both_searches_give_the_same_rows_for_a_large_crystal(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = bulk("Cu", cubic=True) * (8, 8, 8)
    atoms.rattle(0.15, seed=7)
    atoms.positions += np.random.default_rng(1).integers(-3, 4, size=(len(atoms), 3)) @ atoms.cell.array
    batch = batch_of(STRUCTURES["skewed"], atoms, STRUCTURES["molecule"])
    assert len(atoms) >= search.LARGE_SYSTEM
    by_cells = rows_of(batch, 5.0)
    monkeypatch.setattr(search, "LARGE_SYSTEM", 10**9)
    by_pairs = rows_of(batch, 5.0)
    assert torch.equal(by_cells.counts, by_pairs.counts)
    assert torch.equal(by_cells.matrix, by_pairs.matrix)
    assert torch.equal(by_cells.shifts, by_pairs.shifts)


@pytest.mark.parametrize("half", [False, True])
def test_what_a_thread_does_changes_nothing(half: bool) -> None:
    """Atom by atom, as on a GPU, and system by system, as on CPU: also where atoms and cells are lost."""
    batch = batch_of(*STRUCTURES.values())
    ptr = batch.batch_ptr.tolist()
    batch.positions[ptr[3] + 1, 2] = float("nan")
    batch.positions[ptr[9] + 4, 0] = 1e30
    batch.cell[12] = float("nan")
    cells = measure_cells(batch.cell, batch.pbc, batch.num_graphs, 4.4, batch.device)
    wanted = torch.ones(batch.num_graphs, dtype=torch.bool)
    wanted[5] = False
    results = []
    for by_system in (False, True):
        rows = create_rows(batch.num_nodes, 700, True, batch.device)
        for tensor in (rows.matrix, rows.shifts, rows.counts):
            tensor.fill_(-7)
        find_pairs(batch.positions, batch.atom_segments, cells, wanted, 4.4, half, rows, by_system=by_system)
        assert rows.counts.max() < 700 and (rows.counts[ptr[5] : ptr[6]] == -7).all()
        results.append(rows)
    assert torch.equal(results[0].counts, results[1].counts)
    assert torch.equal(results[0].matrix, results[1].matrix)
    assert torch.equal(results[0].shifts, results[1].shifts)


@pytest.mark.parametrize("width", [0, 1, 5, 200])
def test_rows_grow_as_wide_as_needed(backend: str, width: int) -> None:
    batch = batch_of(STRUCTURES["rattled bulk"], STRUCTURES["one atom"])
    rows = rows_of(batch, 5.3, width=width)
    assert rows.width >= max(width, int(rows.counts.max()))
    assert_same_pairs(of_system(rows, batch, 0), images(STRUCTURES["rattled bulk"], 5.3), STRUCTURES["rattled bulk"], 5.3)


def test_empty_results_have_the_right_types() -> None:
    rows = rows_of(batch_of(STRUCTURES["one atom"], STRUCTURES["no neighbours"]), 4.0)
    assert rows.counts.tolist() == [0, 0, 0]
    assert (rows.matrix.dtype, rows.shifts.dtype, rows.counts.dtype) == (torch.int32,) * 3
    assert rows.all_shifts.shape == (3, rows.width, 3)


def test_float32_positions_are_searched_in_float64() -> None:
    atoms = STRUCTURES["huge box"]
    batch = batch_of(atoms, dtype=torch.float32)
    exact = atoms.copy()
    exact.positions = batch.positions.double().numpy()
    assert_same_pairs(of_system(rows_of(batch, 3.0), batch, 0), images(exact, 3.0), exact, 3.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.floats(0.5, 6.0))
def test_random_cells(seed: int, n_atoms: int, pbc: tuple[bool, bool, bool], cutoff: float) -> None:
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * rng.uniform(1.0, 5.0)
    if abs(np.linalg.det(cell)) < 0.5:
        cell += 3.0 * np.eye(3)
    atoms = Atoms(f"Ar{n_atoms}", positions=rng.normal(size=(n_atoms, 3)) * 8.0, cell=cell, pbc=pbc)
    batch = batch_of(atoms)
    assert_same_pairs(of_system(rows_of(batch, cutoff), batch, 0), images(atoms, cutoff), atoms, cutoff)


@pytest.mark.parametrize(
    ("cell", "pbc"),
    [
        # a periodic vector of length zero
        ([[0.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]], [True, True, True]),
        # three vectors in a plane
        ([[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0]], [True, True, True]),
        # two periodic vectors on a line
        ([[3.0, 0, 0], [6.0, 0, 0], [0, 0, 3.0]], [True, True, False]),
        # a cell that has collapsed
        ([[1e-4, 0, 0], [0, 1e-4, 0], [0, 0, 1e-4]], [True, True, True]),
    ],
)
def test_endless_lists_are_refused_and_the_system_named(cell: list[list[float]], pbc: list[bool]) -> None:
    batch = batch_of(STRUCTURES["molecule"], STRUCTURES["rattled bulk"])
    batch.cell[1], batch.pbc[1] = torch.tensor(cell), torch.tensor(pbc)
    with pytest.raises(
        NeighborListError, match=r"(?s)system 1 of the batch has the cell.*must not be zero.*Correct the structure"
    ) as caught:
        rows_of(batch, 4.0)
    assert caught.value.systems == (1,)


def test_rows_larger_than_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_ROW_BYTES", 1000)
    with pytest.raises(NeighborListError, match=r"(?s)neighbour rows of 32 atoms.*are allowed.*Put fewer atoms"):
        rows_of(batch_of(STRUCTURES["rattled bulk"]), 5.0)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_lost_atom_leaves_other_systems_alone_and_does_not_look_lonely(backend: str, poison: float) -> None:
    structures = [STRUCTURES["rattled bulk"], STRUCTURES["molecule"], STRUCTURES["skewed"], STRUCTURES["rattled slab"]]
    batch = batch_of(*structures)
    sound = rows_of(batch, 4.4)
    ptr = batch.batch_ptr.tolist()
    batch.positions[ptr[1] + 2, 1] = poison
    batch.positions[ptr[2] + 1, 0] = poison
    rows = rows_of(batch, 4.4)
    for system in (0, 3):
        assert np.array_equal(of_system(rows, batch, system), of_system(sound, batch, system))
    # A model that sums over the row of the lost atom, or over that of a mate, has to meet it.
    assert rows.counts[ptr[1] + 2] >= 1
    assert rows.counts[ptr[2] + 1] >= 1


def test_a_cell_of_nan_leaves_other_systems_alone() -> None:
    batch = batch_of(STRUCTURES["rattled bulk"], STRUCTURES["skewed"])
    sound = rows_of(batch, 4.4)
    batch.cell[1] = float("nan")
    rows = rows_of(batch, 4.4)
    assert np.array_equal(of_system(rows, batch, 0), of_system(sound, batch, 0))
    assert rows.counts[int(batch.batch_ptr[1]) :].tolist() == [1] * 5


def test_skewed_cells_need_more_than_the_nearest_images() -> None:
    # The structure is only worth its name if it would fail a search among 27 cells.
    atoms = Atoms("Ar", cell=SKEWED, pbc=True)
    assert np.abs(images(atoms, 3.0)[:, 2:]).max() > 1


@given(st.integers(0, 10_000))
def test_a_roomy_width_is_wider_and_a_multiple_of_four(longest: int) -> None:
    width = roomy_width(longest)
    assert longest < width <= longest * 1.07 + 8
    assert width % 4 == 0
