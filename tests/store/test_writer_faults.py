"""Real faults: kill -9 of a writing process, a full disk, a limit on file sizes."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_disk import mounted_disk

from campaign.errors import ResourceError
from campaign.fields import RESULT_FIELDS
from campaign.store import ShardWriter, StoreReader, write_store
from campaign.store.durable import sweep_partial
from campaign.testing.store_rows import made_up_columns

# Each append writes rows whose numbers follow from their position alone, and says so once they are acknowledged.
WRITER = """
import sys
import numpy as np
from campaign.fields import RESULT_FIELDS
from campaign.store import Chunking, ShardWriter
from campaign.testing.store_rows import made_up_columns

writer = ShardWriter.create(sys.argv[1], RESULT_FIELDS, flush_s=0.01, chunking=Chunking(16, 64))
print("created", flush=True)
for seed in range(10_000):
    sizes = np.arange(5) + seed % 3
    writer.append(sizes, made_up_columns(RESULT_FIELDS, sizes, seed))
    if seed % 3 == 2:
        writer.flush()
        print(seed + 1, flush=True)
"""


@pytest.mark.parametrize("moment", range(8))
def test_kill_9_leaves_all_that_was_acknowledged_and_right_numbers(tmp_path: Path, moment: int) -> None:
    target = tmp_path / "s.zarr"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "created\n"
    time.sleep(random.Random(moment).uniform(0, 1.5))
    process.kill()
    said = process.stdout.read().split("\n")[:-1]
    process.wait()
    process.stdout.close()
    acknowledged = int(said[-1]) if said else 0
    reader = StoreReader.open(target)
    assert reader.n_systems >= 5 * acknowledged
    assert reader.n_systems % 5 == 0
    values = reader.read()
    sizes = [np.arange(5) + seed % 3 for seed in range(reader.n_systems // 5)]
    parts = [made_up_columns(RESULT_FIELDS, each, seed) for seed, each in enumerate(sizes)]
    for field in RESULT_FIELDS:
        if parts:
            np.testing.assert_array_equal(values[field.name], np.concatenate([part[field.name] for part in parts]), err_msg=field.name)
    sweep_partial(target, -1)
    assert not [path for path in target.rglob("*") if path.name.endswith(".partial")]
    np.testing.assert_array_equal(StoreReader.open(target).read_system("energy"), values["energy"])


CREATOR = """
import os, sys
from campaign.errors import StoreExistsError
from campaign.fields import RESULT_FIELDS
from campaign.store import ShardWriter

print("ready", flush=True)
sys.stdin.readline()
for path in sys.argv[1:]:
    try:
        ShardWriter.create(path, RESULT_FIELDS, {"process": os.getpid()}).close()
        print(os.getpid(), end=" ")
    except StoreExistsError:
        print(0, end=" ")
"""


def test_of_processes_that_create_the_same_shards_at_the_same_moment_one_gets_each(tmp_path: Path) -> None:
    targets = [tmp_path / f"{number}.zarr" for number in range(10)]
    command = [sys.executable, "-c", CREATOR, *map(str, targets)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in processes]
    for target, answers in zip(targets, zip(*said, strict=True), strict=True):
        (winner,) = (int(answer) for answer in answers if answer != "0")
        assert StoreReader.open(target).attributes["process"] == winner
    assert sorted(tmp_path.iterdir()) == sorted(targets)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Three megabytes of tmpfs; needs the right to mount."""
    with mounted_disk(tmp_path / "disk", 3) as place:
        yield place


def fill(writer: ShardWriter) -> int:
    """Append until it fails; return the systems that were committed."""
    sizes = np.full(100, 20, dtype=np.int64)
    for seed in range(2000):
        writer.append(sizes, made_up_columns(RESULT_FIELDS, sizes, seed))
        writer.flush()
    raise AssertionError("nothing failed")


def test_a_full_disk_is_one_clear_error_and_the_committed_stays(small_disk: Path) -> None:
    writer = ShardWriter.create(small_disk / "s.zarr", RESULT_FIELDS)
    with pytest.raises(
        ResourceError, match=r"writing to the store .*s\.zarr: the disk is full.*stays readable. Make room, then run"
    ) as caught:
        fill(writer)
    assert isinstance(caught.value.__cause__, OSError)
    writer.close()
    reader = StoreReader.open(small_disk / "s.zarr")
    assert reader.n_systems == writer.n_committed > 0
    expected = [made_up_columns(RESULT_FIELDS, np.full(100, 20), seed)["energy"] for seed in range(reader.n_systems // 100)]
    np.testing.assert_array_equal(reader.read_system("energy"), np.concatenate(expected))
    reader.read()
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".partial")]


def test_a_whole_store_that_does_not_fit_leaves_nothing(small_disk: Path) -> None:
    sizes = np.full(4000, 40, dtype=np.int64)
    with pytest.raises(ResourceError, match="the disk is full"):
        write_store(small_disk / "s.zarr", RESULT_FIELDS, sizes, made_up_columns(RESULT_FIELDS, sizes, 0))
    assert list(small_disk.iterdir()) == []


@pytest.fixture
def small_files() -> Iterator[None]:
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_limit_on_file_sizes_is_a_clear_error_too(tmp_path: Path) -> None:
    writer = ShardWriter.create(tmp_path / "s.zarr", RESULT_FIELDS)
    with pytest.raises(ResourceError, match="the file would be larger than the limit"):
        fill(writer)
    writer.close()
    reader = StoreReader.open(tmp_path / "s.zarr")
    assert reader.n_systems == writer.n_committed > 0
    reader.read()
