from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaign.store.reader import StoreReader
from campaign.testing.real_campaign import create_campaign
from campaign.worker.claims import plan_blocks
from campaign.worker.claims.files import FileClaims
from campaign.worker.inputs import INPUT_NAMES, InputSampler


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> StoreReader:
    return StoreReader.open(create_campaign(tmp_path_factory.mktemp("inputs"), n=24).paths.inputs)


def sampler_of(
    inputs: StoreReader, folder: Path, order: np.ndarray, max_atoms: int, done: tuple[int, ...] = (), memory: int = 2**30
) -> InputSampler:
    done_mask = np.isin(np.arange(len(order)), done)
    claims = FileClaims(folder, plan_blocks(len(order), 1), 0)
    return InputSampler(inputs, order, done_mask, claims, max_atoms, memory)


def largest_first(inputs: StoreReader) -> np.ndarray:
    return np.argsort(-inputs.n_atoms(), kind="stable")


@pytest.mark.parametrize("memory", [2**30, 0])  # at once, and block by block
def test_all_rows_come_in_order_with_all_that_a_relaxation_needs(inputs: StoreReader, tmp_path: Path, memory: int) -> None:
    order = largest_first(inputs)
    sampler = sampler_of(inputs, tmp_path, order, max_atoms=40, memory=memory)
    ids, positions = [], []
    while (batch := sampler.next_batch(5, 40)) is not None:
        assert batch.num_graphs <= 5
        assert batch.num_nodes <= 40
        assert set(INPUT_NAMES) <= {key for key, _ in batch}
        ids += batch.system_id.flatten().tolist()
        positions.append(batch.positions)
    assert ids == order.tolist()
    assert torch.equal(torch.cat(positions), torch.from_numpy(inputs.read_atoms("positions", order)[1]))
    assert sampler.exhausted
    assert sampler.all_given
    assert sampler.n_given == len(order)
    assert sampler.n_claims == len(plan_blocks(len(order), 1))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(max_atoms=st.integers(1, 60), max_systems=st.integers(1, 9), free=st.lists(st.integers(0, 60), max_size=8))
def test_whatever_room_there_is_everything_is_given_once(
    inputs: StoreReader, tmp_path_factory: pytest.TempPathFactory, max_atoms: int, max_systems: int, free: list[int]
) -> None:
    """Room comes and goes; a batch never exceeds it, but for a system that is too large for any batch and comes alone."""
    order = largest_first(inputs)
    sampler = sampler_of(inputs, tmp_path_factory.mktemp("claims"), order, max_atoms)
    ids: list[int] = []
    for room in [*(min(room, max_atoms) for room in free), *[max_atoms] * len(order)]:
        batch = sampler.next_batch(max_systems, room)
        if batch is None:
            continue
        ids += batch.system_id.flatten().tolist()
        assert batch.num_nodes <= room or (batch.num_graphs == 1 and room == max_atoms)
    assert ids == order.tolist()


def test_what_earlier_attempts_did_is_passed_over(inputs: StoreReader, tmp_path: Path) -> None:
    order = largest_first(inputs)
    sampler = sampler_of(inputs, tmp_path, order, 10**6, done=(0, 3, 23))
    batch = sampler.next_batch(100, 10**6)
    assert batch is not None
    assert batch.system_id.flatten().tolist() == np.delete(order, [0, 3, 23]).tolist()
    assert sampler.next_batch(100, 10**6) is None


def test_a_large_system_waits_for_an_empty_batch_and_is_not_overtaken(inputs: StoreReader, tmp_path: Path) -> None:
    order = largest_first(inputs)
    sizes = inputs.n_atoms(order)
    assert sizes[0] == 13
    sampler = sampler_of(inputs, tmp_path, order, max_atoms=12)
    assert sampler.next_batch(5, 11) is None, "the batch is not empty"
    batch = sampler.next_batch(5, 12)
    assert batch is not None
    assert batch.num_nodes == 13
