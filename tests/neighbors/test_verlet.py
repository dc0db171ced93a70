"""Rows follow their systems, are made anew for those that need it, and say the same to the last bit as rows made from nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from neighbor_pairs import of_system
from neighbor_structures import STRUCTURES

from campaign.data import AtomicData, Batch
from campaign.errors import NeighborListError
from campaign.fields import NEIGHBOR_KEYS
from campaign.neighbors import VerletList

CUTOFF, SKIN = 4.0, 0.8
NAMES = ["molecule", "rattled bulk", "rattled slab", "skewed", "one atom", "tiny cell", "pbc FTF", "two atoms on one spot"]


def numbered(*structures: Atoms, first: int = 0) -> Batch:
    data = [AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures]
    for number, one in enumerate(data, first):
        one.add_system_property("system_id", torch.tensor([[number]]))
    return Batch.from_data_list(data)


@pytest.fixture
def batch() -> Batch:
    return numbered(*(STRUCTURES[name] for name in NAMES))


def move(batch: Batch, system: int, by_ang: float) -> None:
    batch.positions[int(batch.batch_ptr[system]), 0] += by_ang


def below_cutoff(kept: VerletList, batch: Batch, system: int) -> list[tuple[int, ...]]:
    """Pairs below the cutoff in the order of the rows, with the bits of their distances."""
    pairs = of_system(kept.rows, batch, system)
    data = batch.get_data(system)
    cell = np.zeros((3, 3)) if data.cell is None else data.cell[0].numpy()
    positions = data.positions.numpy()
    vectors = (positions[pairs[:, 1]] + pairs[:, 2:] @ cell) - positions[pairs[:, 0]]
    squared = (vectors**2).sum(axis=1)
    inside = squared < CUTOFF**2
    return [(*pair, bits) for pair, bits in zip(pairs[inside].tolist(), squared[inside].view(np.int64).tolist(), strict=True)]


def fresh(batch: Batch, skin: float = SKIN) -> VerletList:
    kept = VerletList(CUTOFF, skin)
    kept.update(batch)
    return kept


def test_nothing_is_made_while_nothing_moves(batch: Batch) -> None:
    kept = fresh(batch)
    rows = kept.rows
    assert kept.n_made == len(NAMES)
    assert not kept.update(batch)
    move(batch, 1, 0.3)
    assert not kept.update(batch)
    assert kept.rows is rows and kept.n_made == len(NAMES)


def test_only_the_system_that_moved_is_made(batch: Batch) -> None:
    kept = fresh(batch)
    move(batch, 2, 0.5)
    assert kept.update(batch)
    assert kept.n_made == len(NAMES) + 1
    # Its reference is renewed, so the next half skin counts from here.
    move(batch, 2, 0.3)
    assert not kept.update(batch)


@pytest.mark.parametrize("system", range(len(NAMES)))
def test_the_same_sequence_alone_among_strangers_old_and_fresh(batch: Batch, system: int) -> None:
    """What a model sums over, pair by pair and bit by bit, depends on the system alone."""
    kept = fresh(batch)
    batch.positions += 0.19 * torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, batch.positions.shape))
    kept.update(batch)
    old = below_cutoff(kept, batch, system)
    alone = batch.index_select([system])
    shuffled = batch.index_select(list(np.random.default_rng(1).permutation(len(NAMES))))
    place = int(torch.nonzero(shuffled.system_id[:, 0] == system))
    assert old == below_cutoff(fresh(batch), batch, system)
    assert old == below_cutoff(fresh(alone), alone, 0)
    assert old == below_cutoff(fresh(alone, skin=0.0), alone, 0)
    assert old == below_cutoff(fresh(shuffled), shuffled, place)


def test_systems_keep_their_rows_when_others_come_and_go(batch: Batch) -> None:
    kept = fresh(batch)
    batch.positions += 0.1
    remaining = batch.index_select([6, 1, 2, 0], exclude_keys=NEIGHBOR_KEYS)
    remaining.append(numbered(STRUCTURES["skewed slab"], STRUCTURES["left-handed"], first=100))
    assert kept.update(remaining)
    assert kept.n_made == len(NAMES) + 2
    for system in range(6):
        assert below_cutoff(kept, remaining, system) == below_cutoff(fresh(remaining), remaining, system)
    # Those that stayed have kept their old reference: 0.35 Å is within half the skin, 0.43 Å is not; for the new ones it is 0.26 Å.
    remaining.positions += 0.1
    assert not kept.update(remaining)
    remaining.positions += 0.05
    kept.update(remaining)
    assert kept.n_made == len(NAMES) + 2 + 4


def test_a_system_that_moved_while_others_left_is_made(batch: Batch) -> None:
    kept = fresh(batch)
    remaining = batch.index_select([2, 1])
    move(remaining, 0, 1.0)
    kept.update(remaining)
    assert kept.n_made == len(NAMES) + 1
    assert below_cutoff(kept, remaining, 0) == below_cutoff(fresh(remaining), remaining, 0)


def test_an_impostor_is_found_out(batch: Batch) -> None:
    """The same number and count of atoms on another structure: the geometry decides."""
    kept = fresh(batch)
    other = bulk("Cu", cubic=True) * (2, 2, 2)
    other.rattle(0.1, seed=99)
    impostors = numbered(STRUCTURES["molecule"], other)
    kept.update(impostors)
    assert kept.n_made == len(NAMES) + 1
    assert below_cutoff(kept, impostors, 1) == below_cutoff(fresh(impostors), impostors, 1)


def test_without_system_ids_a_change_of_membership_makes_all(batch: Batch) -> None:
    del batch["system_id"]
    kept = fresh(batch)
    kept.update(batch.index_select([0, 1]))
    assert kept.n_made == len(NAMES) + 2


@pytest.mark.parametrize("periodic_first", [True, False])
def test_shifts_come_and_go_with_periodic_systems(periodic_first: bool) -> None:
    both = numbered(molecule("CH4"), STRUCTURES["rattled bulk"])
    molecules = both.index_select([0])
    order = [both, molecules, both] if periodic_first else [molecules, both, molecules]
    kept = VerletList(CUTOFF, SKIN)
    for batch in order:
        kept.update(batch)
        for system in range(batch.num_graphs):
            assert below_cutoff(kept, batch, system) == below_cutoff(fresh(batch), batch, system)
        assert kept.rows.all_shifts.shape == (batch.num_nodes, kept.rows.width, 3)


def test_a_molecule_that_becomes_periodic(batch: Batch) -> None:
    molecules = numbered(molecule("CH4"))
    kept = fresh(molecules)
    molecules.cell[0] = 3.0 * torch.eye(3)
    molecules.pbc[0] = True
    kept.update(molecules)
    assert below_cutoff(kept, molecules, 0) == below_cutoff(fresh(molecules), molecules, 0)


def test_rows_grow_when_a_crystal_is_compressed(batch: Batch) -> None:
    batch = batch.index_select([0, 1, 2])
    kept = fresh(batch)
    width = kept.rows.width
    start, stop = batch.batch_ptr[1:3].tolist()
    batch.cell[1] *= 0.6
    batch.positions[start:stop] *= 0.6
    kept.update(batch)
    assert kept.rows.width > width
    assert kept.n_made == 3 + 1
    for system in range(3):
        assert below_cutoff(kept, batch, system) == below_cutoff(fresh(batch), batch, system)


def test_after_a_refusal_everything_is_made(batch: Batch) -> None:
    kept = fresh(batch)
    whole = batch.cell[1].clone()
    batch.cell[1] = 0.0
    with pytest.raises(NeighborListError):
        kept.update(batch)
    batch.cell[1] = whole
    assert kept.update(batch)
    for system in range(len(NAMES)):
        assert below_cutoff(kept, batch, system) == below_cutoff(fresh(batch), batch, system)


def test_another_precision_makes_all(batch: Batch) -> None:
    kept = fresh(batch)
    single = Batch.from_arrays(
        batch.num_nodes_list, {"positions": batch.positions}, {k: batch[k] for k in ("cell", "pbc", "system_id")}, dtype=torch.float32
    )
    kept.update(single)
    assert kept.n_made == 2 * len(NAMES)


def test_half_lists_follow_too(batch: Batch) -> None:
    kept = VerletList(CUTOFF, SKIN, half=True)
    kept.update(batch)
    remaining = batch.index_select([2, 1])
    move(remaining, 1, 1.0)
    kept.update(remaining)
    again = VerletList(CUTOFF, SKIN, half=True)
    again.update(remaining)
    for system in range(2):
        assert below_cutoff(kept, remaining, system) == below_cutoff(again, remaining, system)
