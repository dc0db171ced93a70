"""One-shot lists on a batch, as matrix and as edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule
from neighbor_pairs import counted, of_system
from neighbor_structures import STRUCTURES

from campaign.data import AtomicData, Batch
from campaign.errors import ContractError
from campaign.models.base import NeighborConfig, NeighborListFormat
from campaign.neighbors import VerletList, compute_neighbors, is_coo, write_rows


@pytest.fixture
def batch() -> Batch:
    names = ["molecule", "rattled bulk", "one atom", "pbc FTF"]
    return Batch.from_data_list([AtomicData.from_atoms(STRUCTURES[name], dtype=torch.float64) for name in names])


def test_matrix(batch: Batch) -> None:
    compute_neighbors(batch, cutoff=4.0)
    assert batch.neighbor_matrix.shape[0] == batch.num_neighbors.shape[0] == batch.num_nodes
    assert batch.neighbor_matrix_shifts.shape == (*batch.neighbor_matrix.shape, 3)
    assert {batch.neighbor_matrix.dtype, batch.neighbor_matrix_shifts.dtype, batch.num_neighbors.dtype} == {torch.int32}


def test_edges_are_the_entries_of_the_matrix_in_their_order(batch: Batch) -> None:
    kept = VerletList(4.0)
    kept.update(batch)
    compute_neighbors(batch, cutoff=4.0, format="coo")
    starts = batch.batch_ptr[:-1].tolist()
    ours = np.concatenate([of_system(kept.rows, batch, s) + np.array([start, start, 0, 0, 0]) for s, start in enumerate(starts)])
    assert np.array_equal(np.column_stack([batch.neighbor_list.numpy(), batch.neighbor_list_shifts.numpy()]), ours)
    assert batch.num_edges == len(ours)
    assert batch.num_edges_list == torch.bincount(batch.batch_idx[batch.neighbor_list[:, 0]], minlength=4).tolist()
    assert batch.neighbor_list.dtype == batch.neighbor_list_shifts.dtype == torch.int32
    assert torch.equal(batch.edge_ptr.diff(), kept.rows.counts)


def test_edges_of_one_system_count_from_its_own_first_atom(batch: Batch) -> None:
    compute_neighbors(batch, cutoff=4.0, format="coo")
    alone = Batch.from_data_list([batch.get_data(1)])
    compute_neighbors(alone, cutoff=4.0, format="coo")
    assert torch.equal(batch.get_data(1).neighbor_list, alone.neighbor_list)


def test_no_edges_have_the_right_types() -> None:
    batch = Batch.from_data_list([AtomicData.from_atoms(STRUCTURES["one atom"])])
    compute_neighbors(batch, cutoff=4.0, format="coo")
    assert batch.neighbor_list.shape == (0, 2) and batch.neighbor_list_shifts.shape == (0, 3)
    assert batch.neighbor_list.dtype == batch.neighbor_list_shifts.dtype == torch.int32
    assert batch.num_edges == 0


def test_a_batch_without_cells() -> None:
    atoms = molecule("H2O")
    batch = Batch.from_arrays([3], {"positions": atoms.positions}, {})
    compute_neighbors(batch, cutoff=2.0)
    assert batch.num_neighbors.tolist() == [2, 2, 2]
    assert not batch.neighbor_matrix_shifts.any()


def test_a_config_stands_for_the_rest(batch: Batch) -> None:
    compute_neighbors(batch, config=NeighborConfig(cutoff=4.0, format=NeighborListFormat.COO, half_list=True))
    half = counted(np.column_stack([batch.neighbor_list.numpy(), batch.neighbor_list_shifts.numpy()]))
    compute_neighbors(batch, cutoff=4.0, format=NeighborListFormat.COO)
    full = counted(np.column_stack([batch.neighbor_list.numpy(), batch.neighbor_list_shifts.numpy()]))
    assert 2 * half.total() == full.total() and half <= full


def test_what_is_not_possible_is_said() -> None:
    batch = Batch.from_arrays([1], {"positions": np.zeros((1, 3))}, {})
    with pytest.raises(ContractError, match=r"without a cutoff.*needs one.*Pass"):
        compute_neighbors(batch)
    with pytest.raises(ContractError, match=r"'dense' is no format.*'coo' and 'matrix' are.*Choose"):
        is_coo("dense")
    with pytest.raises(ContractError, match=r"no rows.*after its first update.*Call update"):
        write_rows(batch, None, coo=False)
