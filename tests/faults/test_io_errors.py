"""Every call on the file system fails once: right data, or an error that names the file; and the same command again ends well."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from campaign.errors import CampaignError
from campaign.fields import FIELDS, INPUT_FIELDS
from campaign.outcomes import RUNNING
from campaign.paths import CampaignPaths
from campaign.store import Chunking, ShardWriter, StoreReader, write_store
from campaign.store.consolidation import run_consolidation
from campaign.store.consolidation_plan import InputIndex, ShardIndex, plan_consolidation
from campaign.store.digest import digest
from campaign.testing.disk_calls import Call, watched_calls
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard, compare_rows

SMALL = tuple(FIELDS[name] for name in ("system_id", "positions"))
SIZES = np.array([3, 0, 2], dtype=np.int64)

# Which calls can fail in which way. The kernel names the file of those that are given a path, and of no others.
CHANGES = {"create", "write", "truncate", "fsync", "close", "rename", "exchange", "link", "mkdir"}
EVERYTHING = CHANGES | {"open", "read", "unlink", "rmdir", "scan"}
BY_DESCRIPTOR = {"write", "truncate", "fsync", "close", "read"}
FAULTS = {
    "EIO": (errno.EIO, EVERYTHING),
    "ENOSPC": (errno.ENOSPC, CHANGES - {"close", "truncate"}),
    "EDQUOT": (errno.EDQUOT, CHANGES - {"truncate"}),
    "short write": (0, {"write"}),
    "failed close": (errno.EIO, {"close"}),
}


class FailOnce:
    """Lets the k-th of the calls that can fail in this way fail."""

    def __init__(self, root: Path, fault: str, k: int) -> None:
        self.root, self.k = root, k
        self.code, self.calls = FAULTS[fault]
        self.n_seen = 0
        self.failed: Call | None = None

    def __call__(self, call: Call) -> int | None:
        # Closing a folder writes nothing, and shutil.rmtree would close it twice.
        if call.name not in self.calls or (call.name == "close" and (self.root / call.path).is_dir()):
            return None
        self.n_seen += 1
        if self.n_seen != self.k + 1:
            return None
        self.failed = call
        if not self.code:
            return len(call.data) // 2
        names = [] if call.name in BY_DESCRIPTOR else [str(self.root / call.path)]
        raise OSError(self.code, os.strerror(self.code), *names)


def check_error(error: BaseException, failed: Call | None, root: Path) -> None:
    """The text names the file, or the array or folder that it belongs to."""
    assert failed is not None, error
    assert isinstance(error, (CampaignError, OSError)), repr(error)
    parts = [re.sub(r"^\.(.+)\.[0-9a-f]+\.partial$", r"\1", part) for part in Path(failed.path).parts]
    text = str(error)
    assert str(root) in text
    # Whoever reads it finds the array: at least the folder that the file is in, below the store.
    array = "/".join(part for part in parts[1:3])
    assert not array or failed.name in ("scan", "unlink", "rmdir") or array.split("/")[0] in text, f"{failed}: {text}"


def places() -> Iterator[Path]:
    """Empty folders, one after the other, each removed when the next is asked for."""
    while True:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder).resolve()


def write_shard(root: Path) -> TwinShard:
    """A shard with one commit; the twin says what is acknowledged, also if it fails."""
    twin = TwinShard(SMALL)
    root_error: CampaignError | None = None
    writer = None
    try:
        writer = ShardWriter.create(root / "s.zarr", SMALL, {}, 3600.0, Chunking(4, 8))
        columns = made_up_columns(SMALL, SIZES, 0)
        twin.append(SIZES, columns)
        writer.append(SIZES, columns)
        writer.flush()
        twin.acknowledge()
        writer.close()
    except CampaignError as error:
        root_error = error
        error.twin = twin  # type: ignore[attr-defined]
    finally:
        if writer is not None:
            writer.abandon()
    if root_error is not None:
        raise root_error
    return twin


@pytest.mark.parametrize("fault", FAULTS)
def test_writing_a_shard(fault: str) -> None:
    n_errors = k = 0
    for k, root in enumerate(places()):
        rule = FailOnce(root, fault, k)
        try:
            with watched_calls(root, rule):
                twin = write_shard(root)
        except CampaignError as error:
            check_error(error, rule.failed, root)
            twin = error.twin  # type: ignore[attr-defined]
            n_errors += 1
        if (root / "s.zarr").is_dir():
            twin.check(StoreReader.open(root / "s.zarr"))
        else:
            assert not twin.n_acknowledged
        if rule.failed is None:
            break
    print(f"{fault}: {k} calls failed once each, {n_errors} runs with an error")
    assert k > 20
    assert n_errors == 0 if fault == "short write" else n_errors > k // 2


@pytest.fixture(scope="module")
def campaign(fast_folder: Path) -> tuple[Path, dict[str, str], dict[str, str], Callable[[Path], None]]:
    """A folder with an old store and what a new one is made from; the digests of both; and what consolidates a copy of the folder."""
    root = Path(tempfile.mkdtemp(dir=fast_folder))
    columns = made_up_columns(INPUT_FIELDS, SIZES, 0) | {"system_id": np.arange(3)[:, None], "outcome": np.full((3, 1), RUNNING)}
    write_store(root / "inputs.zarr", INPUT_FIELDS, SIZES, columns)

    def add_shard(name: str, seed: int) -> None:
        write_store(root / name, SMALL, SIZES, made_up_columns(SMALL, SIZES, seed) | {"system_id": np.arange(3)[:, None]})

    def consolidate(folder: Path) -> None:
        inputs = InputIndex("inputs.zarr", SIZES, np.zeros(3, dtype=bool))
        plan = plan_consolidation(inputs, [ShardIndex(name, np.arange(3), SIZES) for name in names], SMALL)
        paths = CampaignPaths(folder)
        run_consolidation(plan, {name: folder / name for name in plan.sources}, paths.store_staging, paths.store, SMALL)

    names = ["0001-00000-00001-000.zarr"]
    add_shard(names[0], 1)
    consolidate(root)
    old = digest(root / "store.zarr")
    # The first shard by name counts, so this one changes the results.
    names.insert(0, "0001-00000-00000-000.zarr")
    add_shard(names[0], 2)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(root, Path(folder) / "run")
        consolidate(Path(folder) / "run")
        new = digest(Path(folder) / "run" / "store.zarr")
    assert old != new
    return root, old, new, consolidate


@pytest.mark.parametrize("fault", FAULTS)
def test_consolidating(campaign: tuple[Path, dict[str, str], dict[str, str], Callable[[Path], None]], fault: str) -> None:
    source, old, new, consolidate = campaign
    n_errors = k = 0
    for k, place in enumerate(places()):
        root = place / "run"
        # Files are replaced, never written into, so that links are as good as copies.
        shutil.copytree(source, root, copy_function=os.link)
        rule = FailOnce(root, fault, k)
        is_new = True
        try:
            with watched_calls(root, rule):
                consolidate(root)
        except (CampaignError, OSError) as error:
            check_error(error, rule.failed, root)
            assert isinstance(error, CampaignError)
            n_errors += 1
            is_new = False
        there = digest(root / "store.zarr")
        assert there == new or (there == old and not is_new), rule.failed
        if n_errors % 8 == 1 and not is_new:
            consolidate(root)
            assert digest(root / "store.zarr") == new
        if rule.failed is None:
            break
    print(f"{fault}: {k} calls failed once each, {n_errors} runs with an error")
    assert k > 10
    assert n_errors == 0 if fault == "short write" else n_errors > k // 3
    assert digest(source / "store.zarr") == old


def test_the_right_rows_are_compared() -> None:
    """The comparison that these tests lean on sees a changed number."""
    with tempfile.TemporaryDirectory() as folder:
        twin = write_shard(Path(folder))
        reader = StoreReader.open(Path(folder) / "s.zarr")
        compare_rows(reader, twin.rows)
        twin.rows[0]["positions"][0, 0] += 1e-15
        with pytest.raises(AssertionError, match="positions"):
            compare_rows(reader, twin.rows)
