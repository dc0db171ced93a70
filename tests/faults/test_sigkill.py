"""SIGKILL at 300 random instants of writing and of consolidating: what was acknowledged is there, and numbers are right.

A process that has everything imported forks the one that is killed, so that a kill costs no start. `CAMPAIGN_SIGKILLS` sets how many
there are, `CAMPAIGN_FAULT_SEED` other instants; how far a process gets by then is up to the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from campaign.fields import FIELDS, INPUT_FIELDS
from campaign.outcomes import RUNNING
from campaign.store import StoreReader, write_store
from campaign.store.digest import digest
from campaign.store.durable import sweep_partial
from campaign.store.publication import recover_folder
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard, compare_rows

N_KILLS = int(os.environ.get("CAMPAIGN_SIGKILLS", "300"))
SEED = int(os.environ.get("CAMPAIGN_FAULT_SEED", "20261125"))
SMALL = tuple(FIELDS[name] for name in ("system_id", "energy", "positions"))
SIZES = np.array([3, 0, 2], dtype=np.int64)

KILLER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import dask, dask.threaded, numpy as np, zarr
from campaign.testing.store_rows import made_up_columns
from test_sigkill import SIZES, SMALL, consolidate
from campaign.store import Chunking, ShardWriter

folder, n_kills, seed, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

def write(place, say):
    writer = ShardWriter.create(place, SMALL, {}, 3600.0, Chunking(4, 8))
    say(0)
    for number in range(6):
        writer.append(SIZES, made_up_columns(SMALL, SIZES, number))
        writer.flush()
        say(number + 1)
    writer.close()

def renew(place, say):
    consolidate(place)
    say(1)

def start(number):
    place = folder / f"{number}"
    if kind == "consolidate":
        shutil.copytree(folder / "begin", place, copy_function=os.link)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        (write if kind == "write" else renew)(place, lambda what: os.write(writing, bytes([what])))
        os._exit(0)
    os.close(writing)
    return child, reading

def end(child, reading):
    status = os.waitpid(child, 0)[1]
    said = os.read(reading, 100)
    os.close(reading)
    return status, said[-1] if said else -1

started = time.monotonic()
first = start("whole")
status, said = end(*first)
assert status == 0, status
whole_s = time.monotonic() - started
random.seed(f"{seed} {kind}")
killed, number = {}, 0
while len(killed) < n_kills:
    child, reading = start(number)
    time.sleep(random.uniform(0, whole_s))
    os.kill(child, signal.SIGKILL)
    status, said = end(child, reading)
    if os.WIFSIGNALED(status):
        killed[number] = said
    number += 1
print(json.dumps({"killed": killed, "started": number}))
"""


def consolidate(root: Path) -> None:
    """Consolidate the shards of a folder, by its plan, as one process of its own would."""
    from campaign.paths import CampaignPaths
    from campaign.store.consolidation import run_consolidation
    from campaign.store.consolidation_plan import InputIndex, ShardIndex, plan_consolidation

    names = sorted(path.name for path in root.glob("0001-*"))
    inputs = InputIndex("inputs.zarr", SIZES, np.zeros(3, dtype=bool))
    plan = plan_consolidation(inputs, [ShardIndex(name, np.arange(3), SIZES) for name in names], SMALL)
    paths = CampaignPaths(root)
    recover_folder(paths.store)
    run_consolidation(plan, {name: root / name for name in plan.sources}, paths.store_staging, paths.store, SMALL)


def kill(folder: Path, n_kills: int, kind: str) -> dict[Path, int]:
    """Kill so many; return where each one worked and the last thing it acknowledged, -1 for nothing."""
    command = [sys.executable, "-c", KILLER, str(folder), str(n_kills), str(SEED), kind]
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": places})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    acknowledged = {folder / number: said for number, said in report["killed"].items()}
    counts = np.unique(list(acknowledged.values()), return_counts=True)
    print(
        f"{len(acknowledged)} of {report['started']} killed; acknowledged by then: {dict(zip(*(c.tolist() for c in counts), strict=True))}"
    )
    return acknowledged


def test_writers(tmp_path: Path) -> None:
    acknowledged = kill(tmp_path, N_KILLS * 3 // 4, "write")
    assert len(acknowledged) == N_KILLS * 3 // 4
    # Instants before the first commit, between commits and after most of them.
    assert len(set(acknowledged.values())) >= 4
    twin = TwinShard(SMALL)
    for seed in range(6):
        twin.append(SIZES, made_up_columns(SMALL, SIZES, seed))
    for place, said in acknowledged.items():
        if not place.exists():
            assert said == -1
            continue
        reader = StoreReader.open(place)
        assert reader.n_systems >= len(SIZES) * max(said, 0)
        assert reader.n_systems % len(SIZES) == 0
        compare_rows(reader, twin.rows[: reader.n_systems])
    sweep_partial(tmp_path, -1)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]


def test_consolidations(tmp_path: Path) -> None:
    begin = tmp_path / "begin"
    begin.mkdir()
    columns = made_up_columns(INPUT_FIELDS, SIZES, 0) | {"system_id": np.arange(3)[:, None], "outcome": np.full((3, 1), RUNNING)}
    write_store(begin / "inputs.zarr", INPUT_FIELDS, SIZES, columns)
    for seed in (1, 0):
        results = made_up_columns(SMALL, SIZES, seed) | {"system_id": np.arange(3)[:, None]}
        write_store(begin / f"0001-00000-0000{seed}-000.zarr", SMALL, SIZES, results)
        if seed:
            consolidate(begin)
    old = digest(begin / "store.zarr")
    acknowledged = kill(tmp_path, N_KILLS // 4, "consolidate")
    new = digest(tmp_path / "whole" / "store.zarr")
    assert old != new
    assert len(acknowledged) == N_KILLS // 4
    for number, (place, said) in enumerate(acknowledged.items()):
        recover_folder(place / "store.zarr")
        there = digest(place / "store.zarr")
        assert there == new or (there == old and said == -1)
        if number % 5 == 0:
            consolidate(place)
            assert digest(place / "store.zarr") == new
            assert sorted(path.name for path in place.iterdir()) == sorted(path.name for path in begin.iterdir())
