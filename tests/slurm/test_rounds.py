"""Submitting a round, and finding a submission again that was cut short. Real local jobs; SLURM by commands that say what tests want."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import submitit
from fake_slurm import FakeSlurm

from campaign.errors import JobError, SubmissionError
from campaign.paths import ShardName
from campaign.plan import run_plan
from campaign.spec import CampaignSpec
from campaign.testing.real_campaign import create_campaign
from campaign.worker.processes import Life, ProcessId
from campaign.worker.records import RankRecord, RunState
from slurm import rounds
from slurm.executors import make_private_folder
from slurm.parameters import local_parameters
from slurm.rounds import reserve_by_hand, settle, submit_round
from slurm.submission import Submission, SubmissionState, read_submission

DEAD = replace(ProcessId.this(), started_unix_s=0.0)


@pytest.fixture
def spec(tmp_path: Path) -> CampaignSpec:
    return create_campaign(tmp_path / "Cu–Au 'x'", n=4, execution='launcher = "none"\narray_tasks = 3')


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FIND_INTERVAL_S", 0.0)


def cut_short(spec: CampaignSpec, executor: str = "slurm", driver: ProcessId = DEAD) -> Submission:
    """The record that a driver leaves which dies while it submits."""
    make_private_folder(spec.paths.round_jobs(1))
    submission = Submission(1, executor, "real-0f1e", SubmissionState.SUBMITTING, (0, 1, 2), driver, time.time())
    submission.create(spec.paths)
    return submission


def test_a_round_is_submitted_once(spec: CampaignSpec) -> None:
    plan = run_plan(spec.paths, spec)
    assert plan is not None
    submission = submit_round(spec.paths, spec, plan)
    assert submission.state is SubmissionState.SUBMITTED
    assert read_submission(spec.paths, 1) == submission
    assert submission.job_name.endswith(plan.token)
    assert [job.array_task for job in submission.jobs] == [0, 1, 2]
    with pytest.raises(SubmissionError, match=r"round 1 .* was submitted by another process.*campaign resume"):
        submit_round(spec.paths, spec, plan)
    spec.paths.cancel.touch()
    for job in submission.jobs:
        assert job.process is not None
        wait_until_gone(job.process)


def test_what_a_local_driver_left_half_submitted_is_ended(spec: CampaignSpec) -> None:
    submission = cut_short(spec, "local")
    executor = submitit.LocalExecutor(spec.paths.round_jobs(1))
    executor.update_parameters(**local_parameters())
    job = executor.submit(time.sleep, 300)
    process = ProcessId.of(int(job.job_id))
    assert process is not None
    assert settle(spec.paths, submission).state is SubmissionState.ENDED
    assert job.get_info()["jobState"] != "RUNNING"
    wait_until_gone(process)


def test_who_is_submitting_now_is_left_alone(spec: CampaignSpec) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        driver = ProcessId.of(other.pid)
        assert driver is not None
        with pytest.raises(SubmissionError, match=rf"process {other.pid} on .* is submitting round 1.*let it go on, or end it"):
            settle(spec.paths, cut_short(spec, driver=driver))
    finally:
        other.communicate(b"\n")


def test_a_slurm_job_is_found_by_its_name(spec: CampaignSpec, slurm: FakeSlurm) -> None:
    slurm.says("squeue", "31_[0-2]|PENDING\n")
    slurm.says("sacct", "")
    found = settle(spec.paths, cut_short(spec))
    assert [(job.array_task, job.job_id) for job in found.jobs] == [(0, "31_0"), (1, "31_1"), (2, "31_2")]
    assert read_submission(spec.paths, 1) == found
    assert "--name=real-0f1e" in slurm.asked("squeue")[0]


def test_a_slurm_job_that_was_never_accepted(spec: CampaignSpec, slurm: FakeSlurm) -> None:
    slurm.says("squeue", "")
    slurm.says("sacct", "")
    assert settle(spec.paths, cut_short(spec)).state is SubmissionState.ENDED


def test_slurm_that_does_not_answer_leaves_it_open(spec: CampaignSpec, slurm: FakeSlurm) -> None:
    slurm.says("squeue", "", 1)
    slurm.says("sacct", "", 1)
    with pytest.raises(SubmissionError, match=r"whether round 1 was submitted.*do not answer.*again when SLURM answers"):
        settle(spec.paths, cut_short(spec))
    submission = read_submission(spec.paths, 1)
    assert submission is not None
    assert submission.state is SubmissionState.SUBMITTING


def test_sbatch_that_refuses(spec: CampaignSpec, slurm: FakeSlurm) -> None:
    slurm.says("srun", "")
    slurm.says("sbatch", "", 1)
    (slurm.folder / "sbatch").write_text('#!/bin/bash\necho "sbatch: error: invalid partition specified: nosuch" >&2\nexit 1\n')
    at_slurm = spec.model_copy(update={"execution": spec.execution.model_copy(update={"executor": "slurm"})})
    plan = run_plan(spec.paths, at_slurm)
    assert plan is not None
    with pytest.raises(SubmissionError, match=r"(?s)round 1 was not accepted.*invalid partition specified: nosuch.*campaign resume"):
        submit_round(spec.paths, at_slurm, plan)


def test_a_round_by_hand(spec: CampaignSpec, slurm: FakeSlurm) -> None:
    plan, array_tasks = reserve_by_hand(spec.paths, spec)
    assert array_tasks == (0, 1, 2)
    again, _ = reserve_by_hand(spec.paths, spec)
    assert again.token == plan.token, "asked twice before anything ran, it is the same round"
    submission = read_submission(spec.paths, 1)
    assert submission is not None
    assert submission.state is SubmissionState.BY_HAND
    slurm.says("squeue", "31_[0-2]|PENDING\n")
    slurm.says("sacct", "")
    assert settle(spec.paths, submission).state is SubmissionState.SUBMITTED


def test_no_script_for_what_runs(spec: CampaignSpec) -> None:
    reserve_by_hand(spec.paths, spec)
    RankRecord(ShardName(1, 0, 0, 0), RunState.RUNNING, ProcessId.this(), "7", time.time()).write(spec.paths)
    with pytest.raises(JobError, match=r"round 1 .* its end was not seen.*campaign resume.*campaign cancel"):
        reserve_by_hand(spec.paths, spec)


def test_a_script_that_nobody_submitted_is_no_round(spec: CampaignSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without SLURM too."""
    reserve_by_hand(spec.paths, spec)
    submission = read_submission(spec.paths, 1)
    assert submission is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert settle(spec.paths, submission).state is SubmissionState.ENDED


def wait_until_gone(process: ProcessId) -> None:
    for _ in range(600):
        if process.life() is Life.GONE:
            return
        time.sleep(0.1)
    raise AssertionError(f"{process} lives")
