"""Carrying plans out: the same rows as in lists in memory, by threads and by a cluster, again after a kill, within the stated memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from campaign.errors import StoreDamagedError
from campaign.fields import CARRIED_FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS, encode_error
from campaign.outcomes import RUNNING, Outcome
from campaign.paths import ShardName
from campaign.store import ShardWriter, StoreReader, write_store
from campaign.store import consolidation_plan as planning
from campaign.store.consolidation import ConsolidationReport, run_consolidation
from campaign.store.consolidation_plan import DEFAULT_BUDGET_BYTES, ConsolidationPlan, InputIndex, ShardIndex, plan_consolidation
from campaign.store.digest import digest
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


def make_plan(folder: Path, names: list[str]) -> ConsolidationPlan:
    readers = {name: StoreReader.open(folder / name) for name in names}
    indices = [ShardIndex(name, reader.read_system("system_id")[:, 0], reader.n_atoms()) for name, reader in readers.items()]
    return plan_consolidation(InputIndex("inputs.zarr", SIZES, REJECTS), indices, STORE_FIELDS)


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
    with pytest.raises(StoreDamagedError, match=f"{names[1]}/core/forces/c/0/0"):
        consolidate(tmp_path, names)
    assert digest(tmp_path / "store.zarr") == before


KILLED = """
import os, sys
from pathlib import Path
import campaign.store.consolidation as module
sys.path.insert(0, sys.argv[3])
from test_consolidation import consolidate
from campaign.store import consolidation_plan as planning
planning.SYSTEM_CHUNK_ROWS, planning.ATOM_CHUNK_ROWS, planning.CHUNKS_PER_SHARD = 16, 32, 2
real, done = module.write_objects, [0]
def counted(*args):
    done[0] += 1
    if done[0] == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return real(*args)
module.write_objects = counted
consolidate(Path(sys.argv[1]), sorted(path.name for path in Path(sys.argv[1]).glob("0001-*")))
"""


@pytest.mark.parametrize("moment", [1, 30, 70])
def test_a_killed_consolidation_starts_again_cleanly(tmp_path: Path, moment: int) -> None:
    write_inputs(tmp_path)
    names = list(write_shards(tmp_path, 2))
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(moment), str(Path(__file__).parent)]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert not (tmp_path / "store.zarr").exists()
    assert (tmp_path / "store.zarr.partial").is_dir()
    consolidate(tmp_path, names)
    assert StoreReader.open(tmp_path / "store.zarr").n_systems == N
    assert not (tmp_path / "store.zarr.partial").exists()


def test_measured_memory_stays_below_what_the_plan_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SYSTEM_CHUNK_ROWS": 4096, "ATOM_CHUNK_ROWS": 65536, "CHUNKS_PER_SHARD": 16}.items():
        monkeypatch.setattr(planning, name, value)
    sizes = np.full(20_000, 20, dtype=np.int64)
    columns = made_up_columns(INPUT_FIELDS, sizes, 0)
    columns["outcome"][:] = RUNNING
    columns["system_id"] = np.arange(len(sizes))[:, None]
    write_store(tmp_path / "inputs.zarr", INPUT_FIELDS, sizes, columns)
    results = made_up_columns(RESULT_FIELDS, sizes, 1) | {"system_id": columns["system_id"][::-1]}
    write_store(tmp_path / "shard", RESULT_FIELDS, sizes, results)
    index = ShardIndex("shard", results["system_id"][:, 0], sizes)
    plan = plan_consolidation(InputIndex("inputs.zarr", sizes, np.zeros(len(sizes), dtype=bool)), [index], STORE_FIELDS)
    plan = planning.replace_budget(plan, plan.peak_bytes)
    assert plan.n_parallel == 1 and plan.peak_bytes < DEFAULT_BUDGET_BYTES
    del columns, results
    tracemalloc.start()
    run_consolidation(
        plan,
        {name: tmp_path / name for name in plan.sources},
        tmp_path / "store.zarr.partial",
        tmp_path / "store.zarr",
        STORE_FIELDS,
        CARRIED_FIELDS,
    )
    measured = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"planned {plan.peak_bytes / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert measured <= plan.peak_bytes
