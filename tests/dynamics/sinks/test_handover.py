"""The handover from the device: order, how much may be on its way, errors; and on a GPU, that the host waits for nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from campaign.dynamics.hooks import SnapshotHook
from campaign.dynamics.sinks import ZarrData
from campaign.dynamics.sinks.handover import DeviceHandover
from campaign.hooks import DynamicsContext
from campaign.testing.sink_contract import SinkContract, assert_same_systems, example_batch


class Receiver:
    """Notes what is delivered, once it may."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.numbers: list[float] = []
        self.error: Exception | None = None

    def __call__(self, n_atoms: Any, columns: Any) -> None:
        assert self.open.wait(60)
        if self.error is not None and len(self.numbers) == 2:
            raise self.error
        self.numbers.append(float(columns["energy"][0]))


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def handover(receiver: Receiver) -> Iterator[DeviceHandover]:
    handover = DeviceHandover(receiver)
    yield handover
    receiver.open.set()
    handover.close()


ONE = np.array([1])


def test_what_is_handed_on_is_what_was_there_in_order(handover: DeviceHandover, receiver: Receiver) -> None:
    energy = torch.zeros(1)
    for number in range(handover.MOST_IN_FLIGHT):
        energy.fill_(number)
        handover.put(ONE, {"energy": energy})
    assert receiver.numbers == []
    receiver.open.set()
    for number in range(handover.MOST_IN_FLIGHT, 50):
        energy.fill_(number)
        handover.put(ONE, {"energy": energy})
    energy.fill_(-1)
    handover.finish()
    assert receiver.numbers == list(range(50))


def test_too_much_on_its_way_is_waited_for_and_counted(handover: DeviceHandover, receiver: Receiver) -> None:
    energy = torch.zeros(1)
    for _ in range(handover.MOST_IN_FLIGHT):
        handover.put(ONE, {"energy": energy})
    before = handover.waited_s
    assert before < 0.2, "there was room"
    threading.Timer(0.3, receiver.open.set).start()
    handover.put(ONE, {"energy": energy})
    assert receiver.open.is_set(), "it did not wait"
    assert handover.waited_s - before > 0.2


def test_an_error_is_told_by_the_next_call_and_nothing_is_delivered_after_it(handover: DeviceHandover, receiver: Receiver) -> None:
    receiver.error = OSError("disk full")
    for number in range(4):
        handover.put(ONE, {"energy": torch.tensor([float(number)])})
    receiver.open.set()
    for call in (handover.finish, handover.finish, lambda: handover.put(ONE, {"energy": torch.zeros(1)})):
        with pytest.raises(OSError, match="disk full"):
            call()
    assert receiver.numbers == [0, 1], "the third failed, and the fourth would have left a hole"


class TestZarrDataBehindAHandover(SinkContract):
    # As from a CUDA device, with batches that lie in main memory.
    def create_sink(self, capacity: int, folder: Path) -> ZarrData:
        return _Handing({}, capacity)


class _Handing(ZarrData):
    def _prepare(self, rows: Any) -> None:
        super()._prepare(rows)
        assert self._writer is not None
        self._handover = self._handover or DeviceHandover(self._writer.append)


@pytest.mark.gpu
def test_from_a_gpu_the_host_waits_for_nothing(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; where it sees one, a snapshot is written there while the batch changes")
    batch = example_batch([60] * 128).to("cuda")
    wanted = batch.cpu()
    with ZarrData(tmp_path / "store.zarr") as sink:
        hook = SnapshotHook(sink)
        hook(DynamicsContext(batch=batch), hook.stage)
        for _ in range(3):
            # Long work before, so that the copies are not made yet when the values change on the host's side of the stream.
            work = torch.randn(4096, 4096, device="cuda")
            for _ in range(20):
                work = work @ work / work.norm()
            torch.cuda.set_sync_debug_mode("error")
            hook(DynamicsContext(batch=batch), hook.stage)
            batch["positions"].add_(1.0)
            torch.cuda.set_sync_debug_mode("default")
        written = sink.read()
    for number in range(4):
        snapshot = written.index_select(slice(128 * number, 128 * number + 128))
        assert torch.allclose(snapshot["positions"] - max(0, number - 1), wanted["positions"])
        assert_same_systems(snapshot, wanted, ignore=frozenset({"positions"}))
