"""What `campaign repair` keeps, what it says is lost, and that nothing is ever made worse."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from campaign.cli import app
from campaign.consolidate import run_consolidate
from campaign.errors import JobError, SpecError, StoreError
from campaign.fields import RESULT_FIELDS, STORE_FIELDS, TRAJECTORY_FIELDS, Level
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.progress import read_outcomes
from campaign.repair import RepairReport, run_repair
from campaign.store import Chunking, ShardWriter, StoreReader, aside
from campaign.store.audit import audit_store
from campaign.store.digest import digest
from campaign.store.durable import exclusive_lock
from campaign.testing.real_campaign import create_campaign
from campaign.testing.synthetic import SyntheticSystems, shard_attributes, synthetic_systems, write_synthetic_campaign
from campaign.verify import run_verify
from campaign.worker.processes import ProcessId
from campaign.worker.records import RankRecord, RunState
from slurm.run import resume_campaign

SMALL = Chunking(4, 32)
Damage = Callable[[CampaignPaths], None]


def rewrite(folder: Path, fields: tuple, chunking: Chunking = SMALL) -> None:
    """The same shard in chunks so small that damage leaves something whole."""
    reader = StoreReader.open(folder)
    own = {key: reader.attributes[key] for key in shard_attributes() if key in reader.attributes}
    n_atoms, columns = reader.n_atoms(), reader.read()
    shutil.rmtree(folder)
    with ShardWriter.create(folder, fields, own, chunking=chunking) as writer:
        writer.append(n_atoms, columns)


@pytest.fixture(scope="module")
def systems() -> SyntheticSystems:
    return synthetic_systems(60, odds=(0.7, 0.1, 0.1, 0.05, 0.05))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, systems: SyntheticSystems) -> Path:
    paths = write_synthetic_campaign(tmp_path_factory.mktemp("made") / "c", systems, consolidated=False, n_ranks=2)
    for name in paths.shard_names():
        rewrite(paths.shard(name), RESULT_FIELDS)
    run_consolidate(paths)
    return paths.root


@pytest.fixture
def paths(tmp_path: Path, made: Path) -> CampaignPaths:
    return CampaignPaths(shutil.copytree(made, tmp_path / "it's ö. c"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 16
    file.write_bytes(raw)


def remove(folder: Path, *patterns: str) -> None:
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        file.unlink()


def first_shard(paths: CampaignPaths) -> Path:
    return paths.shard(paths.shard_names()[0])


def contents(folder: Path) -> dict[str, str]:
    """Every file of a campaign but the lock, which looking takes, by its hash."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".store.zarr.lock")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def rows_of(folder: Path) -> dict[int, bytes]:
    """Every row of a store, all fields, by its system_id."""
    reader = StoreReader.open(folder)
    ptr, values = reader.atoms_ptr, reader.read()
    found = {}
    for at, system_id in enumerate(values["system_id"][:, 0].tolist()):
        span = {Level.ATOM: slice(ptr[at], ptr[at + 1]), Level.SYSTEM: slice(at, at + 1)}
        numbers = [field for field in sorted(reader.fields, key=lambda field: field.name) if field.dtype != "string"]
        found[system_id] = b"".join(values[field.name][span[field.level]].tobytes() for field in numbers)
    return found


def test_a_sound_campaign_stays_as_it_is(paths: CampaignPaths) -> None:
    before = contents(paths.root)
    report = run_repair(paths)
    assert report == RepairReport(True, False, 60, 4, (), (), (), False)
    assert contents(paths.root) == before


def test_rows_of_other_chunks_are_kept_bit_by_bit(paths: CampaignPaths) -> None:
    shard = first_shard(paths)
    shutil.rmtree(paths.store)
    before, original = rows_of(shard), (shard / "core/energy/c/2/0").read_bytes()
    ids = StoreReader.open(shard).read_system("system_id")[:, 0]
    cut(shard / "core/energy/c/2/0")
    report = run_repair(paths)
    (step,) = report.steps
    lost = ids[8:12].tolist()
    assert step.path == f"shards/{shard.name}"
    assert step.seen == ("core/energy/c/2/0 cannot be decoded: its checksum is wrong",)
    assert (step.n_kept, step.n_lost, list(step.lost_ids), list(report.to_compute)) == (len(before) - 4, 4, sorted(lost), sorted(lost))
    assert rows_of(shard) == {system_id: row for system_id, row in before.items() if system_id not in lost}
    assert StoreReader.open(shard).attributes["model_fingerprint"] == shard_attributes()["model_fingerprint"]
    # The original is kept as it was found.
    assert (paths.root / "damaged/0001/shards" / shard.name / "core/energy/c/2/0").read_bytes() == original[:-3]
    assert not run_repair(paths).steps


def test_an_atom_chunk_costs_the_systems_that_lie_in_it(paths: CampaignPaths) -> None:
    shard = first_shard(paths)
    shutil.rmtree(paths.store)
    reader = StoreReader.open(shard)
    ptr, ids = reader.atoms_ptr, reader.read_system("system_id")[:, 0]
    flip(shard / "core/forces/c/1/0")
    inside = (ptr[:-1] < 64) & (ptr[1:] > 32)
    assert list(run_repair(paths).to_compute) == sorted(ids[inside].tolist())


def test_a_row_that_the_store_has_is_not_computed_again(paths: CampaignPaths) -> None:
    want = digest(paths.store)
    cut(first_shard(paths) / "core/energy/c/2/0")
    report = run_repair(paths)
    assert report.steps[0].n_lost == 4 and report.to_compute == ()
    run_consolidate(paths)
    assert digest(paths.store) == want


def test_a_damaged_store_is_made_anew_from_the_shards(paths: CampaignPaths) -> None:
    want = digest(paths.store)
    for file in ("core/energy/c/0/0", "core/positions/c/0/0", "labels/info/c/0"):
        flip(paths.store / file)
    report = run_repair(paths)
    assert report.ok and report.consolidated and report.to_compute == ()
    assert "It is made anew from the shards" in str(report.steps[0])
    assert digest(paths.store) == want
    assert run_verify(paths).ok


def test_rows_that_only_the_store_has_are_kept(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    gone = first_shard(paths)
    only_there = set(StoreReader.open(gone).read_system("system_id")[:, 0].tolist())
    shutil.rmtree(gone)
    rewrite_store(paths)
    before = rows_of(paths.store)
    flip(paths.store / "custom/fmax/c/3/0")
    lost = only_there & set(range(12, 16))
    report = run_repair(paths)
    assert set(report.to_compute) == lost and lost
    after = rows_of(paths.store)
    assert after == {system_id: before[system_id] for system_id in only_there - lost}
    assert np.flatnonzero(~read_outcomes(paths).done_mask).tolist() == sorted(lost)


def rewrite_store(paths: CampaignPaths) -> None:
    """The store in small chunks."""
    reader = StoreReader.open(paths.store)
    own = {key: reader.attributes[key] for key in ("n_inputs", "model_fingerprints", "provenance")}
    n_atoms, columns = reader.n_atoms(), reader.read()
    shutil.rmtree(paths.store)
    with ShardWriter.create(paths.store, STORE_FIELDS, own, chunking=SMALL) as writer:
        writer.append(n_atoms, columns)


NO_ROW_LOST: dict[str, Damage] = {
    "a document of an array": lambda paths: cut(first_shard(paths) / "core/positions/zarr.json"),
    "most documents of arrays": lambda paths: remove(first_shard(paths), "core/[a-eg-z]*/zarr.json", "custom/[a-rt-z]*/zarr.json"),
    "a document of a group": lambda paths: (first_shard(paths) / "core/zarr.json").unlink(),
    "the root document, behind its attributes": lambda paths: cut(first_shard(paths) / "zarr.json"),
    "the root document, which the store knows": lambda paths: (first_shard(paths) / "zarr.json").write_bytes(b""),
    "pointers": lambda paths: flip(first_shard(paths) / "meta/atoms_ptr/c/1"),
    "all pointers": lambda paths: shutil.rmtree(first_shard(paths) / "meta/atoms_ptr"),
    "masks": lambda paths: (first_shard(paths) / "meta/atoms_mask/c/0").unlink(),
}


@pytest.mark.parametrize("damage", NO_ROW_LOST.values(), ids=NO_ROW_LOST)
def test_what_says_nothing_that_is_not_known_otherwise_costs_no_row(paths: CampaignPaths, damage: Damage) -> None:
    shard = first_shard(paths)
    before = rows_of(shard)
    damage(paths)
    dry = run_repair(paths, dry_run=True)
    report = run_repair(paths)
    assert report.steps == dry.steps and len(report.steps) == 1
    assert (report.steps[0].n_kept, report.steps[0].n_lost) == (len(before), 0)
    assert rows_of(shard) == before
    assert audit_store(shard, RESULT_FIELDS, "").findings == ()
    assert StoreReader.open(shard).attributes["model_fingerprint"] == shard_attributes()["model_fingerprint"]


def test_without_knowing_the_model_rows_are_not_believed(paths: CampaignPaths) -> None:
    shard = first_shard(paths)
    ids = StoreReader.open(shard).read_system("system_id")[:, 0]
    shutil.rmtree(paths.store)
    (shard / "zarr.json").unlink()
    report = run_repair(paths)
    assert "what computed it is not known" in str(report.steps[0])
    assert list(report.to_compute) == sorted(ids.tolist())
    assert not shard.exists()


def test_rows_that_belong_to_another_campaign_are_no_results(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    shutil.rmtree(paths.store)
    name = ShardName(7, 0, 0, 0)
    foreign = systems.take(np.array([3, 4, 5]))
    foreign.columns["system_id"] = np.array([[3], [99], [4]])  # one right, one unknown, one with the atoms of another
    foreign.columns["atomic_numbers"][-1] = 1
    with ShardWriter.create(paths.shard(name), RESULT_FIELDS, shard_attributes()) as writer:
        writer.append(foreign.n_atoms, {field.name: foreign.columns[field.name] for field in RESULT_FIELDS})
    report = run_repair(paths)
    assert "2 rows are not of an input of this campaign" in str(report.steps[0])
    assert StoreReader.open(paths.shard(name)).read_system("system_id").tolist() == [[3]]


def test_frames_of_a_trajectory(paths: CampaignPaths, systems: SyntheticSystems) -> None:
    name = paths.shard_names()[0]
    done = systems.take(np.repeat(np.flatnonzero((np.arange(60) % 2 == 0) & (systems.outcomes() != Outcome.INVALID)), 2))
    done.columns["step"] = (np.arange(len(done)) % 2)[:, None]
    paths.trajectory_shards.mkdir()
    with ShardWriter.create(paths.trajectory_shard(name), TRAJECTORY_FIELDS, chunking=SMALL) as writer:
        writer.append(done.n_atoms, {field.name: done.columns[field.name] for field in TRAJECTORY_FIELDS})
    run_consolidate(paths)
    want = digest(paths.trajectory)
    flip(paths.trajectory / "core/forces/c/0/0")
    report = run_repair(paths)
    assert report.consolidated and digest(paths.trajectory) == want
    flip(paths.trajectory_shard(name) / "core/energy/c/0/0")
    report = run_repair(paths)
    assert (report.steps[0].n_lost, report.steps[0].n_kept) == (4, len(done) - 4) and report.to_compute == ()
    assert audit_store(paths.trajectory_shard(name), TRAJECTORY_FIELDS, "").findings == ()


def test_inputs_that_cannot_be_read_anew_are_left_and_said(paths: CampaignPaths) -> None:
    flip(paths.inputs / "core/positions/c/0/0")
    before = contents(paths.root)
    report = run_repair(paths)
    assert not report.ok and report.steps == ()
    assert "inputs.zarr is damaged: core/positions/c/0/0 cannot be decoded" in report.unsolved[0]
    assert "Restore it from a copy" in report.unsolved[0]
    assert contents(paths.root) == before


RECORDS: dict[str, Damage] = {
    "a rank's record": lambda paths: cut(next(paths.rank_records(1).glob("*.json"))),
    "times": lambda paths: paths.timings.write_bytes(b"[{"),
    "a plan that was never submitted": lambda paths: paths.plan(2).write_text("{}"),
}


@pytest.mark.parametrize("damage", RECORDS.values(), ids=RECORDS)
def test_damaged_records_are_moved_away(paths: CampaignPaths, damage: Damage) -> None:
    paths.plan(1).write_text(
        json.dumps({"format_version": 1, "round": 1, "token": "0", "array_tasks": 1, "n_systems": 0, "n_atoms": [0], "order": []})
    )
    assert run_repair(paths).steps == ()
    damage(paths)
    report = run_repair(paths)
    assert len(report.steps) == 1 and report.ok
    assert (paths.damaged / "0001" / report.steps[0].path).is_file() and not (paths.root / report.steps[0].path).exists()
    assert run_repair(paths).steps == ()


def test_without_a_spec_nothing_is_touched(paths: CampaignPaths) -> None:
    shutil.rmtree(first_shard(paths) / "core/energy")
    paths.spec.write_bytes(paths.spec.read_bytes()[:60])
    before = contents(paths.root)
    with pytest.raises(SpecError):
        run_repair(paths)
    assert contents(paths.root) == before


def test_a_dry_run_changes_nothing_and_says_the_same(paths: CampaignPaths) -> None:
    shutil.rmtree(paths.store)
    cut(first_shard(paths) / "core/energy/c/2/0")
    before = contents(paths.root)
    dry = run_repair(paths, dry_run=True)
    assert contents(paths.root) == before
    done = run_repair(paths)
    assert (dry.steps, dry.to_compute, dry.dry_run) == (done.steps, done.to_compute, True)
    assert np.flatnonzero(~read_outcomes(paths).done_mask).tolist() == list(done.to_compute)


def test_a_campaign_that_runs_is_refused(paths: CampaignPaths) -> None:
    cut(first_shard(paths) / "core/energy/c/2/0")
    paths.plan(1).write_text(
        json.dumps({"format_version": 1, "round": 1, "token": "0", "array_tasks": 1, "n_systems": 0, "n_atoms": [0], "order": []})
    )
    RankRecord(ShardName(1, 0, 5, 0), RunState.RUNNING, ProcessId.this(), None, 0.0).write(paths)
    before = contents(paths.root)
    with pytest.raises(StoreError, match=rf"rank 5 of round 1 is at work as process {os.getpid()} on {socket.gethostname()}\. Wait for it"):
        run_repair(paths)
    assert contents(paths.root) == before


def test_one_repair_at_a_time(paths: CampaignPaths) -> None:
    with exclusive_lock(paths.store_lock) as is_ours:
        assert is_ours
        with pytest.raises(StoreError, match="consolidated or repaired by another process"):
            run_repair(paths)


class Killer:
    """Lets so many moments pass, each before or after a call, and ends the process at the next one."""

    def __init__(self, moments: int) -> None:
        self._left = moments
        self.has_killed = False

    def __call__(self, call: Callable, *names: Path) -> object:
        self._moment()
        result = call(*names)
        self._moment()
        return result

    def _moment(self) -> None:
        self._left -= 1
        if self._left == -1:
            self.has_killed = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("can_exchange", [True, False])
def test_killed_between_any_two_steps_it_goes_on(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    """At each rename the process dies, before it or after it; a second repair ends with the same rows, and the originals are there."""
    if not can_exchange:
        monkeypatch.setattr(aside, "exchange", lambda first, second: False)
    rename, exchange = aside._rename, aside.exchange
    kept = None
    for last in range(20):
        paths = CampaignPaths(shutil.copytree(made, tmp_path / str(last)))
        shutil.rmtree(paths.store)
        cut(first_shard(paths) / "core/energy/c/2/0")
        original = contents(first_shard(paths))
        killer = Killer(last)
        monkeypatch.setattr(aside, "_rename", partial(killer, rename))
        monkeypatch.setattr(aside, "exchange", partial(killer, exchange))
        with suppress(KeyboardInterrupt):
            run_repair(paths)
        monkeypatch.setattr(aside, "_rename", rename)
        monkeypatch.setattr(aside, "exchange", exchange)
        report = run_repair(paths)
        rows = rows_of(first_shard(paths))
        kept = kept or rows
        assert rows == kept and len(report.to_compute) == 4
        assert original in [contents(folder) for folder in paths.damaged.glob("*/shards/*.zarr")]
        if not killer.has_killed:
            return
    raise AssertionError("it never ended")


def test_whatever_is_damaged_what_is_kept_is_right(tmp_path: Path, made: Path) -> None:
    """Random damage to random files: kept rows have the right bits, the report is true, and a second repair finds nothing."""
    random = np.random.default_rng(4)
    truth = {}
    for shard in sorted((made / "shards").iterdir()):
        truth |= rows_of(shard)
    for case in range(8):
        paths = CampaignPaths(shutil.copytree(made, tmp_path / str(case)))
        files = sorted(file for part in ("shards", "store.zarr") for file in (paths.root / part).rglob("*") if file.is_file())
        for file in random.choice(np.array(files, object), random.integers(1, 6), replace=False):
            raw = bytearray(file.read_bytes())
            kind = random.integers(4)
            if kind == 0 or not raw:
                file.unlink()
            elif kind == 1:
                file.write_bytes(raw[: random.integers(len(raw))])
            elif kind == 2 and file.name != "zarr.json":  # JSON has no checksum
                raw[random.integers(len(raw))] ^= 1 << int(random.integers(8))
                file.write_bytes(raw)
            else:
                file.write_bytes(b"\0" * len(raw))
        report = run_repair(paths)
        assert report.ok, report
        assert np.flatnonzero(~read_outcomes(paths).done_mask).tolist() == list(report.to_compute)
        for name in paths.shard_names():
            assert audit_store(paths.shard(name), RESULT_FIELDS, "").findings == ()
            kept = rows_of(paths.shard(name))
            assert kept == {system_id: truth[system_id] for system_id in kept}
        assert run_repair(paths).steps == ()
        shutil.rmtree(paths.root)


# The whole way: a campaign with a potential, damaged, repaired, resumed, has the bytes of the one that nothing happened to.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> CampaignPaths:
    spec = create_campaign(tmp_path_factory.mktemp("finished"), n=12, execution='executor = "debug"\nranks_per_task = 1', fmax=0.05)
    assert resume_campaign(spec.paths).complete
    for name in spec.paths.shard_names():
        rewrite(spec.paths.shard(name), RESULT_FIELDS)
    return spec.paths


def drop_store(paths: CampaignPaths) -> None:
    shutil.rmtree(paths.store)
    flip(first_shard(paths) / "core/energy/c/0/0")


def both(first: Damage, second: Damage) -> Damage:
    def damage(paths: CampaignPaths) -> None:
        first(paths)
        second(paths)

    return damage


def everything(paths: CampaignPaths) -> None:
    flip(first_shard(paths) / "core/forces/c/1/0")
    cut(paths.store / "zarr.json")
    cut(paths.store / "core/cell/c/0/0/0")
    cut(paths.inputs / "custom/tags/c/0")
    cut(next(paths.rank_records(1).glob("*.json")))
    cut(paths.plan(1))


WHOLE_WAY: dict[str, Damage] = {
    "rows of a shard, and no store": drop_store,
    "inputs": lambda paths: flip(paths.inputs / "core/positions/c/0/0"),
    "inputs and their documents": lambda paths: shutil.rmtree(paths.inputs),
    "a plan": lambda paths: both(drop_store, lambda paths: cut(paths.plan(1)))(paths),
    "a submission": lambda paths: both(drop_store, lambda paths: cut(paths.submission(1)))(paths),
    "a bit of everything": everything,
}


@pytest.mark.parametrize("damage", WHOLE_WAY.values(), ids=WHOLE_WAY)
def test_repaired_and_resumed_it_has_the_bytes_of_an_undamaged_one(tmp_path: Path, finished: CampaignPaths, damage: Damage) -> None:
    want = digest(finished.store)
    paths = CampaignPaths(shutil.copytree(finished.root, tmp_path / "run"))
    damage(paths)
    report = run_repair(paths)
    assert report.ok and report.steps
    result = resume_campaign(paths)
    assert result.complete, result
    assert digest(paths.store) == want


def test_inputs_whose_source_changed_are_refused(tmp_path: Path, finished: CampaignPaths) -> None:
    paths = CampaignPaths(shutil.copytree(finished.root, tmp_path / "run"))
    source = finished.root.parent / "inputs.extxyz"
    text = source.read_text()
    flip(paths.inputs / "custom/tags/c/0")
    try:
        lines = text.splitlines(keepends=True)
        atom = lines[2].split()
        lines[2] = lines[2].replace(atom[1], f"{float(atom[1]) + 0.5:.8f}", 1)
        source.write_text("".join(lines))
        report = run_repair(paths)
    finally:
        source.write_text(text)
    assert not report.ok and report.steps == ()
    assert "The files that the spec names give other inputs than before: another positions" in report.unsolved[0]
    assert not list(paths.damaged.rglob("*.zarr"))


def test_the_command(paths: CampaignPaths) -> None:
    shutil.rmtree(paths.store)
    cut(first_shard(paths) / "core/energy/c/2/0")
    dry = CliRunner().invoke(app, ["repair", str(paths.root), "--dry-run"])
    assert dry.exit_code == 0 and "core/energy/c/2/0 cannot be decoded" in dry.stdout and "4 of 60 inputs have no outcome" in dry.stdout
    done = json.loads(CliRunner().invoke(app, ["repair", str(paths.root), "--json"]).stdout)
    assert set(done) == {"ok", "dry_run", "n_inputs", "n_looked_at", "steps", "unsolved", "to_compute", "consolidated"}
    assert set(done["steps"][0]) == {"path", "seen", "does", "n_kept", "n_lost", "lost_ids"}
    assert done["ok"] and len(done["to_compute"]) == 4 and done["steps"][0]["lost_ids"] == done["to_compute"]
    flip(paths.inputs / "core/positions/c/0/0")
    assert CliRunner().invoke(app, ["repair", str(paths.root)]).exit_code == 1


def test_the_command_asks_the_scheduler_first(paths: CampaignPaths) -> None:
    from slurm.idle import require_idle
    from slurm.submission import Submission, SubmissionState, SubmittedJob

    paths.plan(1).write_text(
        json.dumps({"format_version": 1, "round": 1, "token": "0", "array_tasks": 1, "n_systems": 0, "n_atoms": [0], "order": []})
    )
    job = SubmittedJob(0, str(os.getpid()), ProcessId.this())
    Submission(1, "local", "c", SubmissionState.SUBMITTED, (0,), ProcessId.this(), 0.0, (job,)).write(paths)
    with pytest.raises(JobError, match=r"round 1 of .* has not ended: job 0 is"):
        require_idle(paths)
    Submission(1, "local", "c", SubmissionState.ENDED, (0,), ProcessId.this(), 0.0, (job,)).write(paths)
    require_idle(paths)
