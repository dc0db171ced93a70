"""A device that is far too small for the work: everything is relaxed, with the bits of a large one, and few calls fail."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from relax_structures import assert_same_bits, lj_clusters, relax, to_batch

from campaign.data import Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.memory import ALIKE, FIRST_ATOMS, SHARE, MemoryLearner
from campaign.dynamics.sampler import BatchSampler
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome

PER_ATOM, PER_PAIR, ALWAYS = 4000, 300, 10_000
"""Bytes that `Device` takes."""


class Device:
    """An allocator of fixed capacity, which is also a meter."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self.peak = 0
        self.asked: list[int] = []

    def allocate(self, n_bytes: int) -> None:
        self.asked.append(n_bytes)
        if n_bytes > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate it all")
        self.peak = max(self.peak, n_bytes)

    @property
    def n_refused(self) -> int:
        return sum(n_bytes > self.capacity for n_bytes in self.asked)

    def start(self) -> None:
        self.peak = 0

    def taken_bytes(self) -> int:
        return self.peak

    def capacity_bytes(self) -> int:
        return self.capacity


class Hungry(LennardJonesModel):
    """Takes memory by atoms and pairs."""

    def __init__(self, device: Device) -> None:
        super().__init__(rc=4.0)
        self.device_of = device

    def forward(self, data: Batch) -> Any:
        pairs = int(data["num_neighbors"].sum()) if "num_neighbors" in data else data.num_edges
        self.device_of.allocate(PER_ATOM * data.num_nodes + PER_PAIR * pairs + ALWAYS)
        return super().forward(data)


def work(n: int = 120) -> Batch:
    sizes = np.random.default_rng(3).integers(3, 6, n)
    return to_batch(lj_clusters([int(size) for size in sizes]))


def relax_on(batch: Batch, device: Device, meter: Device | None, optimizer: str = "fire", max_steps: int = 800) -> tuple[Batch, Relaxation]:
    sink = HostMemory(capacity=10_000)
    settings = RelaxSettings(0.5, max_steps, optimizer=optimizer)  # type: ignore[arg-type]
    relaxation = Relaxation(Hungry(device), settings, BatchSampler(batch), [sink], (), 10_000, 10**6, memory=MemoryLearner(meter))
    relaxation.run()
    result = sink.read()
    return result.index_select(np.argsort(result["system_id"].view(-1).numpy(), kind="stable")), relaxation


@pytest.mark.parametrize(("optimizer", "measured"), [("fire", True), ("fire", False), ("lbfgs", False)])
def test_a_fiftieth_of_the_memory_gives_the_same_bits(measured: bool, optimizer: str) -> None:
    batch = work()
    large = Device(2**62)
    clean, _ = relax_on(batch, large, None, optimizer)
    device = Device(max(large.asked) // 50)
    tight, relaxation = relax_on(batch, device, device if measured else None, optimizer)
    assert tight["system_id"].view(-1).tolist() == list(range(batch.num_graphs))
    assert {Outcome(int(code)) for code in tight["outcome"].view(-1)} == {Outcome.CONVERGED}
    for row in range(batch.num_graphs):
        assert_same_bits(dict(iter(clean.index_select([row]))), dict(iter(tight.index_select([row]))))
    print(f"{len(device.asked)} calls, {device.n_refused} refused; most atoms {relaxation.memory.most_atoms}")
    # Halving finds the size, with one failing call a halving; a meter starts below that, and knows what denser systems take.
    most = FIRST_ATOMS if measured else batch.num_nodes
    assert device.n_refused <= math.ceil(math.log2(most / relaxation.memory.most_atoms)) + 3
    statistics = relaxation.statistics
    assert statistics.n_admitted == statistics.n_left == batch.num_graphs
    assert len(relaxation.set_aside) == 0
    # It uses what there is, once it knows.
    assert max(n for n in device.asked if n <= device.capacity) > 0.4 * device.capacity


def test_those_set_aside_count_as_in_flight_and_come_back_after_a_stop() -> None:
    batch = work(60)
    clean, _ = relax_on(batch, Device(2**62), None)
    device = Device(20 * PER_ATOM * 3)
    sink = HostMemory(capacity=10_000)
    relaxation = Relaxation(Hungry(device), RelaxSettings(0.5, 800), BatchSampler(batch), [sink], (), 10_000, 10**6)
    seen = []

    def stop() -> bool:
        in_flight = 0 if relaxation.batch is None else relaxation.batch.num_graphs
        statistics = relaxation.statistics
        assert statistics.n_admitted == in_flight + len(relaxation.set_aside) + statistics.n_left
        seen.append(len(relaxation.set_aside))
        return len(seen) % 7 == 0

    while relaxation.statistics.n_left < batch.num_graphs:
        relaxation.run(stop)
    assert max(seen) > 20
    result = sink.read()
    for row, system_id in enumerate(result["system_id"].view(-1).tolist()):
        assert_same_bits(dict(iter(clean.index_select([system_id]))), dict(iter(result.index_select([row]))))


def test_a_system_that_never_fits_fails_and_others_learn_nothing_from_it() -> None:
    batch = to_batch(lj_clusters([7, 7, 55, 7, 7]))
    device = Device(200_000)
    result, relaxation = relax_on(batch, device, None)
    outcomes = [Outcome(int(code)) for code in result["outcome"].view(-1)]
    assert [outcome is Outcome.FAILED for outcome in outcomes] == [False, False, True, False, False]
    assert relaxation.memory.most_atoms > 10**6


def sized(n_atoms: int, n_systems: int = 2) -> Batch:
    return Batch.from_arrays([n_atoms // n_systems] * n_systems, {"positions": torch.zeros(n_atoms, 3)}, {})


def test_with_a_meter_it_starts_small_doubles_and_stops_below_what_there_is() -> None:
    device = Device(1_000_000)
    learner = MemoryLearner(device)
    tried = []
    for _ in range(12):
        batch = sized(learner.most_atoms // 2 * 2)
        tried.append(batch.num_nodes)
        learner.begin()
        learner.start(batch)
        device.allocate(100 * batch.num_nodes + 5000)
        learner.succeeded(batch)
        learner.end()
    print(tried)
    assert tried[0] == FIRST_ATOMS
    assert all(after <= 2 * before for before, after in pairwise(tried))
    assert device.n_refused == 0
    assert 0.95 * SHARE < (100 * tried[-1]) / 1e6 <= SHARE


def test_rates_cover_every_call_that_is_remembered() -> None:
    device = Device(2**62)
    learner = MemoryLearner(device)
    random = np.random.default_rng(1)
    calls = []
    for n_atoms in (400, 800, 600, 1000, 500):
        batch = sized(n_atoms)
        pairs = int(n_atoms * random.uniform(5, 60))
        batch["num_neighbors"] = torch.full((n_atoms,), pairs // n_atoms)
        pairs = int(batch["num_neighbors"].sum())
        learner.start(batch)
        taken = 4000 * n_atoms + 300 * pairs + int(random.uniform(0, 10_000))
        device.allocate(taken)
        learner.succeeded(batch)
        calls.append((n_atoms, pairs, taken))
    per_atom, per_pair = learner.per_atom_and_pair()
    assert per_atom == pytest.approx(4000, rel=0.05)
    assert per_pair == pytest.approx(300, rel=0.05)
    for n_atoms, pairs, taken in calls:
        assert n_atoms >= ALIKE * 1000
        assert per_atom * n_atoms + per_pair * pairs >= taken * (1 - 1e-12)


def test_without_a_meter_nothing_limits_until_something_fails() -> None:
    relaxed = relax(LennardJonesModel(rc=4.0), to_batch(lj_clusters([7, 9, 13])))
    assert relaxed.relaxation.memory.most_atoms > 10**9
    assert relaxed.relaxation.memory.n_failures == 0
