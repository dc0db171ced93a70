"""Carrying plans out: the same rows as in lists in memory, by threads and by a cluster, again after a kill, within the stated memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from campaign.errors import StoreDamagedError
from campaign.fields import CARRIED_FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS, Level, encode_error
from campaign.outcomes import RUNNING, Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.store import ShardWriter, StoreReader, write_store
from campaign.store import consolidation_plan as planning
from campaign.store.consolidation import ConsolidationReport, run_consolidation
from campaign.store.consolidation_plan import ConsolidationPlan, InputIndex, ShardIndex, plan_consolidation
from campaign.store.digest import digest
from campaign.testing.plain_store import write_plain_store
from campaign.testing.store_rows import made_up_columns, slice_columns
from campaign.testing.store_twin import TwinShard, compare_rows, consolidated_rows

N = 60
SIZES = (np.arange(N, dtype=np.int64) * 7) % 11
REJECTS = np.arange(N) % 9 == 4


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output shards small enough that ranges begin and end inside systems."""
    monkeypatch.setattr(planning, "SYSTEM_CHUNK_ROWS", 16)
    monkeypatch.setattr(planning, "ATOM_CHUNK_ROWS", 32)
    monkeypatch.setattr(planning, "CHUNKS_PER_SHARD", 2)


def write_inputs(folder: Path) -> dict[str, np.ndarray]:
    columns = made_up_columns(INPUT_FIELDS, SIZES, 1)
    columns["system_id"] = np.arange(N)[:, None]
    columns["outcome"] = np.where(REJECTS, Outcome.INVALID, RUNNING)[:, None].astype(np.int64)
    reason = np.frombuffer(encode_error("atoms 1 and 2 are on one spot"), np.uint8)
    columns["error"] = np.where(REJECTS[:, None], reason, 0).astype(np.uint8)
    write_store(folder / "inputs.zarr", INPUT_FIELDS, SIZES, columns)
    return columns


def write_shards(folder: Path, n_shards: int, again: int = 0, seed: int = 0) -> dict[str, TwinShard]:
    """Spread all systems but the rejects over shards, in random order; the last shard repeats some of others, with other numbers."""
    random = np.random.default_rng(seed)
    results = made_up_columns(RESULT_FIELDS, SIZES, 2)
    results["system_id"] = np.arange(N)[:, None]
    other = made_up_columns(RESULT_FIELDS, SIZES, 3)
    other["system_id"] = results["system_id"]
    order = random.permutation(np.flatnonzero(~REJECTS))
    twins = {}
    for number in range(n_shards):
        name = str(ShardName(1, number, 0, 0))
        twin = twins[name] = TwinShard(RESULT_FIELDS)
        rows = [(int(system), results) for system in order[number::n_shards]]
        if number == n_shards - 1:
            rows += [(int(system), other) for system in order[:again]]
        with ShardWriter.create(folder / name, RESULT_FIELDS, {"job": number}) as writer:
            for system, columns in rows:
                one = slice_columns(RESULT_FIELDS, SIZES, columns, system, system + 1)
                writer.append(*one)
                twin.append(*one)
    return twins


def make_plan(folder: Path, names: list[str], allow_incomplete: bool = False) -> ConsolidationPlan:
    readers = {name: StoreReader.open(folder / name) for name in names}
    indices = [ShardIndex(name, reader.read_system("system_id")[:, 0], reader.n_atoms()) for name, reader in readers.items()]
    return plan_consolidation(
        InputIndex("inputs.zarr", SIZES, REJECTS), indices, STORE_FIELDS, allow_incomplete=allow_incomplete, n_threads=2
    )


def consolidate(folder: Path, names: list[str], **options: object) -> ConsolidationReport:
    plan = make_plan(folder, names)
    sources = {name: folder / name for name in plan.sources}
    return run_consolidation(
        plan,
        sources,
        folder / "store.zarr.partial",
        folder / "store.zarr",
        STORE_FIELDS,
        CARRIED_FIELDS,
        **options,  # type: ignore[arg-type]
    )


def check_store(folder: Path, inputs: dict[str, np.ndarray], twins: dict[str, TwinShard]) -> None:
    reader = StoreReader.open(folder / "store.zarr")
    assert reader.read_system("system_id")[:, 0].tolist() == list(range(N))
    expected = consolidated_rows({name: twin.rows for name, twin in twins.items()})
    twin = TwinShard(INPUT_FIELDS)
    twin.append(SIZES, inputs)
    rejects = [{name: row[name] for name in INPUT_FIELDS_OF_A_RESULT} for row, bad in zip(twin.rows, REJECTS, strict=True) if bad]
    merged = sorted([*expected, *rejects], key=lambda row: int(row["system_id"][0]))
    for name in INPUT_FIELDS_OF_A_RESULT:
        compare_rows(reader, [{name: row[name]} for row in merged])
    values = reader.read()
    for field in CARRIED_FIELDS:
        np.testing.assert_array_equal(values[field.name], inputs[field.name], err_msg=field.name)
    for position, row in enumerate(expected):
        system = int(row["system_id"][0])
        np.testing.assert_array_equal(values["energy"][system], row["energy"], err_msg=str(position))
        np.testing.assert_array_equal(reader.read_atoms("forces", [system])[1], row["forces"])
    assert np.isnan(values["energy"][REJECTS]).all() and np.isnan(values["stress"][REJECTS]).all()
    assert np.isnan(reader.read_atoms("forces", np.flatnonzero(REJECTS))[1]).all()
    assert (values["outcome"][REJECTS] == Outcome.INVALID).all() and (values["n_steps"][REJECTS] == 0).all()
    assert values["error"][REJECTS].tobytes().count(b"on one spot") == REJECTS.sum()


INPUT_FIELDS_OF_A_RESULT = [field.name for field in RESULT_FIELDS if field in INPUT_FIELDS]


def test_each_input_once_with_results_rejects_and_carried_fields(tmp_path: Path) -> None:
    inputs, twins = write_inputs(tmp_path), write_shards(tmp_path, 3, again=7)
    report = consolidate(tmp_path, list(twins), attributes={"provenance": {"job": 1}})
    assert (report.n_systems, report.n_atoms, report.n_duplicates, report.n_missing) == (N, SIZES.sum(), 7, 0)
    assert report.n_bytes == sum(path.stat().st_size for path in (tmp_path / "store.zarr").rglob("*") if path.is_file())
    check_store(tmp_path, inputs, twins)
    assert StoreReader.open(tmp_path / "store.zarr").attributes["provenance"] == {"job": 1}
    assert not (tmp_path / "store.zarr.partial").exists()


def test_the_same_bytes_whatever_the_number_of_shards_and_runs(tmp_path: Path) -> None:
    digests = []
    for number, (n_shards, seed) in enumerate([(1, 0), (3, 1), (5, 2)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_inputs(folder)
        names = list(write_shards(folder, n_shards, seed=seed))
        for _ in range(2 if n_shards == 1 else 1):
            consolidate(folder, names[::-1], attributes={"provenance": number})
            digests.append(digest(folder / "store.zarr"))
    assert all(other == digests[0] for other in digests)


def test_a_cluster_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    write_inputs(tmp_path)
    names = list(write_shards(tmp_path, 3))
    consolidate(tmp_path, names)
    expected = digest(tmp_path / "store.zarr")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        consolidate(tmp_path, names, client=client)
    assert digest(tmp_path / "store.zarr") == expected


def test_one_read_opens_a_store_with_consolidated_metadata(tmp_path: Path) -> None:
    import zarr

    write_inputs(tmp_path)
    consolidate(tmp_path, list(write_shards(tmp_path, 2)))
    root = zarr.open_group(tmp_path / "store.zarr", mode="r")
    assert root.metadata.consolidated_metadata is not None
    assert {field.path for field in STORE_FIELDS} < set(root.metadata.consolidated_metadata.flattened_metadata)
    assert root["core/positions"].shards == (64, 3)
    for path in [field.path for field in STORE_FIELDS] + ["meta/atoms_ptr"]:
        (tmp_path / "store.zarr" / path / "zarr.json").unlink()
    StoreReader.open(tmp_path / "store.zarr").read()


def test_a_store_that_is_there_is_replaced_in_one_step(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    names = list(write_shards(tmp_path, 2))
    consolidate(tmp_path, names)
    (tmp_path / "store.zarr" / "core/energy/c/0/0").write_bytes(b"damaged")
    consolidate(tmp_path, names)
    StoreReader.open(tmp_path / "store.zarr").read()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "inputs.zarr", "store.zarr"])


def test_a_damaged_shard_is_named_and_the_old_store_stays(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    names = list(write_shards(tmp_path, 2))
    consolidate(tmp_path, names)
    before = digest(tmp_path / "store.zarr")
    chunk = tmp_path / names[1] / "core/forces/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    # Else all would be taken over from the store, which is whole.
    os.utime(tmp_path / names[1] / "zarr.json")
    with pytest.raises(StoreDamagedError, match=f"{names[1]}/core/forces/c/0/0"):
        consolidate(tmp_path, names)
    assert digest(tmp_path / "store.zarr") == before


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_consolidation import consolidate
import campaign.store.durable as durable
from campaign.store import consolidation_plan as planning
planning.SYSTEM_CHUNK_ROWS, planning.ATOM_CHUNK_ROWS, planning.CHUNKS_PER_SHARD = 16, 32, 2
real, done = durable.write_durably, [0]
def counted(path, *rest):
    if path.name.isdecimal():
        done[0] += 1
        if done[0] == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
    return real(path, *rest)
durable.write_durably = counted
consolidate(Path(sys.argv[1]), sorted(path.name for path in Path(sys.argv[1]).glob("0001-*")))
"""


def kill_a_consolidation(folder: Path, moment: int) -> int:
    """Kill one in another process before it writes its file number `moment`; return how many files of field rows it left."""
    arguments = [sys.executable, "-c", KILLED, str(folder), str(moment), str(Path(__file__).parent)]
    assert subprocess.run(arguments, check=False).returncode == -9
    left = [path for path in (folder / "store.zarr.partial").rglob("c/*") if "meta" not in path.parts]
    return sum(1 for path in left for file in [path, *path.rglob("*")] if file.is_file() and not file.name.endswith(".partial"))


@pytest.mark.parametrize("kills", [(1,), (60, 15, 1)])
def test_a_killed_consolidation_goes_on_where_it_was(tmp_path: Path, kills: tuple[int, ...]) -> None:
    write_inputs(tmp_path)
    names = list(write_shards(tmp_path, 2))
    whole = 0
    for moment in kills:
        left = kill_a_consolidation(tmp_path, moment)
        assert left >= max(whole, moment - 3)  # two threads: what one has begun the other does not wait for
        whole = left
    assert not (tmp_path / "store.zarr").exists()
    report = consolidate(tmp_path, names)
    assert (report.n_kept, report.n_taken_over) == (whole, 0)
    goes_on = digest(tmp_path / "store.zarr")
    assert not (tmp_path / "store.zarr.partial").exists()
    shutil.rmtree(tmp_path / "store.zarr")
    anew = consolidate(tmp_path, names)
    assert anew.n_kept == 0 and anew.n_written == report.n_written + whole
    assert digest(tmp_path / "store.zarr") == goes_on
    assert sorted(path.name for path in (tmp_path / "store.zarr").iterdir()) == ["core", "custom", "labels", "meta", "zarr.json"]


def test_what_another_plan_left_is_not_kept(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    names = list(write_shards(tmp_path, 3, again=5))
    assert kill_a_consolidation(tmp_path, 70) > 60
    # Without the first shard other rows count, so only what comes from the inputs alone is the same.
    readers = [StoreReader.open(tmp_path / name) for name in names]
    missing = (
        set(range(N)) - {int(i) for reader in readers[1:] for i in reader.read_system("system_id")[:, 0]} - set(np.flatnonzero(REJECTS))
    )
    plan = make_plan(tmp_path, names[1:], allow_incomplete=True)
    assert plan.n_missing == len(missing) > 0
    sources = {name: tmp_path / name for name in plan.sources}
    report = run_consolidation(plan, sources, tmp_path / "store.zarr.partial", tmp_path / "store.zarr", STORE_FIELDS, CARRIED_FIELDS)
    assert report.n_kept == 0
    reader = StoreReader.open(tmp_path / "store.zarr")
    ids = reader.read_system("system_id")[:, 0]
    assert set(range(N)) - set(ids.tolist()) == missing
    inputs = StoreReader.open(tmp_path / "inputs.zarr")
    for field in CARRIED_FIELDS:
        np.testing.assert_array_equal(reader.read(names=[field.name])[field.name], inputs.read(ids, [field.name])[field.name])
    for name, shard in zip(names[1:2], readers[1:2], strict=True):
        own = shard.read_system("system_id")[:, 0]
        places = np.searchsorted(ids, own)
        for field in RESULT_FIELDS:
            np.testing.assert_array_equal(
                reader.read(places, [field.name])[field.name], shard.read(names=[field.name])[field.name], err_msg=name
            )


def test_output_shards_that_are_unchanged_are_taken_over(tmp_path: Path) -> None:
    inputs, twins = write_inputs(tmp_path), write_shards(tmp_path, 2)
    first = consolidate(tmp_path, list(twins))
    before = digest(tmp_path / "store.zarr")
    # The same again: nothing is written.
    again = consolidate(tmp_path, list(twins))
    assert (again.n_written, again.n_taken_over) == (0, first.n_written)
    # A later shard whose rows do not count changes nothing either.
    system = int(np.flatnonzero(~REJECTS)[0])
    other = made_up_columns(RESULT_FIELDS, SIZES[[system]], 5) | {"system_id": np.array([[system]])}
    write_store(tmp_path / str(ShardName(2, 0, 0, 0)), RESULT_FIELDS, SIZES[[system]], other)
    names = [*twins, str(ShardName(2, 0, 0, 0))]
    assert consolidate(tmp_path, names).n_written == 0
    # A damaged output shard is not taken over.
    file = tmp_path / "store.zarr/core/positions/c/1/0"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 3] ^= 1
    file.unlink()
    file.write_bytes(raw)
    assert consolidate(tmp_path, names).n_written == 1
    # A row of another origin: of each array the one output shard that it lies in, or two where its atoms do.
    os.utime(tmp_path / names[2] / "zarr.json")
    shard = ShardName(0, 0, 0, 0)
    last = int(np.flatnonzero(~REJECTS)[-1])
    newer = made_up_columns(RESULT_FIELDS, SIZES[[last]], 6) | {"system_id": np.array([[last]])}
    write_store(tmp_path / str(shard), RESULT_FIELDS, SIZES[[last]], newer)
    # Names of sources are in order, so this one is the first; the others keep what they are.
    report = consolidate(tmp_path, [str(shard), *names])
    n_arrays = len(STORE_FIELDS)
    assert n_arrays <= report.n_written <= 2 * n_arrays and report.n_taken_over == first.n_written - report.n_written
    assert StoreReader.open(tmp_path / "store.zarr").read_system("energy", [last])[0, 0] == newer["energy"][0, 0]
    shutil.rmtree(tmp_path / str(shard))
    consolidate(tmp_path, list(twins))
    assert digest(tmp_path / "store.zarr") == before
    check_store(tmp_path, inputs, twins)


MEASURED = """
import json, sys
from pathlib import Path
from campaign.consolidate import run_consolidate
from campaign.dask_client import DaskWorkers
from campaign.paths import CampaignPaths
run_consolidate(CampaignPaths(Path(sys.argv[1])), DaskWorkers("threads", 2), budget_bytes=int(sys.argv[2]))
# Not ru_maxrss, which after a fork is that of the parent.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_measured_memory_stays_within_the_budget_that_the_plan_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SYSTEM_CHUNK_ROWS": 4096, "ATOM_CHUNK_ROWS": 65536, "CHUNKS_PER_SHARD": 16}.items():
        monkeypatch.setattr(planning, name, value)
    sizes = np.full(120_000, 60, dtype=np.int64)
    zeros = {
        field.name: np.zeros(
            (int(sizes.sum()) if field.level is Level.ATOM else len(sizes), *field.trailing),
            field.dtype if field.dtype != "string" else object,
        )
        for field in STORE_FIELDS
    }
    zeros |= {field.name: np.full(len(sizes), "", object) for field in STORE_FIELDS if field.dtype == "string"}
    zeros["system_id"] = np.arange(len(sizes))[:, None]
    paths = CampaignPaths(tmp_path)
    write_plain_store(paths.inputs, INPUT_FIELDS, sizes, {**zeros, "outcome": np.full((len(sizes), 1), RUNNING)}, {})
    n_bytes = sum(values.nbytes for values in zeros.values())
    order = np.random.default_rng(0).permutation(len(sizes))
    write_plain_store(paths.shard(ShardName(1, 0, 0, 0)), RESULT_FIELDS, sizes, {**zeros, "system_id": order[:, None]}, {})
    del zeros
    budget = 600 * 2**20
    assert n_bytes > budget
    plan = plan_consolidation(
        InputIndex("inputs.zarr", sizes, np.zeros(len(sizes), dtype=bool)),
        [ShardIndex("shard", order, sizes)],
        STORE_FIELDS,
        budget,
        n_threads=2,
    )
    stated = json.loads(plan.to_json())
    assert stated["n_parallel"] == 2 and stated["fixed_bytes"] + 2 * stated["peak_bytes"] <= stated["budget_bytes"] == budget
    ran = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path), str(budget)], capture_output=True, text=True, check=True)
    measured = int(ran.stdout) * 1024
    print(f"{n_bytes / 2**20:.0f} MiB of values, budget {budget / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB; {plan}")
    assert stated["fixed_bytes"] < measured <= budget
