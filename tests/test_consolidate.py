"""The arrow from shards to the store: each input once, mixed models refused, provenance apart, one consolidation at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import campaign
from campaign.consolidate import run_consolidate
from campaign.dask_client import DaskWorkers
from campaign.errors import IncompleteError, ModelMismatchError, ResourceError, StoreDamagedError, StoreError
from campaign.fields import CARRIED_FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS, TRAJECTORY_FIELDS
from campaign.outcomes import RUNNING, Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.show import show_system
from campaign.store import ShardWriter, StoreReader, write_store
from campaign.store.audit import audit_store
from campaign.store.digest import digest
from campaign.store.durable import exclusive_lock
from campaign.store.layout import RESERVED_ATTRIBUTES
from campaign.store.trajectory import read_frames_ptr
from campaign.testing.store_rows import made_up_columns
from campaign.testing.synthetic import SyntheticSystems, shard_attributes, synthetic_systems, write_shard, write_synthetic_campaign
from campaign.worker.claims import plan_blocks
from campaign.worker.claims.files import FileClaims
from campaign.worker.inputs import InputSampler

WithFrames = tuple[CampaignPaths, ShardName, int]
LATER = ShardName(2, 0, 0, 0)


@pytest.fixture(scope="module")
def systems() -> SyntheticSystems:
    return synthetic_systems(80, odds=(0.7, 0.08, 0.06, 0.1, 0.06))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, systems: SyntheticSystems) -> Path:
    return write_synthetic_campaign(tmp_path_factory.mktemp("made") / "c", systems, consolidated=False).root


@pytest.fixture
def paths(tmp_path: Path, made: Path) -> CampaignPaths:
    return CampaignPaths(shutil.copytree(made, tmp_path / "it's ö"))


def test_each_input_is_there_once_with_what_it_came_with(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    report = run_consolidate(paths)
    reader = StoreReader.open(paths.store)
    values = reader.read()
    invalid = systems.outcomes() == Outcome.INVALID
    assert values["system_id"][:, 0].tolist() == list(range(80))
    assert {field.name for field in reader.fields} == {field.name for field in STORE_FIELDS}
    for field in CARRIED_FIELDS:
        np.testing.assert_array_equal(values[field.name], systems.columns[field.name], err_msg=field.name)
    for name in ("energy", "n_steps", "fmax", "cell", "outcome"):
        np.testing.assert_array_equal(values[name][~invalid], systems.columns[name][~invalid], err_msg=name)
    assert (values["outcome"][invalid] == Outcome.INVALID).all()
    assert np.isnan(values["energy"][invalid]).all()
    np.testing.assert_array_equal(values["error"], systems.columns["error"])
    assert report.outcomes == {outcome.label: int((systems.outcomes() == outcome).sum()) for outcome in Outcome}
    assert (report.store, report.n_systems, report.n_shards, report.n_duplicates, report.n_missing, report.n_frames) == (
        str(paths.store), 80, 4, 0, 0, 0,
    )  # fmt: skip


def test_inputs_without_an_outcome_are_told_and_no_store_is_made(paths: CampaignPaths) -> None:
    shutil.rmtree(paths.shard(paths.shard_names()[0]))
    with pytest.raises(IncompleteError, match=r"\d+ of 80 inputs have no outcome .*Run `campaign resume`"):
        run_consolidate(paths)
    assert not paths.store.exists()
    report = run_consolidate(paths, allow_incomplete=True)
    reader = StoreReader.open(paths.store)
    assert report.n_missing > 0 and reader.n_systems == report.n_systems == 80 - report.n_missing
    assert reader.attributes["n_missing"] == report.n_missing


def test_results_of_removed_shards_are_taken_from_the_store(paths: CampaignPaths) -> None:
    run_consolidate(paths)
    before, provenance = digest(paths.store), StoreReader.open(paths.store).attributes["provenance"]
    for removed in paths.shard_names()[1:3], paths.shard_names()[3:], paths.shard_names()[:1]:
        for name in removed:
            shutil.rmtree(paths.shard(name))
        report = run_consolidate(paths)
        assert (report.n_systems, report.n_duplicates, report.n_missing) == (80, 0, 0)
        assert digest(paths.store) == before
        assert StoreReader.open(paths.store).attributes["provenance"] == provenance
    assert paths.shard_names() == []


def test_the_first_shard_wins_and_duplicates_are_counted(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    run_consolidate(paths)
    before = digest(paths.store)
    again = systems.take(np.flatnonzero(systems.outcomes() == Outcome.CONVERGED)[:5])
    again.columns["energy"] += 1.0
    write_shard(paths, LATER, again)
    report = run_consolidate(paths)
    assert report.n_duplicates == 5
    assert digest(paths.store) == before


def test_arrays_do_not_depend_on_how_many_ranks_did_the_work(tmp_path: Path, systems: SyntheticSystems) -> None:
    digests = []
    for n_ranks in (1, 2, 6):
        paths = write_synthetic_campaign(tmp_path / str(n_ranks), systems, consolidated=False, n_ranks=n_ranks)
        run_consolidate(paths)
        digests.append(digest(paths.store))
        assert len(StoreReader.open(paths.store).attributes["provenance"]["shards"]) == n_ranks
    assert digests[0] == digests[1] == digests[2]


def test_a_cluster_gives_the_same(paths: CampaignPaths) -> None:
    run_consolidate(paths)
    before = digest(paths.store)
    run_consolidate(paths, DaskWorkers("local", 1))
    assert digest(paths.store) == before


def test_results_of_two_models_are_not_mixed_unless_asked(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    with ShardWriter.create(paths.shard(LATER), RESULT_FIELDS, {"model_fingerprint": "0ther" * 12}) as writer:
        done = systems.take(np.array([0]))
        writer.append(done.n_atoms, {field.name: done.columns[field.name] for field in RESULT_FIELDS})
    with pytest.raises(
        ModelMismatchError,
        match=r"of 2 models \(model 9f2c9f2c9f2c: 4 from 0001.*model 0ther.*last, model 0ther0ther0t: Remove shards/0001-.*--allow-mixed",
    ):
        run_consolidate(paths)
    assert not paths.store.exists()
    run_consolidate(paths, allow_mixed=True)
    assert StoreReader.open(paths.store).attributes["model_fingerprints"] == ["0ther" * 12, "9f2c" * 16]


def test_results_of_two_releases_are_not_mixed_unless_asked(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    attributes = shard_attributes()
    with ShardWriter.create(paths.shard(LATER), RESULT_FIELDS, {**attributes, "versions": {"relax-campaign": "0.2.0"}}) as writer:
        done = systems.take(np.array([0]))
        writer.append(done.n_atoms, {field.name: done.columns[field.name] for field in RESULT_FIELDS})
    with pytest.raises(
        ModelMismatchError,
        match=r"shards of 2 releases of this package \(0\.1\.0: 4 from 0001.*0\.2\.0: 1 from 0002.*last, 0\.2\.0: Remove.*--allow-mixed",
    ):
        run_consolidate(paths)
    assert not paths.store.exists()
    run_consolidate(paths, allow_mixed=True)
    assert StoreReader.open(paths.store).attributes["releases"] == ["0.1.0", "0.2.0"]
    # They are still two where the store stands in for shards that were removed.
    shutil.rmtree(paths.shard(LATER))
    shutil.rmtree(paths.shard(paths.shard_names()[0]))
    with pytest.raises(ModelMismatchError, match="releases"):
        run_consolidate(paths)


def test_an_empty_shard_of_another_model_is_no_matter(paths: CampaignPaths) -> None:
    ShardWriter.create(paths.shard(LATER), RESULT_FIELDS, {"model_fingerprint": "another"}).close()
    run_consolidate(paths)
    assert StoreReader.open(paths.store).attributes["model_fingerprints"] == ["9f2c" * 16]


def test_provenance_says_what_all_shards_share_once(paths: CampaignPaths) -> None:
    run_consolidate(paths)
    provenance = StoreReader.open(paths.store).attributes["provenance"]
    assert provenance["shared"]["model"]["name"] == "emt"
    assert provenance["shared"]["versions"]["torch"]
    assert list(provenance["shards"]) == [str(name) for name in paths.shard_names()]
    assert sum(shard["n_systems"] for shard in provenance["shards"].values()) == 80 - np.count_nonzero(
        StoreReader.open(paths.store).read_system("outcome") == Outcome.INVALID
    )


def test_a_damaged_shard_is_named(paths: CampaignPaths) -> None:
    chunk = paths.shard(paths.shard_names()[1]) / "core/positions/c/0/0"
    raw = bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 1
    chunk.write_bytes(raw)
    with pytest.raises(StoreDamagedError, match=r"0001-00000-00001-000\.zarr/core/positions/c/0/0 cannot be decoded.*Restore|restore"):
        run_consolidate(paths)
    assert not paths.store.exists()


def test_a_budget_that_is_too_small_is_refused(paths: CampaignPaths) -> None:
    with pytest.raises(ResourceError, match=r"needs \d+ MiB for one Dask task, but its budget is 1 MiB"):
        run_consolidate(paths, budget_bytes=2**20)


def test_one_consolidation_at_a_time(paths: CampaignPaths) -> None:
    script = "import sys, time; from pathlib import Path; from campaign.store.durable import exclusive_lock\n"
    script += "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(paths.store_lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=r"being consolidated by another process.*wait for it, or end it"):
        run_consolidate(paths)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    run_consolidate(paths)
    with exclusive_lock(paths.store_lock) as ours:
        assert ours


def test_left_overs_of_killed_writers_go_away(paths: CampaignPaths) -> None:
    old = paths.shard(paths.shard_names()[0]) / ".zarr.json.0123.partial"
    old.write_text("{")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    (paths.root / "store.zarr.partial").mkdir()
    frames = paths.trajectory_shards / ".0001-00000-00000-000.zarr.ab.partial"
    frames.mkdir(parents=True)
    os.utime(frames, (time.time() - 7200, time.time() - 7200))
    run_consolidate(paths)
    for name in (".store.zarr.0123.partial", ".trajectory.zarr.0123.partial"):
        (paths.root / name / "core").mkdir(parents=True)
    (paths.root / "trajectory.zarr").mkdir()
    run_consolidate(paths)
    assert not [path for path in paths.root.rglob("*") if path.name.endswith(".partial")]
    assert not [path for path in paths.root.iterdir() if "lock" in path.name and not path.name.startswith(".")]


def test_a_store_that_was_moved_aside_by_a_killed_consolidation_still_counts(paths: CampaignPaths) -> None:
    run_consolidate(paths)
    before = digest(paths.store)
    for name in paths.shard_names():
        shutil.rmtree(paths.shard(name))
    paths.store.rename(paths.root / ".store.zarr.0123.partial")
    run_consolidate(paths)
    assert digest(paths.store) == before


def frames(systems: SyntheticSystems, ids: list[int], steps: list[int], seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    n_atoms = systems.n_atoms[ids]
    columns = made_up_columns(TRAJECTORY_FIELDS, n_atoms, seed)
    columns["system_id"] = np.array(ids)[:, None]
    columns["step"] = np.array(steps)[:, None]
    return n_atoms, columns


@pytest.fixture
def with_frames(paths: CampaignPaths, systems: SyntheticSystems) -> Iterator[WithFrames]:
    """Frames of one system in the shard of its result, out of order and one of them twice, and in a shard of a killed attempt."""
    name = paths.shard_names()[2]
    system = int(StoreReader.open(paths.shard(name)).read_system("system_id")[0, 0])
    with ShardWriter.create(paths.trajectory_shard(name), TRAJECTORY_FIELDS) as writer:
        for number, step in enumerate((10, 0, 20, 10)):
            writer.append(*frames(systems, [system], [step], number))
    ShardWriter.create(paths.shard(LATER), RESULT_FIELDS, {"model_fingerprint": "9f2c" * 16}).close()
    with ShardWriter.create(paths.trajectory_shard(LATER), TRAJECTORY_FIELDS) as writer:
        writer.append(*frames(systems, [system], [5], 9))
    yield paths, name, system


def test_trajectories_are_sorted_and_of_the_run_that_counts(
    with_frames: tuple[CampaignPaths, ShardName, int], systems: SyntheticSystems
) -> None:
    paths, _, system = with_frames
    report = run_consolidate(paths)
    reader = StoreReader.open(paths.trajectory)
    assert report.n_frames == reader.n_systems == 3
    assert reader.read_system("step")[:, 0].tolist() == [0, 10, 20]
    assert set(reader.read_system("system_id")[:, 0].tolist()) == {system}
    for row, seed in enumerate((1, 0, 2)):
        expected = frames(systems, [system], [0], seed)[1]
        np.testing.assert_array_equal(reader.read_atoms("positions", [row])[1], expected["positions"])
        np.testing.assert_array_equal(reader.read_system("energy", [row]), expected["energy"])
    assert reader.attributes["n_left_out"] == 2
    ptr = read_frames_ptr(paths.trajectory)
    assert len(ptr) == 81 and np.diff(ptr).tolist() == [3 if number == system else 0 for number in range(80)]
    assert reader.read_system("step", slice(*ptr[system : system + 2]))[:, 0].tolist() == [0, 10, 20]


def test_a_report_is_plain_and_prints(paths: CampaignPaths) -> None:
    from dataclasses import asdict

    assert json.loads(json.dumps(asdict(run_consolidate(paths))))["n_systems"] == 80


def test_shards_of_an_older_format_are_verified_and_consolidated(paths: CampaignPaths) -> None:
    name = paths.shard_names()[0]
    reader = StoreReader.open(paths.shard(name))
    n_atoms, values, attributes = reader.n_atoms(), reader.read(), reader.attributes
    own = {key: value for key, value in attributes.items() if key not in RESERVED_ATTRIBUTES}
    shutil.rmtree(paths.shard(name))
    fields = [field for field in RESULT_FIELDS if field.since == 1]
    assert {field.name for field in RESULT_FIELDS} - {field.name for field in fields} == {"energy_per_atom", "n_fragments"}
    with ShardWriter.create(paths.shard(name), fields, own) as writer:
        writer.append(n_atoms, {field.name: values[field.name] for field in fields})
    document = paths.shard(name) / "zarr.json"
    root = json.loads(document.read_text(encoding="utf-8"))
    root["attributes"]["format_version"] = 1
    del root["attributes"]["checksum"]  # which came later
    document.write_text(json.dumps(root), encoding="utf-8")
    assert show_system(paths, int(values["system_id"][0, 0])).n_fragments is None
    run_consolidate(paths)
    assert audit_store(paths.shard(name), RESULT_FIELDS, "").findings == ()
    assert audit_store(paths.store, STORE_FIELDS, "").findings == ()
    old = values["system_id"][:, 0]
    store = StoreReader.open(paths.store)
    np.testing.assert_array_equal(store.read_system("energy", old), values["energy"])
    assert np.isnan(store.read_system("energy_per_atom", old)).all()
    assert (store.read_system("n_fragments", old) == 0).all()
    new = np.setdiff1d(np.flatnonzero(store.read_system("outcome")[:, 0] == Outcome.CONVERGED), old)
    assert (store.read_system("n_fragments", new) >= 1).all()
    table = campaign.open(paths.root).frame(["energy", "energy_per_atom", "n_atoms"])
    known = table[table["energy"].notna()]
    np.testing.assert_allclose(known["energy_per_atom"], known["energy"] / known["n_atoms"], rtol=1e-15)


def test_inputs_of_an_older_format_are_relaxed_and_consolidated(paths: CampaignPaths) -> None:
    """They say nothing about symmetry that is to be kept: none is."""
    reader = StoreReader.open(paths.inputs)
    n_atoms, values = reader.n_atoms(), reader.read()
    shutil.rmtree(paths.inputs)
    fields = [field for field in INPUT_FIELDS if field.since <= 2]
    assert {field.name for field in INPUT_FIELDS} - {field.name for field in fields} == {"symprec"}
    write_store(paths.inputs, fields, n_atoms, {field.name: values[field.name] for field in fields})
    document = paths.inputs / "zarr.json"
    root = json.loads(document.read_text(encoding="utf-8"))
    root["attributes"]["format_version"] = 2
    del root["attributes"]["checksum"]  # which came later
    document.write_text(json.dumps(root), encoding="utf-8")
    assert audit_store(paths.inputs, INPUT_FIELDS, "").findings == ()
    ids = np.flatnonzero(values["outcome"][:, 0] == RUNNING)
    claims = FileClaims(paths.root / "claims", plan_blocks(len(ids), 1), 0)
    sampler = InputSampler(StoreReader.open(paths.inputs), ids, np.zeros(len(ids), dtype=bool), claims, 10**6)
    batch = sampler.next_batch(5, 10**6)
    assert batch is not None and batch.num_graphs == 5 and "symprec" not in batch
    run_consolidate(paths)
    assert audit_store(paths.store, STORE_FIELDS, "").findings == ()
    assert (StoreReader.open(paths.store).read_system("symprec") == 0).all()
    assert not any(constraint for atoms in campaign.open(paths.root) for constraint in atoms.constraints)
