"""A batch behaves as the list of its structures would, without being one."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.data import AtomicData, Batch
from campaign.errors import BatchError, BatchIndexError, BatchKeyError
from campaign.fields import Level


def structure(n_atoms: int, seed: int, n_edges: int = 0) -> AtomicData:
    generator = torch.Generator().manual_seed(seed)
    data = AtomicData(
        positions=torch.rand(n_atoms, 3, generator=generator),
        atomic_numbers=torch.randint(1, 90, (n_atoms,), generator=generator),
        energy=torch.rand(1, 1, generator=generator),
        system_id=torch.tensor([[seed]]),
        neighbor_list=torch.randint(0, max(n_atoms, 1), (n_edges if n_atoms else 0, 2), generator=generator),
    )
    data.add_node_property("neighbor_matrix", torch.randint(0, n_atoms + 1, (n_atoms, 3), generator=generator))
    data.add_node_property("colour", torch.rand(n_atoms, 2, 2, generator=generator))
    data.add_system_property("flag", torch.tensor([seed % 2 == 0]))
    return data


def same(first: AtomicData, second: AtomicData) -> bool:
    a, b = first.to_dict(), second.to_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def assert_holds(batch: Batch, structures: list[AtomicData]) -> None:
    """The batch is consistent in itself and holds these structures in this order."""
    assert len(batch) == batch.num_graphs == batch.batch_size == len(structures)
    assert batch.num_nodes_list == [data.num_nodes for data in structures]
    assert batch.num_edges_list == [data.num_edges for data in structures]
    assert batch.num_nodes == sum(batch.num_nodes_list) and batch.num_edges == sum(batch.num_edges_list)
    assert batch.max_num_nodes == max(batch.num_nodes_list, default=0)
    assert batch.num_nodes_per_graph.tolist() == batch.num_nodes_list and batch.num_edges_per_graph.tolist() == batch.num_edges_list
    assert batch.batch_idx.tolist() == [n for n, data in enumerate(structures) for _ in range(data.num_nodes)]
    assert batch.batch_ptr.tolist() == [sum(batch.num_nodes_list[:n]) for n in range(len(structures) + 1)]
    assert batch.batch_idx.dtype == batch.batch_ptr.dtype == torch.int32
    for key, tensor in batch:
        assert tensor.shape[0] == batch.n_rows(batch.level_of(key)), key
    for ours, theirs in zip(batch.to_data_list(), structures, strict=True):
        assert same(ours, theirs)


STRUCTURES = [structure(3, 0, 4), structure(1, 1, 1), structure(5, 2, 0), structure(2, 3, 6), structure(4, 4, 3)]


@pytest.fixture
def batch() -> Batch:
    return Batch.from_data_list(STRUCTURES)


# Construction


def test_from_data_list_and_back(batch: Batch) -> None:
    assert_holds(batch, STRUCTURES)


def test_levels_are_declared(batch: Batch) -> None:
    assert batch.keys["node"] == {
        *("positions", "atomic_numbers", "atomic_masses", "velocities", "atom_categories", "neighbor_matrix", "colour")
    }
    assert batch.keys["edge"] == {"neighbor_list"}
    assert batch.keys["system"] == {"energy", "system_id", "flag"}
    assert batch.level_of("colour") is Level.ATOM


def test_levels_do_not_depend_on_shapes() -> None:
    """Three systems of one atom with one edge each: every tensor has three rows."""
    batch = Batch.from_data_list([structure(1, seed, 1) for seed in range(3)])
    assert batch.num_nodes == batch.num_edges == batch.num_graphs == 3
    assert batch.keys["system"] == {"energy", "system_id", "flag"}
    batch["forces"], batch["stress"], batch["mine"] = torch.zeros(3, 3), torch.zeros(3, 3, 3), torch.zeros(3)
    assert [batch.level_of(key) for key in ("forces", "stress", "mine")] == [Level.ATOM, Level.SYSTEM, Level.SYSTEM]


def test_a_list_of_nothing_is_refused() -> None:
    with pytest.raises(BatchError, match=r"empty list; it needs at least one.*Batch\.empty"):
        Batch.from_data_list([])


def test_different_properties_are_refused_and_named() -> None:
    other = structure(2, 9)
    other.forces = torch.zeros(2, 3)
    with pytest.raises(BatchError, match=r"structures 0 and 2 do not have the same properties: forces is in one.*exclude_keys"):
        Batch.from_data_list([STRUCTURES[0], STRUCTURES[1], other])
    assert "forces" not in Batch.from_data_list([STRUCTURES[0], other], exclude_keys=["forces"])


def test_structures_with_and_without_cells() -> None:
    crystal = structure(2, 9)
    crystal.cell, crystal.pbc = torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool)
    for structures in ([crystal, STRUCTURES[0]], [STRUCTURES[0], crystal]):
        batch = Batch.from_data_list(structures)
        assert sorted(batch.pbc.any(dim=1).tolist()) == [False, True]
        assert float(batch.cell.sum()) == 3.0


def test_undeclared_properties_need_a_level() -> None:
    data = AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.tensor([1]), mine=torch.zeros(1, 4))
    with pytest.raises(BatchError, match=r"nothing says whether 'mine' is per atom, edge or system.*field_levels, or exclude"):
        Batch.from_data_list([data])
    assert Batch.from_data_list([data], field_levels={"mine": "system"}).level_of("mine") is Level.SYSTEM
    assert Batch.from_data_list([data], field_levels={"mine": "node"}).level_of("mine") is Level.ATOM


def test_rows_of_different_shapes_are_refused() -> None:
    first, second = structure(2, 0), structure(2, 1)
    second.add_node_property("colour", torch.zeros(2, 9))
    with pytest.raises(BatchError, match=r"colour has rows of shapes \[\(2, 2\), \(9,\)\]; in one batch they are all alike"):
        Batch.from_data_list([first, second])


def test_from_arrays() -> None:
    n_atoms = np.array([2, 0, 3])
    positions = np.arange(15.0).reshape(5, 3)
    batch = Batch.from_arrays(
        n_atoms, {"positions": positions, "tags": np.arange(5)}, {"energy": np.ones((3, 1)), "mine": np.zeros((3, 2))}
    )
    assert batch.num_nodes_list == [2, 0, 3] and batch.positions.dtype == torch.float64
    assert batch.keys == {"node": {"positions", "tags"}, "edge": set(), "system": {"energy", "mine"}}
    batch.positions += 1.0
    assert positions[0, 0] == 0.0  # arrays are copied


def test_from_arrays_takes_tensors_and_casts() -> None:
    columns = {"positions": torch.zeros(2, 3, dtype=torch.float64), "atomic_numbers": torch.tensor([1, 2])}
    batch = Batch.from_arrays(torch.tensor([1, 1]), columns, {}, dtype=torch.float32)
    assert batch.positions.dtype == torch.float32 and batch.atomic_numbers.dtype == torch.int64


def test_from_arrays_reads_arrays_that_may_not_be_written() -> None:
    positions = np.zeros((1, 3))
    positions.flags.writeable = False
    assert Batch.from_arrays([1], {"positions": positions}, {}).num_nodes == 1


@pytest.mark.parametrize(
    ("atom", "system", "message"),
    [
        ({"positions": np.zeros((4, 3))}, {}, r"positions has shape \(4, 3\); it must be \(3 atoms, 3\)"),
        ({"positions": np.zeros((3, 2))}, {}, r"positions has shape \(3, 2\); it must be \(3 atoms, 3\)"),
        ({}, {"energy": np.zeros(2)}, r"energy has shape \(2,\); it must be \(2 systems, 1\)"),
        ({}, {"pbc": np.zeros((2, 3))}, r"pbc has dtype torch.float64; it must be bool"),
        ({"energy": np.zeros((3, 1))}, {}, r"energy is declared per system and was given per atom"),
        ({}, {"mine": np.zeros(3)}, r"mine has shape \(3,\); it must have 2 rows"),
    ],
)
def test_columns_that_do_not_fit_are_refused(atom: dict[str, Any], system: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message):
        Batch.from_arrays([2, 1], atom, system)


def test_counts_are_not_negative() -> None:
    with pytest.raises(BatchError, match=r"n_atoms is \[2, -1\]; it must be one number per system"):
        Batch.from_arrays([2, -1], {}, {})


# Keys


def test_reading_and_replacing(batch: Batch) -> None:
    forces = torch.ones(batch.num_nodes, 3)
    batch.forces = forces
    assert batch["forces"] is forces and batch.forces is forces and "forces" in batch
    batch["forces"] = 2 * forces
    assert float(batch.forces[0, 0]) == 2.0
    del batch["forces"]
    assert "forces" not in batch and not hasattr(batch, "forces")


def test_what_is_not_there(batch: Batch) -> None:
    with pytest.raises(BatchKeyError, match=r"^the batch has no key 'forces'; it has positions.*Set it first\.$") as caught:
        batch["forces"]
    assert isinstance(caught.value, KeyError)
    for action in (lambda: batch.level_of("forces"), lambda: batch.__delitem__("forces")):
        with pytest.raises(KeyError):
            action()
    with pytest.raises(AttributeError, match=r"no 'forces'; it has positions"):
        _ = batch.forces


def test_wrong_numbers_of_rows_are_refused(batch: Batch) -> None:
    with pytest.raises(BatchError, match=r"forces has shape \(4, 3\); a key per atom needs 15 rows.*add_key"):
        batch.forces = torch.zeros(4, 3)
    with pytest.raises(BatchError, match=r"mine has shape \(15,\); a key per system needs 5 rows"):
        batch["mine"] = torch.zeros(15)


def test_what_follows_from_the_systems_cannot_be_set(batch: Batch) -> None:
    with pytest.raises(BatchError, match=r"batch_idx of a batch follows from its systems"):
        batch.batch_idx = torch.zeros(15)


def test_what_is_no_tensor_is_an_ordinary_attribute(batch: Batch) -> None:
    batch.note = "kept aside"
    assert batch.note == "kept aside" and "note" not in batch


def test_add_key(batch: Batch) -> None:
    batch.add_key("per_atom", torch.zeros(15, 2))
    batch.add_key("listed", [torch.full((n, 1), float(n)) for n in batch.num_nodes_list], level="node")
    batch.add_key("scalar", [torch.tensor(float(n)) for n in range(5)], level="system")
    batch.add_key("row", [torch.ones(1, 3) for _ in range(5)], level="system")
    assert batch.level_of("per_atom") is Level.ATOM and batch.listed[:, 0].tolist() == [
        float(n) for n in batch.num_nodes_list for _ in range(n)
    ]
    assert batch.scalar.tolist() == [0, 1, 2, 3, 4] and batch.row.shape == (5, 3)
    batch.add_key("scalar", torch.ones(5), level=Level.SYSTEM, overwrite=True)
    assert batch.scalar.sum() == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("energy", torch.zeros(5, 1), "system"), r"has a key 'energy' already.*overwrite=True"),
        (("forces", torch.zeros(5, 3), "system"), r"forces is declared per atom; it was added per system"),
        (("mine", [torch.zeros(1)], "system"), r"mine was given for 1 systems; the batch has 5"),
        (("mine", torch.zeros(5), "row"), r"'row' is no level; levels are 'atom', 'node', 'edge', 'system'"),
    ],
)
def test_keys_that_cannot_be_added(batch: Batch, arguments: Any, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        batch.add_key(*arguments)


def test_edges_are_replaced_as_a_whole(batch: Batch) -> None:
    batch.add_key("bond", torch.zeros(batch.num_edges), level="edge")
    batch.replace_edges(np.array([2, 0, 0, 0, 0]), {"neighbor_list": torch.tensor([[0, 1], [1, 0]])})
    assert batch.num_edges_list == [2, 0, 0, 0, 0] and batch.keys["edge"] == {"neighbor_list"}
    assert batch.edge_ptr.tolist() == [0, 1, *[2] * 14]


# Systems


@pytest.mark.parametrize(
    "idx",
    [
        *([2], [4, 0, 0, -1], slice(1, 4), slice(None, None, -2), (1, 3), np.array([3, 1]), np.int64(2)),
        *(
            torch.tensor([0, 4]),
            torch.tensor([0, 4], dtype=torch.int32),
            torch.tensor(1),
            range(2, 5),
            np.array([True, False, True, True, False]),
        ),
        torch.tensor([False, True, True, False, False]),
        list(range(5)) * 3,
    ],
    ids=str,
)
def test_selecting(batch: Batch, idx: Any) -> None:
    positions = np.arange(5)[np.asarray(idx)] if not isinstance(idx, slice) else np.arange(5)[idx]
    assert_holds(batch.index_select(idx), [STRUCTURES[p] for p in np.atleast_1d(positions)])
    assert_holds(batch, STRUCTURES)


def test_brackets_select_too(batch: Batch) -> None:
    assert same(batch[1], STRUCTURES[1]) and same(batch[-1], STRUCTURES[4])
    assert_holds(batch[[3, 1]], [STRUCTURES[3], STRUCTURES[1]])


def test_a_selection_shares_nothing(batch: Batch) -> None:
    for idx in ([0, 1, 2, 3, 4], [0], [4, 2]):
        chosen = batch.index_select(idx)
        before = batch.positions.clone()
        chosen.positions += 1.0
        assert torch.equal(batch.positions, before)


def test_keys_can_be_left_out(batch: Batch) -> None:
    assert "neighbor_matrix" not in batch.index_select([1], exclude_keys={"neighbor_matrix"})


@pytest.mark.parametrize("idx", [[], slice(5, None), torch.zeros(5, dtype=torch.bool), np.zeros(0, dtype=int)], ids=str)
def test_selecting_nothing_is_an_error(batch: Batch, idx: Any) -> None:
    with pytest.raises(BatchIndexError, match=r"no system was named.*Test the mask"):
        batch.index_select(idx)


@pytest.mark.parametrize("idx", [5, -6, [0, 7], torch.tensor([-9])], ids=str)
def test_systems_that_are_not_there(batch: Batch, idx: Any) -> None:
    with pytest.raises(IndexError, match=r"system -?\d was named; the batch has systems 0 to 4"):
        batch.index_select(idx)


def test_what_is_no_index(batch: Batch) -> None:
    with pytest.raises(BatchIndexError, match=r"1\.5.* was given as an index; integers"):
        batch.index_select(torch.tensor([1.5]))
    with pytest.raises(BatchIndexError, match=r"was given as an index"):
        batch.index_select(["a"])  # type: ignore[list-item]
    with pytest.raises(BatchIndexError, match=r"a mask of 3 entries was given; the batch has 5 systems"):
        batch.index_select(torch.tensor([True, False, True]))
    with pytest.raises(IndexError):
        batch.get_data(5)


def test_appending(batch: Batch) -> None:
    other = Batch.from_data_list(STRUCTURES[:2])
    batch.append(other)
    assert_holds(batch, [*STRUCTURES, *STRUCTURES[:2]])
    assert_holds(other, STRUCTURES[:2])


def test_appending_structures(batch: Batch) -> None:
    batch.append_data([STRUCTURES[3]])
    assert_holds(batch, [*STRUCTURES, STRUCTURES[3]])


def test_appending_renews_what_is_known_of_the_atoms(batch: Batch) -> None:
    before, idx = batch.atom_segments, batch.batch_idx
    batch.append(batch.clone())
    assert batch.atom_segments is not before and len(batch.batch_idx) == 2 * len(idx)


def test_keys_that_one_side_lacks_are_zero_there(batch: Batch) -> None:
    other = Batch.from_data_list([STRUCTURES[0]])
    batch.forces = torch.ones(15, 3)
    other["fmax"] = torch.ones(1, 1)
    batch.append(other)
    assert batch.forces[:15].all() and not batch.forces[15:].any()
    assert batch.fmax.flatten().tolist() == [0, 0, 0, 0, 0, 1]


def test_neighbour_lists_of_only_a_part_are_dropped(batch: Batch) -> None:
    other = Batch.from_data_list([STRUCTURES[0]], exclude_keys=["neighbor_matrix", "neighbor_list"])
    batch.append(other)
    assert "neighbor_matrix" not in batch and "neighbor_list" not in batch


def test_neighbour_matrices_of_different_widths(batch: Batch) -> None:
    wide = structure(2, 8)
    wide.add_node_property("neighbor_matrix", torch.tensor([[1, 2, 2, 2, 2], [0, 1, 0, 1, 0]]))
    batch.append(Batch.from_data_list([wide]))
    assert batch.neighbor_matrix.shape == (17, 5)
    assert torch.equal(batch.get_data(5).neighbor_matrix, wide.neighbor_matrix)
    assert torch.equal(batch.get_data(0).neighbor_matrix[:, :3], STRUCTURES[0].neighbor_matrix)
    assert (batch.get_data(0).neighbor_matrix[:, 3:] == 3).all()


def test_what_cannot_be_appended(batch: Batch) -> None:
    with pytest.raises(BatchError, match=r"appended to itself.*clone"):
        batch.append(batch)
    other = Batch.from_data_list([STRUCTURES[0]])
    other["energy"] = other.energy.double()
    with pytest.raises(BatchError, match=r"energy has rows of shape \(1,\) and torch.float32 in one batch, \(1,\) and torch.float64"):
        batch.append(other)
    other = Batch.from_data_list([STRUCTURES[0]], exclude_keys=["flag"])
    other.add_key("flag", torch.zeros(3, dtype=torch.bool), level="node")
    with pytest.raises(BatchError, match=r"flag is per system in one batch and per atom in the other"):
        batch.append(other)
    assert_holds(batch, STRUCTURES)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sequence_of_operations_is_that_on_a_list(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=5))
    structures = [structure(n_atoms, seed, n_edges) for seed, (n_atoms, n_edges) in enumerate(sizes)]
    batch = Batch.from_data_list(structures)
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            idx = data.draw(st.lists(st.integers(0, len(structures) - 1), min_size=1, max_size=12))
            batch, structures = batch.index_select(idx), [structures[i] for i in idx]
        else:
            more = [structure(*data.draw(st.tuples(st.integers(0, 3), st.integers(100, 200), st.integers(0, 3)))) for _ in range(2)]
            batch.append(Batch.from_data_list(more))
            structures = structures + more
    assert_holds(batch, structures)


# Place


def test_clones_share_nothing_but_know_the_same_atoms(batch: Batch) -> None:
    clone = batch.clone()
    clone.positions += 1.0
    clone["mine"] = torch.zeros(5)
    assert_holds(batch, STRUCTURES)
    assert clone.atom_segments is batch.atom_segments and "mine" not in batch
    assert_holds(batch.cpu(), STRUCTURES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: none is there")
def test_to_a_device_and_back(batch: Batch) -> None:
    there = batch.to("cuda")
    assert {tensor.device.type for _, tensor in there} == {"cuda"} and there.batch_idx.device.type == "cuda"
    there = there.index_select(torch.tensor([4, 1], device="cuda"))
    there.append(batch.cuda())
    assert_holds(there.cpu(), [STRUCTURES[4], STRUCTURES[1], *STRUCTURES])


def test_contiguous(batch: Batch) -> None:
    batch["stress"] = torch.rand(3, 3, 5).permute(2, 0, 1)
    assert batch.contiguous().stress.is_contiguous()


def test_it_pickles(batch: Batch) -> None:
    assert_holds(pickle.loads(pickle.dumps(batch)), STRUCTURES)


def test_repr(batch: Batch) -> None:
    assert repr(batch) == "Batch(num_graphs=5, num_nodes=15, num_edges=14, device=cpu)"
