"""ZarrData beside the reference's: where a store is already, what a write costs, what a kill leaves."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from specimens import batch, with_ids
from two_packages import Package, differs, same, same_error, theirs
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from campaign.testing.store_faults import FailingStore, kill_after


def flushed(sink: Any) -> Any:
    """Let a background thread finish, where there is one."""
    if hasattr(sink, "flush"):
        sink.flush()
    return sink


@pytest.fixture
def places(tmp_path: Path) -> Any:
    """Folders that are not there yet."""
    return (tmp_path / f"{i}.zarr" for i in range(100))


def test_an_existing_store(places: Any) -> None:
    def script(p: Package) -> Any:
        place = next(places)
        sink = p.ZarrData(place)
        sink.write(batch(p))
        flushed(sink)
        again = p.ZarrData(place)
        return len(again), again.read().energy.flatten().tolist()

    differs("existing stores", script, RuntimeError, [3, [0.0, 1.0, 2.0]])


def test_an_existing_store_is_not_written_to(places: Any) -> None:
    def script(p: Package) -> None:
        place = next(places)
        flushed_sink = p.ZarrData(place)
        flushed_sink.write(batch(p))
        flushed(flushed_sink)
        p.ZarrData(place).write(batch(p))

    same_error(script, FileExistsError)


def test_zero_over_a_folder_that_is_no_store(tmp_path: Path) -> None:
    def script(p: Package) -> bool:
        folder = tmp_path / p.root
        folder.mkdir()
        (folder / "thesis.tex").touch()
        with suppress(Exception):
            p.ZarrData(folder).zero()
        return folder.exists()

    differs("existing stores", script, False, True)


def test_nothing_is_made_before_the_first_write(places: Any) -> None:
    def script(p: Package) -> bool:
        place = next(places)
        p.ZarrData(place)
        return place.exists()

    assert same(script) is False


def test_keys_that_were_set_on_the_batch() -> None:
    def script(p: Package) -> bool:
        store = MemoryStore()
        sink, made = p.ZarrData(store), batch(p)
        made["stress"] = torch.ones(3, 3, 3)
        sink.write(made)
        flushed(sink)
        with reader_class()(store) as reader:
            return "stress" in reader[0][0]

    differs("levels", script, False, True)


def test_config() -> None:
    differs("zarr config", lambda p: p.ZarrData({}, config={"core": {"chunk_size": 10}}).capacity, 1_000_000, ValueError)
    differs("zarr config", lambda p: p.ZarrData({}, config={"bogus": 1}).capacity, 1_000_000, ValueError)
    differs("zarr config", lambda p: p.ZarrData({}, config={"flush_s": 1.0}).capacity, 1_000_000, 1_000_000)


class ReadCounter(MemoryStore):
    """Counts the bytes of arrays that are read."""

    n_read = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Buffer | None:
        value = await super().get(key, prototype, byte_range)
        if value is not None and not key.endswith("zarr.json"):
            self.n_read += len(value)
        return value


def test_what_a_write_reads_back() -> None:
    def grows(p: Package) -> list[bool]:
        store = ReadCounter()
        sink = p.ZarrData(store)
        read = []
        for i in range(4):
            before = store.n_read
            sink.write(with_ids(p, 3 * i))
            flushed(sink)
            read.append(store.n_read - before)
        return [read[0] < read[1] < read[2] < read[3], any(read)]

    differs("appending", grows, [True, True], [False, False])


def reader_class() -> Any:
    """The reference's own reader, which reads our stores too."""
    theirs()
    from nvalchemi.data.datapipes.backends.zarr import AtomicDataZarrReader

    return AtomicDataZarrReader


def readable(store: MemoryStore) -> Any:
    """Energies of what a reader finds in a store."""
    try:
        with reader_class()(store) as reader:
            return [float(reader[i][0]["energy"]) for i in range(len(reader))]
    except Exception as error:
        return type(error).__name__


def test_a_kill_at_any_moment_of_a_write() -> None:
    def script(p: Package) -> list[bool]:
        """Whether a reader sees the systems of before or of after, for each number of values that the second write has stored."""
        seen = []
        for n_stored in range(100):
            store = MemoryStore()
            failing = FailingStore(store)
            sink = p.ZarrData(failing)
            sink.write(batch(p))
            flushed(sink)
            failing.fails = kill_after(failing.n_writes + n_stored)
            is_done = False
            with suppress(Exception):
                sink.write(batch(p))
                flushed(sink)
                is_done = True
            seen.append(readable(store) in ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0] * 2))
            if is_done:
                break
            with suppress(Exception):
                sink.close()
        return [len(seen) > 10, all(seen)]

    differs("kills", script, [True, False], [True, True])
