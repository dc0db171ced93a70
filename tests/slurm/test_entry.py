"""The job entry as a process of its own, and what becomes of its ranks when it is asked to leave or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from campaign.errors import LauncherError
from campaign.paths import ShardName
from campaign.plan import run_plan
from campaign.spec import CampaignSpec
from campaign.testing.real_campaign import create_campaign
from campaign.worker.processes import Life
from campaign.worker.records import EXIT_STOPPED, RunState, read_rank_records
from slurm.array_job import plan_array_job
from slurm.entry import JobEntry
from slurm.job_records import JobRecord, read_job_records
from slurm.supervise import find_mpiexec

ENTRY = "import sys; from slurm.entry import JobEntry; JobEntry(sys.argv[1])()"
LAUNCHERS = ["mpirun", "none"]


def campaign_of(folder: Path, launcher: str) -> CampaignSpec:
    """Much more work than a test waits for."""
    return create_campaign(folder, n=600, execution=f'ranks_per_task = 2\nlauncher = "{launcher}"\nmax_systems_in_batch = 2', fmax=1e-6)


def start_entry(spec: CampaignSpec) -> subprocess.Popen[bytes]:
    assert run_plan(spec.paths, spec) is not None
    return subprocess.Popen([sys.executable, "-c", ENTRY, plan_array_job(spec.paths, spec, 1, 0).to_json()])


def wait_until(what: Callable[[], bool], timeout_s: float = 100.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def both_at_work(spec: CampaignSpec) -> bool:
    return len([record for record in read_rank_records(spec.paths, 1) if record.device]) == 2


def job_record(spec: CampaignSpec) -> JobRecord:
    return read_job_records(spec.paths, 1)[0]


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_ranks_are_told_to_leave(launcher: str, number: signal.Signals, tmp_path: Path) -> None:
    spec = campaign_of(tmp_path, launcher)
    entry = start_entry(spec)
    wait_until(lambda: both_at_work(spec))
    assert job_record(spec).state is RunState.RUNNING
    entry.send_signal(number)
    assert entry.wait(60) == EXIT_STOPPED
    records = read_rank_records(spec.paths, 1)
    assert [(record.state, record.reason) for record in records] == [(RunState.STOPPED, "its job was asked to leave")] * 2
    assert (job_record(spec).state, job_record(spec).error) == (RunState.STOPPED, "its job was asked to leave")


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_of_a_killed_entry_leave_by_themselves(launcher: str, tmp_path: Path) -> None:
    spec = campaign_of(tmp_path, launcher)
    entry = start_entry(spec)
    wait_until(lambda: both_at_work(spec))
    processes = [record.process for record in read_rank_records(spec.paths, 1)]
    entry.kill()
    entry.wait()
    wait_until(lambda: all(process.life() is Life.GONE for process in processes), 30.0)
    assert {record.state for record in read_rank_records(spec.paths, 1)} == {RunState.STOPPED}
    assert {record.reason for record in read_rank_records(spec.paths, 1)} == {"the process that started it is gone"}
    assert job_record(spec).state is RunState.RUNNING, "nobody was left to write more"


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_rank_is_no_error(launcher: str, tmp_path: Path) -> None:
    """With MPI it takes the others with it; with claim files they go on."""
    spec = campaign_of(tmp_path, launcher)
    entry = start_entry(spec)
    wait_until(lambda: both_at_work(spec))
    victim, other = (record.process for record in read_rank_records(spec.paths, 1))
    os.kill(victim.pid, signal.SIGKILL)
    if launcher == "none":
        time.sleep(1.0)
        assert other.life() is Life.ALIVE
        entry.terminate()
    assert entry.wait(60) == 1
    assert other.life() is Life.GONE
    assert job_record(spec).state is RunState.KILLED
    assert "ended from outside" in job_record(spec).error


def test_an_error_of_a_rank_is_the_error_of_the_job(tmp_path: Path) -> None:
    spec = campaign_of(tmp_path, "none")
    text = spec.paths.spec.read_text(encoding="utf-8")
    spec.paths.spec.write_text(text.replace('device = "cpu"', 'device = "cuda"'), encoding="utf-8")
    assert start_entry(spec).wait(100) == 1
    record = job_record(spec)
    assert record.state is RunState.FAILED
    assert record.error.startswith("rank 0: MissingDeviceError: model.device is")


def test_each_start_is_another_attempt(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=2, execution='executor = "debug"')
    assert run_plan(spec.paths, spec) is not None
    entry = JobEntry(plan_array_job(spec.paths, spec, 1, 0).to_json())
    entry()
    entry()
    assert spec.paths.shard_names() == [ShardName(1, 0, 0, 0), ShardName(1, 0, 0, 1)]


def test_ctrl_c_in_a_debug_job_reaches_who_drives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from campaign.dynamics.relax import Relaxation

    advance = Relaxation._advance

    def advance_and_interrupt(self: Relaxation, batch: object) -> tuple[float, bool]:
        os.kill(os.getpid(), signal.SIGINT)
        return advance(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Relaxation, "_advance", advance_and_interrupt)
    spec = create_campaign(tmp_path, n=4, execution='executor = "debug"')
    assert run_plan(spec.paths, spec) is not None
    with pytest.raises(KeyboardInterrupt):
        JobEntry(plan_array_job(spec.paths, spec, 1, 0).to_json())()


def test_mpiexec_of_the_environment_or_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = str(Path(sys.executable).with_name("mpiexec"))
    module = tmp_path / "mpiexec"
    module.write_text("#!/bin/sh\n")
    module.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_mpiexec("local") == beside
    assert find_mpiexec("slurm") == str(module)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere" / "python"))
    module.unlink()
    with pytest.raises(LauncherError, match=r'the launcher is "mpirun" and there is no mpiexec.*pip install mpich.*launcher = "none"'):
        find_mpiexec("local")


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> object:
    yield
    for process in psutil.process_iter():
        try:
            if any(str(tmp_path) in part for part in process.cmdline()):
                process.kill()
        except psutil.Error:
            continue
