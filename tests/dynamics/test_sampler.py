"""Samplers hand out each structure once and keep within limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import Structures

from campaign.dynamics.sampler import BatchSampler, Sampler, SizeAwareSampler
from campaign.errors import ArgumentError, OperandError, SamplerError
from campaign.testing.harmonic import random_cloud

CPU = torch.device("cpu")


def test_first_batch_mixes_sizes() -> None:
    sampler = SizeAwareSampler(Structures([1, 1, 1, 5, 5, 9]), max_batch_size=5)
    batch = sampler.build_initial_batch()
    assert batch.num_nodes_list == [1, 5, 9, 1, 5]
    assert batch["status"].view(-1).tolist() == [0] * 5
    assert batch["system_id"].view(-1).tolist() == [0, 1, 2, 3, 4]
    assert len(sampler) == 1
    assert list(sampler) == [2]


def test_first_batch_keeps_within_atoms() -> None:
    sampler = SizeAwareSampler(Structures([4, 4, 7, 7]), max_atoms=12)
    assert sampler.build_initial_batch().num_nodes_list == [4, 7]
    assert not sampler.exhausted


def test_replacement_is_the_largest_that_fits() -> None:
    sampler = SizeAwareSampler(Structures([2, 8, 5, 5]), max_batch_size=9)
    first = sampler.request_replacement(7, 0)
    assert first is not None
    assert first.num_nodes == 5
    assert first.system_id.tolist() == [[0]]
    assert sampler.request_replacement(1, 0) is None
    assert len(sampler) == 3


def test_replacement_within_a_wide_bin_fits_too() -> None:
    sampler = SizeAwareSampler(Structures([7, 5]), max_batch_size=9, bin_width=10)
    found = sampler.request_replacement(6, 0)
    assert found is not None
    assert found.num_nodes == 5


def test_replacements_for_places() -> None:
    sampler = SizeAwareSampler(Structures([3, 9, 4]), max_batch_size=9)
    found = sampler.request_replacements(torch.tensor([4, 2, 9]), torch.tensor([0, 0, 0]))
    assert [None if data is None else data.num_nodes for data in found] == [3, None, 9]
    assert [data.num_nodes for data in sampler.request_replacements_budget(atom_budget=100)] == [4]
    assert sampler.exhausted


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 30), st.integers(1, 6), st.integers(1, 4))
def test_budget(sizes: list[int], atoms: int, count: int, bin_width: int) -> None:
    sampler = SizeAwareSampler(Structures(sizes), max_batch_size=99, bin_width=bin_width)
    left = sorted(sizes)
    while True:
        found = [data.num_nodes for data in sampler.request_replacements_budget(atom_budget=atoms, max_count=count)]
        assert len(found) <= count
        assert sum(found) <= atoms
        for size in found:
            left.remove(size)
        # Whatever is left did not fit beside what was found.
        assert len(found) == count or all(size > atoms - sum(found) for size in left)
        if not found:
            break
    assert sorted(sizes[index] for index in sampler) == left
    assert all(size > atoms for size in left)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 25)), max_size=40))
def test_batch_sampler_keeps_order_and_limits(sizes: list[int], asks: list[tuple[int, int]]) -> None:
    sampler = BatchSampler(random_cloud(sizes))
    seen: list[int] = []
    for max_systems, max_atoms in asks:
        batch = sampler.next_batch(max_systems, max_atoms, CPU)
        if batch is None:
            assert sampler.exhausted or sizes[len(seen)] > max_atoms
            continue
        seen += batch["system_id"].view(-1).tolist()
        assert batch.num_graphs <= max_systems
        assert batch.num_nodes <= max_atoms
        full = batch.num_graphs == max_systems or len(seen) == len(sizes) or batch.num_nodes + sizes[len(seen)] > max_atoms
        assert full, "there was room for the next one"
    assert seen == list(range(len(seen)))
    assert sampler.exhausted == (len(seen) == len(sizes))


def test_both_are_samplers_of_a_relaxation() -> None:
    sampler = SizeAwareSampler(Structures([2, 3, 1]), max_batch_size=9)
    assert isinstance(sampler, Sampler)
    assert isinstance(BatchSampler(random_cloud([1])), Sampler)
    batch = sampler.next_batch(2, 4, CPU)
    assert batch is not None
    assert batch.num_nodes_list == [3, 1]
    assert sampler.next_batch(2, 1, CPU) is None


def test_ids_that_structures_bring_are_kept() -> None:
    class Numbered(Structures):
        def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
            data, more = super().__getitem__(index)
            data.add_system_property("system_id", torch.tensor([[100 + index]]))
            return data, more

    batch = SizeAwareSampler(Numbered([1, 2]), max_batch_size=9).build_initial_batch()
    assert batch["system_id"].view(-1).tolist() == [100, 101]


def test_shuffling_is_within_bins_and_repeatable() -> None:
    orders = [list(SizeAwareSampler(Structures([1] * 20 + [2] * 5), max_batch_size=1, shuffle=True, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:20]) == list(range(20))
    assert orders[0][:20] != list(range(20))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ArgumentError, "neither max_atoms nor max_batch_size is given"),
        ({"max_batch_size": 0}, ArgumentError, "max_batch_size is 0; it must be at least 1"),
        ({"max_atoms": 9, "bin_width": 0}, ArgumentError, "bin_width is 0; it must be at least 1"),
        ({"max_atoms": 9, "max_gpu_memory_fraction": 1.5}, ArgumentError, "max_gpu_memory_fraction is 1.5; it is above 0"),
        ({"max_atoms": 3}, SamplerError, "structure 1 has 4 atoms; max_atoms allows 3, so it fits no batch"),
    ],
)
def test_arguments_are_checked(options: dict[str, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SizeAwareSampler(Structures([2, 4]), **options)  # type: ignore[arg-type]


def test_datasets_are_checked_and_an_empty_first_batch_is_told() -> None:
    with pytest.raises(OperandError, match="the dataset, a list, has no get_metadata"):
        SizeAwareSampler([1, 2], max_atoms=3)  # type: ignore[arg-type]
    sampler = SizeAwareSampler(Structures([2]), max_batch_size=1)
    sampler.build_initial_batch()
    with pytest.raises(SamplerError, match="no first batch: 0 structures are left"):
        sampler.build_initial_batch()
