"""What only a GPU can show: bits and bounds against the CPU, that torch sees no step wait, and memory that runs out. Without one all skip.

Everything here has its twin for a CPU: `test_waits.py`, `test_memory.py`, `test_model_errors.py`, `test_one_by_one.py`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from relax_structures import assert_same_bits, lj_clusters, one_of_each, to_batch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.memory import CudaMeter, MemoryLearner
from campaign.dynamics.model_errors import Fault, fault_of
from campaign.dynamics.sampler import BatchSampler
from campaign.models.base import BaseModelMixin
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.models.morse import MorseModel
from campaign.models.one_by_one import make_deterministic
from campaign.models.registry import create_model
from campaign.outcomes import Outcome
from campaign.testing.model_contract import batch_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device; run on a machine with one"),
]

GPU = torch.device("cuda", 0)

CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "lj fire": (LennardJonesModel, lambda: lj_clusters([13, 7, 2, 38, 5]), {}),
    "lj lbfgs": (LennardJonesModel, lambda: lj_clusters([13, 7, 2, 38, 5]), {"optimizer": "lbfgs"}),
    "morse fire2": (lambda **at: MorseModel(r0=1.1, **at), lambda: lj_clusters([13, 7, 2, 38]), {"optimizer": "fire2"}),
    "emt fire": (EMTModel, one_of_each, {}),
    "emt cells": (EMTModel, one_of_each, {"cell": "full"}),
    "emt isotropic": (EMTModel, one_of_each, {"cell": "isotropic", "optimizer": "fire2"}),
    "emt fixed volume": (EMTModel, one_of_each, {"cell": "fixed_volume", "optimizer": "lbfgs"}),
}
EVERY_CASE = pytest.mark.parametrize("name", CASES)


def relaxed(
    model: BaseModelMixin, structures: list[Atoms], device: torch.device, max_systems: int = 64, **settings: Any
) -> list[dict[str, Tensor]]:
    relaxation, sink = relaxation_on(model, to_batch(structures), device, max_systems, **settings)
    relaxation.run()
    batch = sink.read()
    order = np.argsort(batch["system_id"].view(-1).numpy(), kind="stable")
    return [dict(iter(batch.index_select([row]))) for row in order]


def relaxation_on(
    model: BaseModelMixin, batch: Batch, device: torch.device, max_systems: int, **settings: Any
) -> tuple[Relaxation, HostMemory]:
    sink = HostMemory(capacity=10_000)
    how = RelaxSettings(**{"fmax_ev_per_ang": 0.01, "max_steps": 300, **settings})
    return Relaxation(model, how, BatchSampler(batch), [sink], (), max_systems, device=device), sink


@EVERY_CASE
def test_it_ends_where_the_cpu_does(name: str) -> None:
    make, structures, settings = CASES[name]
    there, here = (relaxed(make(device=device), structures(), device, **settings) for device in (GPU, torch.device("cpu")))
    for own, other in zip(there, here, strict=True):
        assert int(own["outcome"]) == int(other["outcome"])
        # Sums in another order; what differs by rounding may take a few steps more and end at another point of the same flat minimum.
        assert abs(int(own["n_steps"]) - int(other["n_steps"])) <= 5
        torch.testing.assert_close(own["energy"], other["energy"], atol=1e-4, rtol=0)


@EVERY_CASE
def test_a_structure_has_the_same_bits_alone_and_among_others(name: str) -> None:
    make, structures, settings = CASES[name]
    model = make(device=GPU)
    together = relaxed(model, structures(), GPU, **settings)
    refilled = relaxed(model, structures(), GPU, max_systems=2, refill_every=7, **settings)
    for own, other in zip(refilled, together, strict=True):
        assert_same_bits(own, other)


@EVERY_CASE
def test_torch_sees_no_step_wait(name: str) -> None:
    make, structures, settings = CASES[name]
    relaxation, _ = relaxation_on(make(device=GPU), to_batch(structures()), GPU, 64, **settings)
    batch = relaxation._exchange(None)
    assert batch is not None
    relaxation._advance(batch)  # the first evaluation of a batch makes its neighbour lists, on the host's word
    relaxation._advance(batch)  # and kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            relaxation._advance(batch)
            relaxation.exits.counts()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(batch["n_steps"].max()) >= 20


def test_kernels_run_on_torchs_stream() -> None:
    model = EMTModel(device=GPU)
    batch = batch_for(model, one_of_each()[:2], device="cuda")
    positions = batch["positions"].clone()
    stream = torch.cuda.Stream(GPU)
    stream.wait_stream(torch.cuda.current_stream(GPU))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # a tenth of a second, in which a kernel on another stream would see the old positions
        batch["positions"].mul_(1.01)
        found = model(batch)["energy"]
    stream.synchronize()
    assert torch.equal(batch["positions"], positions * 1.01)
    assert torch.equal(found, model(batch)["energy"])


ASSERTING = """
import torch
from campaign.dynamics.model_errors import lost_device
try:
    torch.zeros(2, device="cuda")[torch.tensor([5], device="cuda")].tolist()
except Exception as error:
    lost = lost_device(error, 3)
    print(lost.by_kernel, lost)
"""


def test_an_assert_on_the_device_loses_it_by_a_kernel() -> None:
    run = subprocess.run([sys.executable, "-c", ASSERTING], capture_output=True, text=True, check=True)
    print(run.stdout)
    assert run.stdout.startswith("True the GPU is lost to this process since a call with 3 systems")


@pytest.mark.parametrize("name", ["demo", "sevennet"])
def test_deterministic_gives_the_bits(name: str) -> None:
    if name == "sevennet":
        pytest.importorskip("sevenn", reason="the package sevenn is not installed; pip install 'relax-campaign[sevennet]'")
    dtype = torch.float64 if name == "demo" else torch.float32
    model = make_deterministic(create_model(name, dtype, GPU), GPU)
    structures = [atoms for atoms in one_of_each() if atoms.pbc.all()]
    together = model(batch_for(model, structures, device="cuda"))
    for _ in range(3):
        alone = [model(batch_for(model, [atoms], device="cuda")) for atoms in structures]
        for key, value in together.items():
            assert torch.equal(torch.cat([part[key] for part in alone]), value), key


@pytest.fixture
def small_device() -> Iterator[int]:
    """Let this process have 200 MB more than it holds; return how many bytes that is."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(GPU)
    room = 200 * 2**20
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(GPU) + room) / total, GPU)
    yield room
    torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    torch.cuda.empty_cache()


class Hungry(LennardJonesModel):
    """Takes 100 kB an atom."""

    def forward(self, data: Batch) -> Any:
        torch.empty(100_000 * data.num_nodes, dtype=torch.uint8, device=data.device).fill_(1)
        return super().forward(data)


def test_the_meter_says_what_a_call_took_and_what_there_is(small_device: int) -> None:
    meter = CudaMeter(GPU)
    meter.start()
    torch.empty(50 * 2**20, dtype=torch.uint8, device=GPU)
    assert 50 * 2**20 <= meter.taken_bytes() < 60 * 2**20
    assert 0.9 * small_device <= meter.capacity_bytes() <= 1.1 * small_device


@pytest.mark.parametrize("measured", [True, False])
def test_work_that_does_not_fit_is_done_all_the_same(measured: bool, small_device: int) -> None:
    batch = to_batch(lj_clusters([4] * 3000))
    sink = HostMemory(capacity=10_000)
    memory = MemoryLearner(CudaMeter(GPU) if measured else None)
    model = Hungry(rc=4.0, device=GPU)
    relaxation = Relaxation(model, RelaxSettings(0.5, 300), BatchSampler(batch), [sink], (), 10_000, 10**6, GPU, memory=memory)
    relaxation.run()
    print(f"{small_device >> 20} MB, {relaxation.memory.n_failures} failures, most atoms {relaxation.memory.most_atoms}")
    assert relaxation.statistics.n_finished == {Outcome.CONVERGED: 3000}
    assert relaxation.memory.n_failures == 0 if measured else relaxation.memory.n_failures > 0


def test_what_torch_and_warp_raise_without_memory(small_device: int) -> None:
    import warp as wp

    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2 * small_device, dtype=torch.uint8, device=GPU)
    assert fault_of(caught.value) is Fault.MEMORY
    with pytest.raises(RuntimeError) as caught_by_warp:
        wp.empty((2**20, 2**20, 2**4), dtype=wp.float64, device=wp.device_from_torch(GPU))
    assert fault_of(caught_by_warp.value) is Fault.MEMORY
