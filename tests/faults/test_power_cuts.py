"""Power cuts at every call, in many ways each: what was acknowledged is there, and nothing is unreadable.

The calls of a real run are recorded and replayed on a model of a disk (`campaign/testing/power_cut.py`); the states that it draws are
opened with the real reader. `CAMPAIGN_POWER_CUTS` sets how many cuts there are, 2,400 by default; a seed repeats a cut.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from small_campaign import spec_of, structures
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from campaign.errors import CampaignError
from campaign.fields import CARRIED_FIELDS, FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS
from campaign.files import create_whole, make_folder, write_json, write_whole
from campaign.ingest import run_ingest
from campaign.outcomes import RUNNING
from campaign.paths import CampaignPaths, ShardName
from campaign.plan import run_plan
from campaign.store import Chunking, ShardWriter, StoreReader, publication, write_store
from campaign.store.consolidation import run_consolidation
from campaign.store.consolidation_plan import InputIndex, ShardIndex, plan_consolidation
from campaign.store.digest import digest
from campaign.store.publication import recover_folder
from campaign.testing.disk_calls import Call, watched_calls
from campaign.testing.power_cut import Disk, DiskState
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard, compare_rows
from campaign.worker.shards import create_shard

CUTS = int(os.environ.get("CAMPAIGN_POWER_CUTS", "2400"))
SHARD_FIELDS = tuple(FIELDS[name] for name in ("system_id", "energy", "positions", "error"))
SIZES = np.array([3, 0, 2], dtype=np.int64)


@dataclass
class Recording:
    """A folder before a run, the calls of the run, and when it acknowledged what."""

    begin: DiskState
    calls: list[Call] = field(default_factory=list)
    acknowledged: list[tuple[int, str]] = field(default_factory=list)

    def without_fsync(self, of_folders: bool) -> Recording:
        """The same run as code would make it that forgets to sync files, or folders."""
        begun = Disk(self.begin)
        kept, acknowledged = [], list(self.acknowledged)
        for call in self.calls:
            drop = call.name == "fsync" and begun.is_folder(call.path) == of_folders
            begun.replay(call)
            kept.append(Call("scan", call.path) if drop else call)
        return Recording(self.begin, kept, acknowledged)

    def cuts(self, n: int) -> Iterator[tuple[str, DiskState, list[str]]]:
        """Yield at least `n` cuts, spread evenly over the calls: a name to repeat it by, the disk, and what had been acknowledged."""
        per_call = -(-n // (len(self.calls) + 1))
        disk = Disk(self.begin)
        for position in range(len(self.calls) + 1):
            said = [what for at, what in self.acknowledged if at <= position]
            for way in range(per_call):
                yield f"after call {position}, way {way}", disk.after_cut(position * 1_000_003 + way), said
            if position < len(self.calls):
                disk.replay(self.calls[position])


def record(folder: Path, run: Callable[[Callable[[str], None]], None]) -> Recording:
    """Record a run below `folder`; the run is given a function by which it says what is acknowledged."""
    recording = Recording(DiskState.of(folder))
    with watched_calls(folder, lambda call: None) as calls:
        run(lambda what: recording.acknowledged.append((len(calls), what)))
        recording.calls = list(calls)
    disk = Disk(recording.begin)
    for call in recording.calls:
        disk.replay(call)
    # Nothing went to the disk by a way that is not recorded.
    is_all = disk.seen() == DiskState.of(folder)
    assert is_all
    return recording


def in_memory(files: dict[str, bytes]) -> MemoryStore:
    return MemoryStore({key: cpu.Buffer.from_bytes(content) for key, content in files.items()})


class ShardCheck:
    """Opens the shard in a state of the disk; states that were seen before are not opened again."""

    def __init__(self, place: str, twin: TwinShard) -> None:
        self.place, self.twin = place, twin
        self.seen: dict[str, int] = {}

    def __call__(self, state: DiskState, said: Sequence[str]) -> None:
        key = state.digest(self.place)
        if key not in self.seen:
            self.seen[key] = self.n_readable(state)
        assert self.seen[key] >= int(said[-1] if said else -1)

    def n_readable(self, state: DiskState) -> int:
        if self.place not in state.folders:
            return -1
        reader = StoreReader.open(in_memory(state.below(self.place)))
        compare_rows(reader, self.twin.rows[: reader.n_systems])
        return reader.n_systems


def record_shard(root: Path) -> tuple[Recording, ShardCheck]:
    """A shard in a folder that is made for it, written in commits; each acknowledges its number of rows."""
    twin = TwinShard(SHARD_FIELDS)

    def run(acknowledge: Callable[[str], None]) -> None:
        make_folder(root / "shards")
        writer = ShardWriter.create(root / "shards" / "s.zarr", SHARD_FIELDS, {"job": 1}, 3600.0, Chunking(4, 8))
        acknowledge("0")
        for seed in range(5):
            columns = made_up_columns(SHARD_FIELDS, SIZES, seed)
            twin.append(SIZES, columns)
            writer.append(SIZES, columns)
            writer.flush()
            acknowledge(str(len(twin.rows)))
        writer.annotate({"device_seconds": 1.0})
        writer.close()

    recording = record(root, run)
    return recording, ShardCheck("shards/s.zarr", twin)


def check_all(recording: Recording, check: Callable[[DiskState, Sequence[str]], None], n: int) -> int:
    """Check `n` cuts or a few more; return how many."""
    done = 0
    for name, state, said in recording.cuts(n):
        try:
            check(state, said)
        except (AssertionError, KeyError, CampaignError) as error:
            raise AssertionError(f"{name}, acknowledged {said[-1:]}: {error}") from error
        done += 1
    assert done >= n
    return done


def test_a_shard_keeps_every_acknowledged_row(tmp_path: Path) -> None:
    recording, check = record_shard(tmp_path)
    done = check_all(recording, check, CUTS // 3)
    # The cuts reach every number of rows, and most states differ from one another.
    assert {0, 3, 6, 9, 12, 15} <= set(check.seen.values())
    print(f"{done} cuts over {len(recording.calls)} calls, {len(check.seen)} different shards")
    assert len(check.seen) > CUTS // 10


@pytest.mark.parametrize("of_folders", [False, True], ids=["files", "folders"])
def test_the_check_finds_a_forgotten_fsync(tmp_path: Path, of_folders: bool) -> None:
    recording, check = record_shard(tmp_path)
    broken = recording.without_fsync(of_folders)
    assert len([call for call in broken.calls if call.name == "fsync"]) < len([call for call in recording.calls if call.name == "fsync"])
    with pytest.raises(AssertionError, match=r"after call \d+, way \d+, acknowledged"):
        check_all(broken, check, CUTS // 4)


def test_a_whole_store_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    columns = made_up_columns(SHARD_FIELDS, SIZES, 0)
    twin = TwinShard(SHARD_FIELDS)
    twin.append(SIZES, columns)

    def run(acknowledge: Callable[[str], None]) -> None:
        write_store(tmp_path / "inputs.zarr", SHARD_FIELDS, SIZES, columns, chunking=Chunking(4, 8))
        acknowledge("3")

    check = ShardCheck("inputs.zarr", twin)
    check_all(record(tmp_path, run), check, CUTS // 8)
    assert set(check.seen.values()) == {-1, 3}


def write_campaign(root: Path) -> None:
    """Inputs and a shard with all of them."""
    columns = made_up_columns(INPUT_FIELDS, SIZES, 0) | {"system_id": np.arange(3)[:, None], "outcome": np.full((3, 1), RUNNING)}
    write_store(root / "inputs.zarr", INPUT_FIELDS, SIZES, columns)
    write_results(root, "0001-00000-00000-001.zarr", 1)


def write_results(root: Path, name: str, seed: int) -> None:
    columns = made_up_columns(RESULT_FIELDS, SIZES, seed) | {"system_id": np.arange(3)[:, None]}
    write_store(root / name, RESULT_FIELDS, SIZES, columns)


def consolidate(root: Path) -> None:
    names = sorted(path.name for path in root.glob("0001-*"))
    inputs = InputIndex("inputs.zarr", SIZES, np.zeros(3, dtype=bool))
    plan = plan_consolidation(inputs, [ShardIndex(name, np.arange(3), SIZES) for name in names], STORE_FIELDS)
    sources = {name: root / name for name in plan.sources}
    paths = CampaignPaths(root)
    run_consolidation(plan, sources, paths.store_staging, paths.store, STORE_FIELDS, CARRIED_FIELDS)


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two renames"])
def test_publishing_leaves_the_old_store_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    root = tmp_path / "run"
    root.mkdir()
    if not can_exchange:
        monkeypatch.setattr(publication, "exchange", lambda first, second: False)
    write_campaign(root)
    consolidate(root)
    old = digest(root / "store.zarr")
    # The first shard by name counts, so this one changes the results.
    write_results(root, "0001-00000-00000-000.zarr", 2)

    def run(acknowledge: Callable[[str], None]) -> None:
        consolidate(root)
        acknowledge("new")

    recording = record(root, run)
    new = digest(root / "store.zarr")
    assert old != new
    seen: dict[str, bool] = {}
    missing: dict[str, DiskState] = {}

    def check(state: DiskState, said: Sequence[str]) -> None:
        key = state.digest("store.zarr")
        if "store.zarr" not in state.folders:
            assert not can_exchange and not said, "there is no store"
            missing[state.digest()] = state
            return
        if key not in seen:
            found = digest(in_memory(state.below("store.zarr")))
            assert found in (old, new)
            StoreReader.open(in_memory(state.below("store.zarr"))).read()
            seen[key] = found == new
        assert seen[key] or not said

    check_all(recording, check, CUTS // 8)
    assert set(seen.values()) == {False, True}
    # Between the two renames there may be none; what the next consolidation does first brings the old one back.
    assert bool(missing) == (not can_exchange)
    for number, state in enumerate(missing.values()):
        crashed = tmp_path / f"crashed {number}"
        crashed.mkdir()
        state.write_to(crashed)
        recover_folder(crashed / "store.zarr")
        assert digest(crashed / "store.zarr") == old


def test_a_consolidation_goes_on_after_a_cut(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    write_campaign(root)
    recording = record(root, lambda acknowledge: consolidate(root))
    expected = digest(root / "store.zarr")
    states = {state.digest(): state for _, state, _ in recording.cuts(len(recording.calls))}
    for number, state in enumerate(list(states.values())[:: len(states) // 12]):
        crashed = tmp_path / f"crashed {number}"
        crashed.mkdir()
        state.write_to(crashed)
        consolidate(crashed)
        assert digest(crashed / "store.zarr") == expected


def test_small_files_are_old_or_new_and_never_something_else(tmp_path: Path) -> None:
    texts = [f"text {number} ".encode() * 30 * number for number in range(4)]

    def run(acknowledge: Callable[[str], None]) -> None:
        make_folder(tmp_path / "jobs")
        for number, text in enumerate(texts):
            write_whole(tmp_path / "jobs" / "record", text)
            create_whole(tmp_path / "jobs" / f"plan {number}", text)
            write_json(tmp_path / "document", {"number": number})
            acknowledge(str(number))

    def check(state: DiskState, said: Sequence[str]) -> None:
        last = int(said[-1]) if said else -1
        if last >= 0:
            assert state.files["jobs/record"] in texts[last : last + 2]
            assert state.files["document"] in [f'{{\n "number": {number}\n}}\n'.encode() for number in (last, last + 1)]
        for number, text in enumerate(texts):
            assert state.files.get(f"jobs/plan {number}", text) == text
            assert number > last or f"jobs/plan {number}" in state.files

    recording = record(tmp_path, run)
    check_all(recording, check, CUTS // 8)
    for of_folders in (False, True):
        with pytest.raises(AssertionError, match="after call"):
            check_all(recording.without_fsync(of_folders), check, CUTS // 8)


def test_a_campaign_keeps_inputs_plan_and_shard_once_they_are_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.extxyz", structures(2), format="extxyz")
    spec = spec_of(tmp_path, "in")
    paths = spec.paths
    name = ShardName(1, 0, 0, 0)
    places = {"inputs": paths.inputs, "shard": paths.shard(name)}
    tokens = []

    def run(acknowledge: Callable[[str], None]) -> None:
        run_ingest(spec)
        acknowledge("inputs")
        plan = run_plan(paths, spec)
        assert plan is not None
        tokens.append(plan.token)
        acknowledge("plan")
        create_shard(paths, name, spec, {})
        acknowledge("shard")

    recording = record(tmp_path, run)
    frozen = paths.spec.read_bytes()
    opened: set[str] = set()

    def check(state: DiskState, said: Sequence[str]) -> None:
        spec_file, plan_file = (state.files.get(path.relative_to(tmp_path).as_posix()) for path in (paths.spec, paths.plan(1)))
        assert spec_file in ({frozen} if said else {None, frozen})
        assert plan_file is not None or "plan" not in said
        assert plan_file is None or json.loads(plan_file)["token"] == tokens[0]
        for what, path in places.items():
            place = path.relative_to(tmp_path).as_posix()
            assert place in state.folders or what not in said, f"{place} is lost"
            if place in state.folders and state.digest(place) not in opened:
                StoreReader.open(in_memory(state.below(place))).read()
                opened.add(state.digest(place))

    check_all(recording, check, CUTS // 8)
    with pytest.raises(AssertionError, match="after call"):
        check_all(recording.without_fsync(of_folders=True), check, CUTS // 8)


def test_the_model_of_a_disk_follows_posix() -> None:
    begin = DiskState({"a": b"old"}, frozenset())
    disk = Disk(begin)
    for call in (Call("create", "b"), Call("write", "b", data=b"new"), Call("fsync", "b"), Call("rename", "b", "a")):
        disk.replay(call)
    outcomes = {tuple(sorted(disk.after_cut(seed).files.items())) for seed in range(200)}
    assert outcomes == {(("a", b"old"),), (("a", b"old"), ("b", b"new")), (("a", b"new"),)}
    disk.replay(Call("fsync", "."))
    assert {tuple(disk.after_cut(seed).files.items()) for seed in range(50)} == {(("a", b"new"),)}
    disk.replay(Call("write", "a", offset=3, data=b"er"))
    contents = {disk.after_cut(seed).files["a"] for seed in range(200)}
    assert {b"new", b"newer", b"ne", b"\0\0\0\0\0"} <= contents
    assert disk.seen().files == {"a": b"newer"}
