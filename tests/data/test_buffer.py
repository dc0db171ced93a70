"""A batch of fixed room: put, defrag, trim and zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch import STRUCTURES, assert_holds, structure

from campaign.data import AtomicData, Batch
from campaign.errors import BatchError


@pytest.fixture
def source() -> Batch:
    return Batch.from_data_list(STRUCTURES)


def room(source: Batch, num_systems: int = 10, num_nodes: int = 50, num_edges: int = 50) -> Batch:
    return Batch.empty(num_systems=num_systems, num_nodes=num_nodes, num_edges=num_edges, template=source)


def all_of(batch: Batch) -> torch.Tensor:
    return torch.ones(batch.num_graphs, dtype=torch.bool)


def test_an_empty_batch_has_room_and_no_systems(source: Batch) -> None:
    buffer = room(source)
    assert (buffer.num_graphs, buffer.num_nodes, buffer.num_edges, buffer.system_capacity) == (0, 0, 0, 10)
    assert buffer.keys == source.keys
    assert buffer.positions.shape == (0, 3) and buffer.positions.dtype == torch.float32
    assert buffer.batch_ptr.tolist() == [0]


def test_without_a_template_there_are_positions_numbers_and_energy() -> None:
    buffer = Batch.empty(num_systems=2, num_nodes=4, num_edges=0)
    assert {"positions", "atomic_numbers"} <= buffer.keys["node"] and "energy" in buffer.keys["system"]
    buffer.put(
        Batch.from_data_list([AtomicData(positions=torch.ones(2, 3), atomic_numbers=torch.tensor([1, 1]), energy=torch.ones(1, 1))]),
        torch.tensor([True]),
    )
    assert buffer.num_nodes_list == [2]


def test_room_like_another_batch(source: Batch) -> None:
    nothing = Batch.empty_like(source)
    assert (nothing.num_graphs, nothing.system_capacity) == (0, 0) and nothing.keys == source.keys


def test_room_is_not_negative() -> None:
    with pytest.raises(BatchError, match=r"room for -1 per system.*none can be negative"):
        Batch.empty(num_systems=-1, num_nodes=0, num_edges=0)


def test_put_copies_the_masked_systems(source: Batch) -> None:
    buffer = room(source)
    copied = torch.zeros(5, dtype=torch.bool)
    occupied = torch.zeros(10, dtype=torch.bool)
    buffer.put(source, torch.tensor([True, False, True, False, False]), copied_mask=copied, dest_mask=occupied)
    assert_holds(buffer, [STRUCTURES[0], STRUCTURES[2]])
    assert copied.tolist() == [True, False, True, False, False]
    assert occupied.tolist() == [True, True, *[False] * 8]
    buffer.put(source, torch.tensor([False, False, False, True, True]), dest_mask=occupied)
    assert_holds(buffer, [STRUCTURES[n] for n in (0, 2, 3, 4)])
    assert int(occupied.sum()) == 4
    assert_holds(source, STRUCTURES)


def test_what_was_put_no_longer_hangs_on_its_source(source: Batch) -> None:
    buffer = room(source)
    buffer.put(source, all_of(source))
    source.positions += 1.0
    assert_holds(buffer, STRUCTURES)


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        ({"num_systems": 2}, 2),  # slots
        ({"num_nodes": 9}, 3),  # atoms: 3 + 1 + 5 fit, 2 more do not
        ({"num_edges": 5}, 3),  # edges: 4 + 1 + 0 fit, 6 more do not
        ({"num_nodes": 2}, 0),  # the first does not fit, and none overtakes it
    ],
)
def test_what_does_not_fit_stays_out(source: Batch, capacity: dict[str, int], expected: int) -> None:
    buffer = room(source, **capacity)
    copied = torch.ones(5, dtype=torch.bool)
    buffer.put(source, all_of(source), copied_mask=copied)
    assert buffer.num_graphs == int(copied.sum()) == expected
    if expected:
        assert_holds(buffer, STRUCTURES[:expected])


def test_occupied_slots_count(source: Batch) -> None:
    buffer = room(source, num_systems=4)
    occupied = torch.tensor([True, True, True, False])
    buffer.put(source, all_of(source), dest_mask=occupied)
    assert buffer.num_graphs == 1 and occupied.all()


def test_defrag_removes_what_was_put_elsewhere_and_keeps_the_room(source: Batch) -> None:
    buffer = room(source)
    buffer.put(source, torch.tensor([False, True, False, True, False]))
    assert source.defrag() is source
    assert_holds(source, [STRUCTURES[n] for n in (0, 2, 4)])
    assert source.system_capacity == 5
    source.put(buffer, all_of(buffer))
    assert_holds(source, [STRUCTURES[n] for n in (0, 2, 4, 1, 3)])


def test_defrag_of_everything(source: Batch) -> None:
    source.defrag(all_of(source))
    assert (source.num_graphs, source.system_capacity) == (0, 5)


def test_trim_returns_a_batch_without_room(source: Batch) -> None:
    buffer = room(source)
    buffer.put(source, torch.tensor([True, False, False, False, True]))
    rest = source.trim()
    assert rest is not None and rest.system_capacity == 3
    assert_holds(rest, STRUCTURES[1:4])
    assert_holds(source, STRUCTURES)
    assert source.trim(all_of(source)) is None
    packed = buffer.trim(torch.tensor([True, False]))
    assert packed is not None and packed.system_capacity == 1
    assert_holds(packed, [STRUCTURES[4]])


def test_zero_keeps_the_room(source: Batch) -> None:
    buffer = room(source)
    buffer.put(source, all_of(source))
    memory = buffer.positions.data_ptr()
    buffer.zero()
    assert (buffer.num_graphs, buffer.num_nodes, buffer.system_capacity) == (0, 0, 10)
    buffer.put(source, all_of(source))
    assert buffer.positions.data_ptr() == memory
    assert_holds(buffer, STRUCTURES)


def test_keys_of_a_buffer_can_be_set(source: Batch) -> None:
    buffer = room(source)
    buffer.put(source, all_of(source))
    buffer["fmax"] = torch.ones(5, 1)
    assert buffer.fmax.shape == (5, 1)
    source["fmax"] = torch.full((5, 1), 2.0)
    buffer.put(source, all_of(source))
    assert buffer.fmax.flatten().tolist() == [1.0] * 5 + [2.0] * 5


def test_a_clone_of_a_buffer_has_its_room(source: Batch) -> None:
    buffer = room(source)
    buffer.put(source, all_of(source))
    clone = buffer.clone()
    buffer.zero()
    assert clone.system_capacity == 10
    assert_holds(clone, STRUCTURES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda buffer, source: buffer.put(source, torch.ones(3, dtype=torch.bool)), r"mask has shape \(3,\); it must be \(5,\)"),
        (
            lambda buffer, source: buffer.put(source, all_of(source), dest_mask=torch.ones(3, dtype=torch.bool)),
            r"dest_mask has shape \(3,\); it must be \(10,\)",
        ),
        (lambda buffer, source: source.defrag(), r"nothing says which systems to remove.*Pass copied_mask"),
        (lambda buffer, source: source.trim(), r"nothing says which systems to remove"),
        (lambda buffer, source: source.trim(torch.ones(2, dtype=torch.bool)), r"copied_mask has shape \(2,\); it must be \(5,\)"),
        (lambda buffer, source: buffer.put(source.index_select([0], exclude_keys=["colour"]), torch.tensor([True])), r"no key 'colour'"),
    ],
)
def test_what_cannot_be_done(source: Batch, call: Any, message: str) -> None:
    buffer = room(source)
    with pytest.raises(BatchError, match=message):
        call(buffer, source)
    assert buffer.num_graphs == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_sequence_of_puts_and_defrags_is_that_on_a_list(data: st.DataObject) -> None:
    source = Batch.from_data_list(STRUCTURES)
    buffer, expected = room(source, 8, 30, 25), []
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=5, max_size=5)))
            copied = torch.zeros(5, dtype=torch.bool)
            buffer.put(source, mask, copied_mask=copied)
            expected += [STRUCTURES[n] for n in torch.nonzero(copied).flatten().tolist()]
            assert not (copied & ~mask).any()
        else:
            gone = data.draw(st.lists(st.booleans(), min_size=len(expected), max_size=len(expected)))
            buffer.defrag(torch.tensor(gone, dtype=torch.bool))
            expected = [one for one, left in zip(expected, gone, strict=True) if not left]
        assert buffer.system_capacity == 8
        assert_holds(buffer, expected)


def test_the_sources_own_structures_are_as_they_were() -> None:
    assert structure(3, 0, 4).chemical_hash == STRUCTURES[0].chemical_hash
