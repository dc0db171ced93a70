"""The durable store passes zarr's own suite for stores, syncs what it acknowledges and raises what close and fsync report."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import cpu
from zarr.core.sync import sync

from campaign.store.durable import (
    DurableStore,
    exclusive_lock,
    make_folder_durably,
    publish_folder,
    staging_name,
    sweep_partial,
    write_durably,
)


def put(store: DurableStore, key: str, value: bytes) -> None:
    sync(store.set(key, cpu.Buffer.from_bytes(value)))


def test_keys_are_set_replaced_and_deleted_like_in_any_zarr_store(tmp_path: Path) -> None:
    store = DurableStore(tmp_path / "s")
    put(store, "a/b", b"1")
    put(store, "a/b", b"22")
    assert (tmp_path / "s/a/b").read_bytes() == b"22"
    sync(store.set_if_not_exists("a/b", cpu.Buffer.from_bytes(b"333")))
    sync(store.set_if_not_exists("a/c", cpu.Buffer.from_bytes(b"4")))
    assert (tmp_path / "s/a/b").read_bytes() == b"22"
    store.set_sync("d", cpu.Buffer.from_bytes(b""))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == ["s/a/b", "s/a/c", "s/d"]
    with pytest.raises(ValueError, match="read-only"):
        put(store.with_read_only(True), "e", b"")


def test_file_and_every_new_name_are_synced_before_set_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_durably(tmp_path / "new" / "deep" / "key", b"x" * 100_000)
    assert synced[:2] == [tmp_path.name, "new"]
    assert synced[2].startswith(".key.") and synced[2].endswith(".partial")
    assert synced[3] == "deep"
    assert (tmp_path / "new/deep/key").read_bytes() == b"x" * 100_000


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_call_is_raised_and_leaves_the_old_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    write_durably(tmp_path / "key", b"old")

    def fail(*args: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="quota"):
        write_durably(tmp_path / "key", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").read_bytes() == b"old"


def test_exclusive_means_that_nothing_was_there(tmp_path: Path) -> None:
    write_durably(tmp_path / "key", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "key", b"second", exclusive=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("key", b"first")]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        make_folder_durably(tmp_path / "file" / "s")


def test_a_folder_is_published_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    publish_folder(tmp_path / "one", tmp_path / "target")
    with pytest.raises(FileExistsError, match="target exists"):
        publish_folder(tmp_path / "two", tmp_path / "target")
    assert (tmp_path / "target/f").read_text() == "one"


def test_only_old_left_overs_are_swept(tmp_path: Path) -> None:
    old, young, live = tmp_path / "s" / ".key.ab.partial", tmp_path / "s" / ".key.cd.partial", tmp_path / "s" / "key"
    folder = staging_name(tmp_path / "shard")
    (tmp_path / "s").mkdir()
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    for path in (old, young, live):
        path.write_text("")
    for path in (old, live, folder):
        os.utime(path, (time.time() - 100, time.time() - 100))
    assert sweep_partial(tmp_path, 50) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".key.cd.partial", "key", "s"]
    assert sweep_partial(tmp_path / "nowhere", 50) == 0


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from campaign.store.durable import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1])) as ours: print(ours, flush=True); time.sleep(60)"
    )
    lock = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with exclusive_lock(lock) as ours:
        assert not ours
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with exclusive_lock(lock) as ours:
        assert ours
