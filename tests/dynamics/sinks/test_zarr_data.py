"""ZarrData: the contract on disk, in memory and on S3; and what only a store on disk can get wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from ase.cluster import Icosahedron
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore

from campaign.data import AtomicData, Batch
from campaign.dynamics.hooks import SnapshotHook
from campaign.dynamics.relax import Relaxation, RelaxSettings
from campaign.dynamics.run_statistics import WAITING
from campaign.dynamics.sinks import HostMemory, ZarrData
from campaign.errors import ArgumentError, EmptySinkError, FieldError, ResourceError, StoreError, StoreExistsError
from campaign.fields import FIELDS, RESULT_FIELDS, Field, Level
from campaign.models.lennard_jones import LennardJonesModel
from campaign.store.reader import StoreReader
from campaign.store.writer import ShardWriter
from campaign.testing.sink_contract import SinkContract, assert_same_systems, example_batch, with_neighbor_matrix


class TestOnDisk(SinkContract):
    def create_sink(self, capacity: int, folder: Path) -> ZarrData:
        return ZarrData(folder / "a name with 'quotes', spaces & ünïcode.zarr", capacity)


class TestInMemory(SinkContract):
    def create_sink(self, capacity: int, folder: Path) -> ZarrData:
        return ZarrData(MemoryStore(), capacity)


class TestWithSmallChunks(SinkContract):
    # Chunks of three rows, so that every write crosses a few.
    def create_sink(self, capacity: int, folder: Path) -> ZarrData:
        return ZarrData(MemoryStore(), capacity, {"flush_s": 0.01, "system_chunk_rows": 3, "atom_chunk_rows": 3})


class TestOnS3(SinkContract):
    url: str

    @pytest.fixture(autouse=True)
    def bucket(self, s3_bucket: str, request: pytest.FixtureRequest) -> None:
        self.url = f"{s3_bucket}/{abs(hash(request.node.nodeid))}.zarr"

    def create_sink(self, capacity: int, folder: Path) -> ZarrData:
        return ZarrData(self.url, capacity)


# Opening again


def test_an_existing_store_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with ZarrData(path) as sink:
        sink.write(example_batch(dtype=torch.float32))
    again = ZarrData(path, capacity=5)
    assert (len(again), again.is_full) == (4, False)
    assert_same_systems(again.read(), example_batch(dtype=torch.float32))


def test_a_store_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with ZarrData(path) as first, ZarrData(path) as second:
        first.write(example_batch())
        with pytest.raises(StoreExistsError, match=r"cannot create a store at .*store.zarr: something is there"):
            second.write(example_batch(first_id=10))
        first.flush()
        assert len(second) == 4
        first.write(example_batch(first_id=10))
    assert len(ZarrData(path)) == 8


def test_others_see_what_was_flushed(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with ZarrData(path, config={"flush_s": 1000}) as sink:
        sink.write(example_batch())
        assert len(sink) == 4
        assert len(ZarrData(path)) == 0
        with pytest.raises(EmptySinkError):
            ZarrData(path).read()
        sink.flush()
        assert_same_systems(ZarrData(path).read(), example_batch())


def test_a_closed_sink_takes_nothing_more() -> None:
    sink = ZarrData({})
    sink.write(example_batch())
    sink.close()
    with pytest.raises(StoreError, match="closed"):
        sink.write(example_batch(first_id=10))
    assert_same_systems(sink.read(), example_batch())


def test_a_script_that_does_not_close_loses_nothing(tmp_path: Path) -> None:
    script = """
        import sys
        from campaign.dynamics.sinks import ZarrData
        from campaign.testing.sink_contract import example_batch
        sink = ZarrData(sys.argv[1], config={"flush_s": 1000})
        sink.write(example_batch())
    """
    path = tmp_path / "store.zarr"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert_same_systems(ZarrData(path).read(), example_batch())


# The store


def test_any_zarr_reader_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with ZarrData(path) as sink:
        sink.write(example_batch())
        sink.write(example_batch([5], 10))
    group = zarr.open_group(path, mode="r")
    assert group.attrs["num_samples"] == 5
    assert dict(group.attrs["fields"]["core"])["positions"] == "atom"  # type: ignore[index, arg-type, call-overload]
    assert dict(group.attrs["fields"]["custom"])["mine_per_system"] == "system"  # type: ignore[index, arg-type, call-overload]
    assert np.asarray(group["meta/atoms_ptr"]).tolist() == [0, 3, 4, 11, 13, 18]
    assert np.array_equal(np.asarray(group["core/positions"])[:13], example_batch()["positions"].numpy())


def test_only_the_fields_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    mine = Field("mine_per_atom", Level.ATOM, "float32", (2,), "", "mine")
    with ZarrData(path, fields=["positions", "system_id", mine], attributes={"model": "emt"}) as sink:
        assert StoreReader.open(path).n_systems == 0
        assert len(sink) == 0
        sink.write(with_neighbor_matrix(example_batch(), 2))
    reader = StoreReader.open(path)
    assert [field.name for field in reader.fields] == ["positions", "system_id", "mine_per_atom"]
    assert reader.attributes["model"] == "emt"
    assert_same_systems(ZarrData(path).read(), Batch.from_arrays([3, 1, 7, 2], *_columns("positions", "mine_per_atom")))
    with pytest.raises(StoreExistsError):
        ZarrData(path, fields=["positions"])


def _columns(*atom: str) -> tuple[dict[str, Any], dict[str, Any]]:
    batch = example_batch()
    return {name: batch[name] for name in atom}, {"system_id": batch["system_id"]}


def test_a_field_that_is_asked_for_must_be_there() -> None:
    with ZarrData({}, fields=RESULT_FIELDS) as sink:
        with pytest.raises(FieldError, match="'stress' is missing"):
            sink.write(example_batch())
        assert len(sink) == 0
    with pytest.raises(FieldError, match="field 'enregy' is not in the table"):
        ZarrData({}, fields=["enregy"])


def test_zero_creates_the_store_again_where_fields_are_given() -> None:
    place = MemoryStore()
    with ZarrData(place, fields=["positions", "system_id"]) as sink:
        sink.write(example_batch())
        sink.zero()
        assert StoreReader.open(place).n_systems == 0
        sink.write(example_batch([2], 7))
        assert sink.read().system_id.tolist() == [[7]]


def test_zero_leaves_alone_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="what is there is no store; it was left alone"):
        ZarrData(tmp_path).zero()
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_attributes_that_are_known_late() -> None:
    place = MemoryStore()
    with ZarrData(place, attributes={"model": "emt"}) as sink:
        with pytest.raises(StoreError, match="has no store yet, which the first write creates"):
            sink.annotate({"seconds": 1.5})
        sink.write(example_batch())
        sink.annotate({"seconds": 1.5})
    attributes = StoreReader.open(place).attributes
    assert (attributes["model"], attributes["seconds"]) == ("emt", 1.5)


def test_an_error_in_the_block_is_not_hidden_by_one_of_closing() -> None:
    class Failing(MemoryStore):
        async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
            if key.startswith("core/positions/c"):
                raise OSError(28, "no space left on device")
            await super().set(key, value, byte_range)

    with pytest.raises(KeyError, match="the real one") as caught, ZarrData(Failing()) as sink:
        sink.write(example_batch())
        raise KeyError("the real one")
    assert "closing the sink failed too" in caught.value.__notes__[0]
    assert "the disk is full" in caught.value.__notes__[0]
    with pytest.raises(ResourceError, match="the disk is full"), ZarrData(Failing()) as sink:
        sink.write(example_batch())


# What cannot be stored


@pytest.mark.parametrize(
    ("name", "tensor", "level", "words"),
    [
        ("mine/too", torch.zeros(2, 1), "system", "'mine/too' has a slash"),
        ("mine", torch.zeros(2, 1, dtype=torch.complex64), "system", r"'mine' is complex64\[1\] per system; a store holds bool"),
        ("mine", torch.zeros(2, 1, dtype=torch.bfloat16), "system", r"'mine' is bfloat16\[1\] per system"),
        ("energy", torch.zeros(2), "system", r"'energy' is float32\[\] per system; the table of fields declares float64\[1\] per system"),
        ("n_steps", torch.zeros(2, 1), "system", r"'n_steps' is float32\[1\] per system; the table .* int64\[1\] per system"),
        ("shifts", torch.zeros(1, 3), "edge", "'shifts' is per edge; a store holds fields per atom and per system"),
    ],
)
def test_keys_that_a_store_cannot_hold(name: str, tensor: torch.Tensor, level: str, words: str) -> None:
    batch = Batch.from_arrays([1, 1], {"positions": torch.zeros(2, 3)}, {})
    if level == "edge":
        batch.replace_edges(np.array([1, 0]), {})
    batch.add_key(name, tensor, level=level)
    place = MemoryStore()
    with ZarrData(place) as sink, pytest.raises(FieldError, match=words):
        sink.write(batch)
    assert not place._store_dict, "the store was created for nothing"


@pytest.mark.parametrize("place", ["http://example.org/store.zarr", "ftp://x/y"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(StoreError, match="begin with s3:// or gs://"):
        ZarrData(place)


def test_config_is_checked() -> None:
    with pytest.raises(ArgumentError, match="config of a ZarrData has 'flush'; it has flush_s, system_chunk_rows, atom_chunk_rows"):
        ZarrData({}, config={"flush": 1})


# Waiting


class _SlowStore(MemoryStore):
    """A store in memory whose chunks arrive when they are let in."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        while "/c/" in key and not self.gate.is_set():
            await asyncio.sleep(0.01)
        await super().set(key, value, byte_range)


def test_a_write_that_waits_for_the_disk_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = example_batch([8] * 8)
    n_bytes = sum(tensor.nbytes for _, tensor in batch)
    monkeypatch.setattr("campaign.store.writer.MAX_PENDING_BYTES", 3 * n_bytes)
    place = _SlowStore()
    place.gate.set()
    with ZarrData(place) as sink:
        sink.write(batch)
        assert sink.waited_s == 0.0, "there was room"
        sink.flush()
        place.gate.clear()
        timer = threading.Timer(0.5, place.gate.set)
        timer.start()
        for first_id in range(0, 80, 8):
            sink.write(example_batch([8] * 8, first_id))
        assert place.gate.is_set(), "it did not wait"
        assert sink.waited_s > 0.2
        timer.join()
        assert len(sink) == 88


def test_what_a_run_waited_for_its_sinks_is_in_its_statistics() -> None:
    class Waiting(HostMemory):
        waited_s = 0.0

        def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
            super().write(batch, mask)
            time.sleep(0.02)
            self.waited_s += 0.02

    atoms = Icosahedron("Ar", 2, 1.5)
    data = [AtomicData.from_atoms(atoms, dtype=torch.float64) for _ in range(3)]
    batch = Batch.from_data_list(data)
    batch["system_id"] = torch.arange(3).unsqueeze(1)

    class Once:
        exhausted = False

        def next_batch(self, max_systems: int, max_atoms: int, device: torch.device) -> Batch | None:
            self.exhausted = True
            return batch

    results, frames = Waiting(100), Waiting(10_000)
    settings = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=100)
    relaxation = Relaxation(LennardJonesModel(rc=4.0, smooth=True), settings, Once(), [results], [SnapshotHook(frames, frequency=5)])
    statistics = relaxation.run()
    assert results.waited_s > 0 and frames.waited_s > results.waited_s
    assert statistics.seconds[WAITING] == pytest.approx(results.waited_s + frames.waited_s)
    assert all(seconds >= 0 for seconds in statistics.seconds.values()), "it is counted once"


# Cost


def test_a_write_of_all_systems_is_copied_by_the_writer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = example_batch()
    seen = []

    def append(writer: ShardWriter, n_atoms: Any, columns: dict[str, Any]) -> None:
        seen.append({name: np.shares_memory(column, batch[name].numpy()) for name, column in columns.items()})

    monkeypatch.setattr(ShardWriter, "append", append)
    sink = ZarrData({})
    sink.write(batch)
    sink.write(batch, mask=torch.ones(4, dtype=torch.bool))
    assert len(seen) == 2 and all(shared for columns in seen for shared in columns.values()), seen
    sink.close()


class _CountingStore(MemoryStore):
    """A store in memory that counts the bytes that go in and the values that are asked for."""

    n_bytes = 0
    n_gets = 0

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        self.n_bytes += len(value)
        await super().set(key, value, byte_range)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        self.n_gets += 1
        return await super().get(key, prototype, byte_range)


def test_a_write_does_not_depend_on_what_is_stored() -> None:
    place = _CountingStore()
    batch = example_batch([8] * 8)
    costs = []
    with ZarrData(place, config={"flush_s": 1000, "system_chunk_rows": 16, "atom_chunk_rows": 128}) as sink:
        sink.write(batch)
        sink.flush()
        n_gets = place.n_gets
        for _ in range(80):
            before = place.n_bytes
            sink.write(batch)
            sink.flush()
            costs.append(place.n_bytes - before)
        assert place.n_gets == n_gets, "something was read back"
    print(f"bytes per write of 8 systems: first {costs[:4]}, last {costs[-4:]}, most {max(costs[:32])} and {max(costs[-32:])}")
    # A write replaces the last file of each array, which is full after 32 writes; those of a later file are as dear as those of the first.
    assert max(costs[-32:]) < 1.05 * max(costs[:32])


def test_many_small_writes_make_few_files(tmp_path: Path) -> None:
    path = tmp_path / "store.zarr"
    with ZarrData(path) as sink:
        for first_id in range(0, 400, 4):
            sink.write(example_batch([40] * 4, first_id))
    n_files = sum(1 for file in path.rglob("*") if file.is_file())
    print(f"{n_files} files for 400 systems written 4 at a time")
    assert n_files < 60
    assert ZarrData(path).read().system_id.flatten().tolist() == list(range(400))


def test_fields_of_the_table_keep_their_declared_type() -> None:
    place = MemoryStore()
    with ZarrData(place) as sink:
        sink.write(example_batch(dtype=torch.float32))
    for field in StoreReader.open(place).fields:
        if field.name in FIELDS:
            assert field == FIELDS[field.name]
