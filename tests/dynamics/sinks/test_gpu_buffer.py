"""GPUBuffer on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from campaign.dynamics.sinks import GPUBuffer
from campaign.errors import ArgumentError, MissingDeviceError, SinkFullError
from campaign.testing.sink_contract import SinkContract, assert_same_systems, example_batch


class TestGPUBufferOnCpu(SinkContract):
    keeps_neighbor_list = True

    def create_sink(self, capacity: int, folder: Path) -> GPUBuffer:
        return GPUBuffer(capacity, max_atoms=12, max_edges=12, device="cpu")


if torch.cuda.is_available():

    @pytest.mark.gpu
    class TestGPUBuffer(SinkContract):
        keeps_neighbor_list = True

        def create_sink(self, capacity: int, folder: Path) -> GPUBuffer:
            return GPUBuffer(capacity, max_atoms=12, max_edges=12)

        def test_lives_on_the_device(self) -> None:
            buffer = GPUBuffer(4, max_atoms=8, max_edges=0)
            buffer.write(example_batch())
            assert buffer.read().device.type == buffer.device.type == "cuda"

else:

    @pytest.mark.gpu
    def test_the_contract_on_a_gpu() -> None:
        pytest.skip("torch sees no CUDA device; where it sees one, the whole contract runs there")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_without_a_gpu_the_default_is_refused() -> None:
    with pytest.raises(MissingDeviceError, match=r"asked for on cuda, and torch sees 0 CUDA devices\. Run where .*device='cpu'"):
        GPUBuffer(4, max_atoms=8, max_edges=0)
    assert issubclass(MissingDeviceError, RuntimeError)


@pytest.mark.parametrize("device", ["meta", torch.device("mps")])
def test_other_devices_are_refused(device: torch.device | str) -> None:
    with pytest.raises(MissingDeviceError, match="lives on a CUDA device"):
        GPUBuffer(4, max_atoms=8, max_edges=0, device=device)


@pytest.mark.parametrize(("max_atoms", "max_edges"), [(0, 0), (3, -1)])
def test_sizes_are_counts(max_atoms: int, max_edges: int) -> None:
    with pytest.raises(ArgumentError, match=f"max_atoms={max_atoms} and max_edges={max_edges}"):
        GPUBuffer(4, max_atoms=max_atoms, max_edges=max_edges, device="cpu")


def test_a_system_with_too_many_atoms() -> None:
    buffer = GPUBuffer(4, max_atoms=6, max_edges=0, device="cpu")
    with pytest.raises(SinkFullError, match=r"a system of 7 atoms was written to a GPUBuffer with max_atoms=6; nothing was written"):
        buffer.write(example_batch())
    assert len(buffer) == 0
    # The large one is not selected, so it does not matter.
    buffer.write(example_batch(), mask=torch.tensor([True, True, False, True]))
    assert_same_systems(buffer.read(), example_batch().index_select([0, 1, 3]))


def test_a_system_with_too_many_edges() -> None:
    batch = example_batch([3])
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 0]])
    batch.replace_edges(np.array([4]), {"neighbor_list": pairs})
    with pytest.raises(SinkFullError, match=r"a system of 4 edges was written to a GPUBuffer with max_edges=3"):
        GPUBuffer(2, max_atoms=3, max_edges=3, device="cpu").write(batch)
    without_edges = GPUBuffer(2, max_atoms=3, max_edges=0, device="cpu")
    without_edges.write(batch)
    assert "neighbor_list" not in without_edges.read()


def test_memory_is_allocated_once() -> None:
    buffer = GPUBuffer(10, max_atoms=12, max_edges=0, device="cpu")
    buffer.write(example_batch())
    inner = buffer._buffer
    assert inner is not None
    place = inner["positions"].data_ptr()
    buffer.write(example_batch(first_id=10))
    buffer.zero()
    buffer.write(example_batch(first_id=20))
    assert buffer._buffer is inner
    assert inner["positions"].data_ptr() == place
    assert inner.system_capacity == 10
