"""The hook puts on the batch what its model asks for, and keeps it up to date."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from campaign.data import AtomicData, Batch
from campaign.errors import HookError, NeighborListError
from campaign.hooks import DynamicsStage, Hook, HookContext, NeighborListHook, WrapPeriodicHook
from campaign.models.base import NeighborConfig, NeighborListFormat
from campaign.neighbors import compute_neighbors

MATRIX = NeighborConfig(cutoff=4.0, format=NeighborListFormat.MATRIX, skin=0.6)
COO = NeighborConfig(cutoff=4.0, format=NeighborListFormat.COO)
STAGE = DynamicsStage.BEFORE_COMPUTE


@pytest.fixture
def batch() -> Batch:
    crystal = bulk("Cu", cubic=True) * (2, 2, 2)
    crystal.rattle(0.05, seed=0)
    data = [AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in (molecule("CH3OH"), crystal, molecule("H2O"))]
    for number, one in enumerate(data):
        one.add_system_property("system_id", torch.tensor([[number]]))
    return Batch.from_data_list(data)


def as_lists(batch: Batch) -> list[list[tuple[int, ...]]]:
    return [
        [(j, *shift) for j, shift in zip(row[:n].tolist(), shifts[:n].tolist(), strict=True)]
        for row, shifts, n in zip(batch.neighbor_matrix, batch.neighbor_matrix_shifts, batch.num_neighbors.tolist(), strict=True)
    ]


def test_it_is_a_hook_of_its_stage() -> None:
    assert isinstance(NeighborListHook(MATRIX), Hook)
    assert NeighborListHook(MATRIX).stage is STAGE
    assert NeighborListHook(MATRIX, stage=DynamicsStage.BEFORE_STEP).stage is DynamicsStage.BEFORE_STEP


def test_the_skin_is_the_configs_unless_given() -> None:
    assert NeighborListHook(MATRIX).skin == 0.6
    assert NeighborListHook(MATRIX, skin=0.0).skin == 0.0


@pytest.mark.parametrize("skin", [-0.1, float("nan")])
def test_a_skin_is_not_negative(skin: float) -> None:
    with pytest.raises(HookError, match=r"cutoff 4.0 and skin.*must be positive.*Correct"):
        NeighborListHook(MATRIX, skin=skin)


def test_matrix(batch: Batch) -> None:
    hook = NeighborListHook(MATRIX)
    hook(HookContext(batch=batch), STAGE)
    ours = as_lists(batch)
    compute_neighbors(batch, cutoff=4.6)
    assert ours == as_lists(batch)


def test_edges_are_replaced_as_atoms_move(batch: Batch) -> None:
    hook = NeighborListHook(COO)
    hook(HookContext(batch=batch), STAGE)
    before = batch.num_edges
    batch.positions[0, 2] += 20.0
    hook(HookContext(batch=batch), STAGE)
    assert batch.num_edges == before - 10
    assert batch.num_edges_list[0] == before_without_one(batch, 0)


def before_without_one(batch: Batch, system: int) -> int:
    n_atoms = batch.num_nodes_list[system] - 1
    return n_atoms * (n_atoms - 1)


def test_the_batch_keeps_its_tensors_while_nothing_moves(batch: Batch) -> None:
    hook = NeighborListHook(MATRIX)
    assert hook.update(batch)
    matrix = batch.neighbor_matrix
    batch.positions += 0.1
    assert not hook.update(batch)
    assert batch.neighbor_matrix is matrix


def test_width_grows(batch: Batch) -> None:
    hook = NeighborListHook(MATRIX, max_neighbors=8)
    hook.update(batch)
    width = batch.neighbor_matrix.shape[1]
    assert width >= int(batch.num_neighbors.max()) > 8
    batch.cell[1] *= 0.8
    start, stop = batch.batch_ptr[1:3].tolist()
    batch.positions[start:stop] *= 0.8
    hook.update(batch)
    assert batch.neighbor_matrix.shape[1] > width
    ours = as_lists(batch)
    compute_neighbors(batch, cutoff=4.6)
    assert ours == as_lists(batch)


@pytest.mark.parametrize("config", [MATRIX, COO])
def test_refill(batch: Batch, config: NeighborConfig) -> None:
    """A system leaves, another comes: as in the dynamics, with and without neighbour data in the batch that is cut."""
    hook = NeighborListHook(config, skin=0.6)
    hook.update(batch)
    rest = batch.index_select([0, 1])
    newcomer = batch.index_select([2], exclude_keys=hook_keys(batch))
    newcomer.system_id[0] = 77
    rest.append(newcomer)
    hook(HookContext(batch=rest), STAGE)
    if config is COO:
        assert rest.num_edges == batch.num_edges
    else:
        ours = as_lists(rest)
        compute_neighbors(rest, cutoff=4.6)
        assert ours == as_lists(rest)
    assert hook.neighbors.n_made == 3 + 1


def hook_keys(batch: Batch) -> set[str]:
    return {"neighbor_matrix", "num_neighbors", "neighbor_matrix_shifts", "neighbor_list", "neighbor_list_shifts"}


@pytest.mark.parametrize("config", [MATRIX, COO])
def test_wrapping_makes_lists_anew(batch: Batch, config: NeighborConfig) -> None:
    batch.positions[batch.batch_ptr[1] : batch.batch_ptr[2]] += batch.cell[1].sum(dim=0)
    hook = NeighborListHook(config, skin=0.6)
    hook.update(batch)
    distances = sorted_distances(batch)
    WrapPeriodicHook()(HookContext(batch=batch), DynamicsStage.AFTER_POST_UPDATE)
    assert not hook_keys(batch) & set(batch.to_dict())
    hook.update(batch)
    np.testing.assert_allclose(sorted_distances(batch), distances, atol=1e-9)
    assert hook.neighbors.n_made == 3 + 1


def sorted_distances(batch: Batch) -> np.ndarray:
    if "neighbor_list" in batch:
        first, second, shifts = batch.neighbor_list[:, 0], batch.neighbor_list[:, 1], batch.neighbor_list_shifts
    else:
        used = torch.arange(batch.neighbor_matrix.shape[1]) < batch.num_neighbors[:, None]
        first = torch.arange(batch.num_nodes).repeat_interleave(batch.num_neighbors)
        second, shifts = batch.neighbor_matrix[used], batch.neighbor_matrix_shifts[used]
    images = torch.einsum("ek,eki->ei", shifts.double(), batch.cell[batch.batch_idx[first]])
    return np.sort((batch.positions[second] + images - batch.positions[first]).norm(dim=1).numpy())


def test_an_endless_list_names_the_system(batch: Batch) -> None:
    hook = NeighborListHook(MATRIX)
    batch.cell[1] = 0.0
    with pytest.raises(NeighborListError) as caught:
        hook(HookContext(batch=batch), STAGE)
    assert caught.value.systems == (1,)


def test_without_a_batch_nothing_happens() -> None:
    NeighborListHook(MATRIX)(HookContext(batch=None), STAGE)


def test_half_list(batch: Batch) -> None:
    hook = NeighborListHook(NeighborConfig(cutoff=4.0, format=NeighborListFormat.MATRIX, half_list=True))
    hook.update(batch)
    n_half = int(batch.num_neighbors.sum())
    NeighborListHook(NeighborConfig(cutoff=4.0, format=NeighborListFormat.MATRIX)).update(batch)
    assert 2 * n_half == int(batch.num_neighbors.sum())
