"""What a shard writer promises: all or nothing per append, durable when acknowledged, errors at the next call, one writer per shard."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.storage import LocalStore, MemoryStore

from campaign.errors import FieldError, ResourceError, StoreError, StoreExistsError
from campaign.fields import FIELDS, INPUT_FIELDS, RESULT_FIELDS, TRAJECTORY_FIELDS, Field, Group, Level
from campaign.store import Chunking, ShardWriter, StoreReader, write_store
from campaign.store import writer as writer_module
from campaign.store.durable import DurableStore
from campaign.testing.store_faults import FailingStore, kill_after
from campaign.testing.store_rows import made_up_columns, slice_columns
from campaign.testing.store_twin import TwinShard, compare_rows

ENERGY, POSITIONS = FIELDS["energy"], FIELDS["positions"]
SIZES = np.array([3, 0, 2, 7, 1, 4, 4, 2, 5], dtype=np.int64)


@pytest.fixture(params=["local", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path | MemoryStore:
    return tmp_path / "a 'quoted' ö.zarr" if request.param == "local" else MemoryStore()


def test_rows_come_back_as_they_were_given(target: Path | MemoryStore) -> None:
    twin = TwinShard(RESULT_FIELDS)
    with ShardWriter.create(target, RESULT_FIELDS, {"job": 7}, chunking=Chunking(4, 8)) as writer:
        for seed in range(5):
            columns = made_up_columns(RESULT_FIELDS, SIZES, seed)
            writer.append(SIZES, columns)
            twin.append(SIZES, columns)
            if seed % 2:
                writer.flush()
                twin.acknowledge()
                twin.check(StoreReader.open(target))
        assert writer.n_appended == 5 * len(SIZES)
    twin.acknowledge()
    reader = StoreReader.open(target)
    twin.check(reader)
    assert reader.attributes["job"] == 7


@pytest.mark.parametrize("fields", [RESULT_FIELDS, INPUT_FIELDS, TRAJECTORY_FIELDS], ids=["results", "inputs", "trajectory"])
def test_whole_store(target: Path | MemoryStore, fields: tuple[Field, ...]) -> None:
    twin = TwinShard(fields)
    columns = made_up_columns(fields, SIZES, 1)
    twin.append(SIZES, columns)
    write_store(target, fields, SIZES, columns, {"note": "Å"}, Chunking(4, 8))
    reader = StoreReader.open(target)
    compare_rows(reader, twin.rows)
    assert reader.attributes["note"] == "Å"
    assert reader.fields == tuple(sorted(fields, key=reader.fields.index))


def test_an_empty_store_has_one_pointer(target: Path | MemoryStore) -> None:
    write_store(target, INPUT_FIELDS, np.zeros(0, dtype=np.int64), made_up_columns(INPUT_FIELDS, SIZES[:0], 0))
    reader = StoreReader.open(target)
    assert reader.n_systems == 0
    assert reader.atoms_ptr.tolist() == [0]
    assert {name: values.shape for name, values in reader.read().items()} == {field.name: (0, *field.trailing) for field in INPUT_FIELDS}


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda columns: columns.pop("energy"), "'energy' is missing.*It takes exactly positions, energy.*Nothing was written"),
        (lambda columns: columns.update(surprise=np.zeros(2)), "'surprise' is unknown"),
        (lambda columns: columns.update(energy=np.zeros(2)), r"'energy' has shape \[2\]; \[2, 1\] is needed, one row per system"),
        (
            lambda columns: columns.update(positions=np.zeros((2, 3))),
            r"'positions' has shape \[2, 3\]; \[5, 3\] is needed, one row per atom",
        ),
        (lambda columns: columns.update(energy=np.zeros((2, 1), complex)), "'energy' has dtype complex128; float64 is needed"),
        (lambda columns: columns.update(energy=np.array([["a"], ["b"]])), "'energy' has dtype <U1"),
    ],
    ids=["missing", "unknown", "flat scalar", "too few atoms", "complex", "text"],
)
def test_a_column_that_does_not_fit_is_refused_and_nothing_written(
    target: Path | MemoryStore, change: Callable[[dict[str, Any]], None], seen: str
) -> None:
    with ShardWriter.create(target, [POSITIONS, ENERGY]) as writer:
        columns: dict[str, Any] = {"positions": np.zeros((5, 3)), "energy": np.zeros((2, 1))}
        writer.append(np.array([2, 3]), columns)
        change(columns)
        with pytest.raises(FieldError, match=seen):
            writer.append(np.array([2, 3]), columns)
    assert StoreReader.open(target).n_systems == 2


@pytest.mark.parametrize("n_atoms", [np.array([2.0]), np.array([-1]), np.array([[1]])], ids=["float", "negative", "two axes"])
def test_sizes_that_are_no_sizes_are_refused(n_atoms: np.ndarray[Any, Any]) -> None:
    with (
        ShardWriter.create(MemoryStore(), [ENERGY]) as writer,
        pytest.raises(FieldError, match=r"n_atoms is .* one count of 0 or more per system"),
    ):
        writer.append(n_atoms, {"energy": np.zeros((1, 1))})


def test_narrower_types_that_lose_nothing_are_taken(target: Path | MemoryStore) -> None:
    with ShardWriter.create(target, [ENERGY, FIELDS["n_steps"]]) as writer:
        writer.append(np.array([1], dtype=np.int32), {"energy": np.array([[0.5]], np.float32), "n_steps": np.array([[3]], np.int32)})
    values = StoreReader.open(target).read()
    assert values["energy"].dtype == np.float64 and values["energy"].item() == 0.5
    assert values["n_steps"].dtype == np.int64 and values["n_steps"].item() == 3


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ([Field("mine", Level.ATOM, "int64", (), "", "", Group.CORE)], "'mine' is not in the table"),
        ([Field("../mine", Level.ATOM, "int64", (), "", "")], "'../mine' of int64 cannot be stored: names are letters"),
        ([Field("mine", Level.ATOM, "complex128", (), "", "")], "'mine' of complex128 cannot be stored: .* values numbers or bool"),
        ([Field("mine", Level.EDGE, "int64", (), "", "")], "'mine' is per edge"),
        ([Field("energy", Level.SYSTEM, "float32", (1,), "eV", "")], "'energy' is not in the table"),
        ([ENERGY, ENERGY], "'energy' is named twice"),
    ],
)
def test_only_declared_fields_once(tmp_path: Path, fields: list[Field], seen: str) -> None:
    with pytest.raises(FieldError, match=seen):
        ShardWriter.create(tmp_path / "s", fields)
    assert not list(tmp_path.iterdir())


def test_a_callers_own_field_is_kept_beside_those_of_the_table(target: Path | MemoryStore) -> None:
    mine = Field("density", Level.ATOM, "float32", (2,), "", "")
    with ShardWriter.create(target, [ENERGY, mine]) as writer:
        writer.append(np.array([2]), {"energy": np.zeros((1, 1)), "density": np.arange(4, dtype=np.float32).reshape(2, 2)})
    reader = StoreReader.open(target)
    assert reader.read_atoms("density")[1].tolist() == [[0, 1], [2, 3]]
    assert [(field.name, field.level, field.dtype, field.trailing) for field in reader.fields][1] == ("density", "atom", "float32", (2,))


def test_the_layouts_own_attributes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"attribute 'num_samples'.*layout's own. Rename it"):
        ShardWriter.create(tmp_path / "s", [ENERGY], {"num_samples": 3})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("create", ["shard", "store"])
def test_what_is_there_is_never_opened_for_writing(target: Path | MemoryStore, create: str) -> None:
    with ShardWriter.create(target, [ENERGY]) as writer:
        writer.append(np.array([1]), {"energy": np.array([[-1.0]])})
    with pytest.raises(StoreExistsError, match=r"something is there.*created once; remove it or choose another"):
        if create == "shard":
            ShardWriter.create(target, [ENERGY])
        else:
            write_store(target, [ENERGY], np.array([1]), {"energy": np.array([[0.0]])})
    assert StoreReader.open(target).read_system("energy").tolist() == [[-1.0]]


def test_of_many_that_create_the_same_shard_one_succeeds(target: Path | MemoryStore) -> None:
    start = threading.Barrier(6)
    outcomes: list[str] = []

    def create() -> None:
        start.wait()
        try:
            ShardWriter.create(target, [ENERGY]).close()
            outcomes.append("created")
        except StoreExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["created", *["refused"] * 5]
    if isinstance(target, Path):
        assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_rows_are_on_disk_after_flush_s_without_a_call(tmp_path: Path) -> None:
    with ShardWriter.create(tmp_path / "s", [ENERGY], flush_s=0.05) as writer:
        writer.append(np.array([1]), {"energy": np.array([[1.0]])})
        deadline = time.monotonic() + 20
        while StoreReader.open(tmp_path / "s").n_systems < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert StoreReader.open(tmp_path / "s").n_systems == 1


def test_half_of_what_may_wait_is_written_without_waiting_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_PENDING_BYTES", 64)
    with ShardWriter.create(tmp_path / "s", [ENERGY], flush_s=3600) as writer:
        for _ in range(4):
            writer.append(np.ones(1, dtype=np.int64), {"energy": np.zeros((1, 1))})
        deadline = time.monotonic() + 20
        while writer.n_committed < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert writer.n_committed == 4


def test_a_timed_commit_waits_in_proportion_to_what_it_writes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks of five rows are one unfinished file of some hundred bytes in each array."""
    with ShardWriter.create(tmp_path / "s", [ENERGY], flush_s=10, chunking=Chunking.of_shards(5, 5)) as writer:
        writer.append(np.ones(10, dtype=np.int64), {"energy": np.random.default_rng(0).normal(size=(10, 1))})
        writer.flush()
        unfinished = sum(path.stat().st_size for path in (tmp_path / "s").rglob("c/**/*") if path.is_file())
        assert writer._body.unfinished_bytes == unfinished > 0
        for allowed, wait_s in ((10 * unfinished, 10), (unfinished / 3, 30)):
            monkeypatch.setattr(writer_module, "REWRITTEN_BYTES", allowed)
            with writer._lock:
                writer._since = time.monotonic()
                due_s = writer._due_in()
                writer._since = None
            assert due_s is not None
            assert wait_s - 5 < due_s <= wait_s


def test_append_waits_when_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_PENDING_BYTES", 1000)
    gate = threading.Event()

    def slow(key: str, before: int) -> None:
        gate.wait(20)

    store = FailingStore(MemoryStore())
    with ShardWriter.create(store, [ENERGY], flush_s=3600) as writer:
        store.fails = slow
        rows = np.ones(100, dtype=np.int64), {"energy": np.zeros((100, 1))}
        writer.append(*rows)
        deadline = time.monotonic() + 20
        while writer._pending and time.monotonic() < deadline:
            time.sleep(0.001)
        writer.append(*rows)
        third = threading.Thread(target=writer.append, args=rows)
        third.start()
        third.join(0.2)
        assert third.is_alive()
        assert writer.waited_s == 0
        gate.set()
        third.join(20)
        assert not third.is_alive()
        assert 0.1 < writer.waited_s < 20
    assert StoreReader.open(store).n_systems == 300


def test_an_error_reaches_the_next_call_once_and_the_committed_stays(target: Path | MemoryStore) -> None:
    inner = DurableStore(target) if isinstance(target, Path) else target
    store = FailingStore(inner)
    writer = ShardWriter.create(store, [ENERGY], flush_s=0.01)
    writer.append(np.array([1]), {"energy": np.array([[1.0]])})
    writer.flush()
    store.fails = lambda key, before: OSError(errno.ENOSPC, "No space left on device", f"/disk/{key}")
    writer.append(np.array([1]), {"energy": np.array([[2.0]])})
    with pytest.raises(ResourceError, match=r"disk is full \(/disk/core/energy.*committed before stays readable. Make room") as caught:
        for _ in range(2000):
            writer.append(np.array([1]), {"energy": np.array([[3.0]])})
            time.sleep(0.005)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(StoreError, match="takes nothing more since a write failed"):
        writer.append(np.array([1]), {"energy": np.array([[3.0]])})
    writer.close()
    assert StoreReader.open(target).read_system("energy").tolist() == [[1.0]]


def test_close_and_flush_tell_an_error_that_nobody_was_told() -> None:
    for call in ("flush", "close"):
        store = FailingStore(MemoryStore())
        writer = ShardWriter.create(store, [ENERGY], flush_s=3600)
        store.fails = kill_after(store.n_writes)
        writer.append(np.array([1]), {"energy": np.array([[1.0]])})
        with pytest.raises(StoreError, match=r"writing to the store.*killed by the test"):
            getattr(writer, call)()
        writer.close()


def test_the_callers_error_wins_and_finished_rows_are_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ShardWriter.create(tmp_path / "s", [ENERGY], flush_s=3600) as writer:
        writer.append(np.array([1]), {"energy": np.array([[1.0]])})
        raise KeyError("the caller's own")
    assert StoreReader.open(tmp_path / "s").n_systems == 1


def test_a_closed_writer_takes_nothing(tmp_path: Path) -> None:
    writer = ShardWriter.create(tmp_path / "s", [ENERGY])
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match="is closed"):
        writer.append(np.array([1]), {"energy": np.array([[1.0]])})


def test_every_moment_of_a_kill_leaves_whole_commits() -> None:
    """Kill after each single write of two commits: a reader sees the first commit or both, and the right numbers."""
    fields = [FIELDS[name] for name in ("positions", "energy", "system_id", "error")]
    columns = made_up_columns(fields, SIZES, 3)
    first, second = slice_columns(fields, SIZES, columns, 0, 4), slice_columns(fields, SIZES, columns, 4, 9)
    seen = []
    for n_writes in range(200):
        store = FailingStore(MemoryStore())
        writer = ShardWriter.create(store, fields, flush_s=3600, chunking=Chunking(3, 8))
        twin = TwinShard(tuple(fields))
        writer.append(*first)
        twin.append(*first)
        writer.flush()
        twin.acknowledge()
        store.fails = kill_after(store.n_writes + n_writes)
        writer.append(*second)
        twin.append(*second)
        finished = True
        try:
            writer.flush()
        except StoreError:
            finished = False
        writer.abandon()
        reader = StoreReader.open(store)
        twin.check(reader)
        seen.append(reader.n_systems)
        if finished:
            break
    assert seen[-1] == 9 and set(seen[:-1]) == {4}
    assert len(seen) > 2 * len(fields)


def test_the_root_document_is_written_last_and_fields_before_pointers() -> None:
    store = FailingStore(MemoryStore())
    writer = ShardWriter.create(store, RESULT_FIELDS, flush_s=3600)
    store.keys.clear()
    writer.append(SIZES, made_up_columns(RESULT_FIELDS, SIZES, 0))
    writer.close()
    assert store.keys[-1] == "zarr.json"
    is_pointer = [key.startswith("meta/") for key in store.keys[:-1]]
    assert is_pointer == sorted(is_pointer)
    assert store.keys[-2] == "meta/samples_mask/zarr.json"


def test_nothing_is_read_back_while_appending() -> None:
    class NoReads(FailingStore):
        allowed = True

        async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
            assert self.allowed, f"{key} was read"
            return await self._store.get(key, *args, **kwargs)

    store = NoReads(MemoryStore())
    with ShardWriter.create(store, RESULT_FIELDS, chunking=Chunking(4, 8)) as writer:
        store.allowed = False
        for seed in range(4):
            writer.append(SIZES, made_up_columns(RESULT_FIELDS, SIZES, seed))
            writer.flush()
    store.allowed = True
    assert StoreReader.open(store).n_systems == 36


def test_writes_of_a_commit_do_not_grow_with_what_is_stored() -> None:
    store = FailingStore(MemoryStore())
    with ShardWriter.create(store, RESULT_FIELDS, chunking=Chunking(64, 256)) as writer:
        n_writes = []
        for seed in range(30):
            before = store.n_writes
            writer.append(SIZES, made_up_columns(RESULT_FIELDS, SIZES, seed))
            writer.flush()
            n_writes.append(store.n_writes - before)
    assert max(n_writes) <= 2 * (2 * len(RESULT_FIELDS) + 10) and np.mean(n_writes[20:]) <= np.mean(n_writes[:10]) + 5


def test_late_attributes_are_written_by_close(tmp_path: Path) -> None:
    for rows in (0, 1):
        path = tmp_path / str(rows)
        with ShardWriter.create(path, [ENERGY], {"job": 1}) as writer:
            writer.append(np.ones(rows, dtype=np.int64), {"energy": np.zeros((rows, 1))})
            writer.annotate({"device_seconds": 2.5, "job": 2})
            with pytest.raises(StoreError, match="layout's own"):
                writer.annotate({"fields": {}})
        attributes = StoreReader.open(path).attributes
        assert (attributes["device_seconds"], attributes["job"], attributes["num_samples"]) == (2.5, 2, rows)


def test_a_zarr_local_store_is_written_durably_too(tmp_path: Path) -> None:
    with ShardWriter.create(LocalStore(tmp_path / "s"), [ENERGY]) as writer:
        writer.append(np.array([1]), {"energy": np.array([[1.0]])})
        assert isinstance(writer._body._store, DurableStore)
    assert StoreReader.open(LocalStore(tmp_path / "s")).n_systems == 1


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for call in (
        lambda: ShardWriter.create(tmp_path / "file" / "s", [ENERGY]),
        lambda: write_store(tmp_path / "file" / "s", [ENERGY], np.array([1]), {"energy": np.zeros((1, 1))}),
    ):
        with pytest.raises(StoreError, match=r"(creating|writing) the store .*Not a directory"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_stay_few(tmp_path: Path) -> None:
    sizes = np.full(64, 40, dtype=np.int64)
    columns = made_up_columns(RESULT_FIELDS, sizes, 0)
    with ShardWriter.create(tmp_path / "s", RESULT_FIELDS, flush_s=3600) as writer:
        for _ in range(50):
            writer.append(sizes, columns)
    files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
    # 3,200 structures of 40 atoms: a document and one or two chunks an array, and a document a group.
    assert len(files) <= 2 * (len(RESULT_FIELDS) + 5) + 4 + 8
    assert json.loads((tmp_path / "s" / "zarr.json").read_text())["attributes"]["num_samples"] == 3200
