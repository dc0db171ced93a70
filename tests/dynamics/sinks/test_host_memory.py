"""HostMemory: the contract, and nothing else, since it is the model of all others."""

from __future__ import annotations

from pathlib import Path

from campaign.dynamics.sinks import HostMemory
from campaign.testing.sink_contract import SinkContract, example_batch, with_neighbor_matrix


class TestHostMemory(SinkContract):
    keeps_neighbor_matrix = True
    keeps_neighbor_list = True

    def create_sink(self, capacity: int, folder: Path) -> HostMemory:
        return HostMemory(capacity)


def test_neighbours_that_only_some_systems_have_are_dropped() -> None:
    # A batch in which some atoms seem to have no neighbours would be taken for complete.
    sink = HostMemory(10)
    sink.write(with_neighbor_matrix(example_batch([2]), 3))
    sink.write(example_batch([3], 5))
    assert "neighbor_matrix" not in sink.read()
