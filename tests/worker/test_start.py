"""Ranks as processes: by mpiexec, by hand, and by launchers that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from campaign.paths import ShardName
from campaign.plan import run_plan
from campaign.spec import CampaignSpec
from campaign.store.reader import StoreReader
from campaign.testing.real_campaign import create_campaign
from campaign.worker.job import RankJob
from campaign.worker.records import EXIT_STOPPED, RunState, read_rank_records

MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
TIMEOUT_S = 120


def job_of(spec: CampaignSpec, n_ranks: int, claims: str = "mpi") -> RankJob:
    assert run_plan(spec.paths, spec) is not None
    return RankJob(str(spec.paths.root), 1, 0, n_ranks, "mpi" if claims == "mpi" else "files")


def start(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, env={**os.environ, **environment}, check=False
    )


def rank_command(job: RankJob) -> list[str]:
    return [sys.executable, "-m", "campaign.worker", job.to_json()]


@pytest.mark.long
def test_mpi_ranks_do_everything_once(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path / "ä 'b'", n=30)
    done = start(MPIEXEC, "-n", "3", *rank_command(job_of(spec, 3)))
    assert done.returncode == 0, done.stderr
    ids = [StoreReader.open(spec.paths.shard(name)).read_system("system_id").flatten().tolist() for name in spec.paths.shard_names()]
    assert len(ids) == 3
    assert sorted(one for of_rank in ids for one in of_rank) == list(range(30))
    records = read_rank_records(spec.paths, 1)
    assert {record.state for record in records} == {RunState.DONE}
    assert {record.name.attempt for record in records} == {0}


def test_singletons_are_told_which_launcher_to_use(tmp_path: Path) -> None:
    """Each of N processes that MPI does not join believes to be rank 0 of 1."""
    spec = create_campaign(tmp_path, n=2)
    done = start(*rank_command(job_of(spec, 4)))
    assert done.returncode != 0
    assert "4 ranks were asked for and MPI sees 1" in done.stderr
    for launcher in ("srun-pmix", "srun-pmi2", "mpirun", "none"):
        assert f'"{launcher}"' in done.stderr
    assert spec.paths.shard_names() == []
    (record,) = read_rank_records(spec.paths, 1)
    assert record.state is RunState.FAILED
    assert record.error.startswith("LauncherError: 4 ranks were asked for")


def test_an_exception_in_one_rank_ends_all(tmp_path: Path) -> None:
    """Rank 1's shards cannot be created; without the abort, rank 0 would wait for it for ever."""
    spec = create_campaign(tmp_path, n=6)
    job = job_of(spec, 2)
    spec.paths.rank_records(1).mkdir(parents=True)
    spec.paths.rank_record(ShardName(1, 0, 1, 0)).mkdir()
    began = time.monotonic()
    done = start(MPIEXEC, "-n", "2", *rank_command(job))
    assert done.returncode != 0
    assert "rank 1 of 2 ends its job" in done.stderr
    assert "Traceback" in done.stderr
    assert time.monotonic() - began < TIMEOUT_S / 2


@pytest.mark.parametrize("environment", [{}, {"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, {"SLURM_PROCID": "2", "SLURM_NTASKS": "2"}])
def test_without_mpi_the_launcher_must_say_who_is_who(environment: dict[str, str], tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=2)
    done = start(*rank_command(job_of(spec, 2, "files")), **environment)
    assert done.returncode == 1
    assert "2 ranks were asked for" in done.stderr
    assert "srun --ntasks=2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_ranks_under_srun_without_mpi(tmp_path: Path) -> None:
    """What srun and an array of a script submitted by hand set is enough; a restarted job gets new shards."""
    spec = create_campaign(tmp_path, n=8)
    job = replace(job_of(spec, 2, "files"), array_task=None)
    for restart in ("0", "1"):
        slurm = {
            "SLURM_JOB_ID": "9",
            "SLURM_NTASKS": "2",
            "SLURM_ARRAY_TASK_ID": "0",
            "SLURM_ARRAY_JOB_ID": "9",
            "SLURM_RESTART_COUNT": restart,
        }
        ranks = [
            subprocess.Popen(rank_command(job), env={**os.environ, **slurm, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
            for rank in range(2)
        ]
        assert [rank.wait(TIMEOUT_S) for rank in ranks] == [0, 0]
    names = spec.paths.shard_names()
    assert [(name.rank, name.attempt) for name in names] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    ids = [one for name in names for one in StoreReader.open(spec.paths.shard(name)).read_system("system_id").flatten().tolist()]
    assert sorted(ids) == list(range(8)), "the second run found nothing left"
    assert {record.job_id for record in read_rank_records(spec.paths, 1)} == {"9_0"}


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("cancel", "the campaign was cancelled"),
        ("deadline", "its time was up"),
    ],
)
def test_a_rank_leaves_with_its_own_code(stop: str, reason: str, tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=6)
    job = replace(job_of(spec, 1, "files"), rank=0, time_limit_s=0.0 if stop == "deadline" else None)
    if stop == "cancel":
        spec.paths.cancel.touch()
    done = start(*rank_command(job))
    assert done.returncode == EXIT_STOPPED, done.stderr
    (record,) = read_rank_records(spec.paths, 1)
    assert (record.state, record.reason) == (RunState.STOPPED, reason)


@pytest.mark.parametrize("arguments", [[], ["{}"], ["a", "b"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = start(sys.executable, "-m", "campaign.worker", *arguments)
    assert done.returncode in (1, 2)
    assert "campaign script" in done.stderr
    assert "Traceback" not in done.stderr
