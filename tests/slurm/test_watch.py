"""Watching with a clock that tests move, and commands that say what tests want."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from campaign.paths import CampaignPaths
from campaign.worker.processes import ProcessId
from campaign.worker.records import RunState
from slurm.job_records import JobRecord
from slurm.states import JobState
from slurm.submission import Submission, SubmissionState, SubmittedJob
from slurm.watch import CANCEL_GRACE_S, INTERVALS, UNKNOWN_PATIENCE_S, poll, watch

GONE = replace(ProcessId.this(), started_unix_s=0.0)
ELSEWHERE = replace(ProcessId.this(), host="elsewhere.example")


class Time:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def no_outcomes(states: Mapping[int, JobState]) -> int:
    del states
    return 0


def submission_of(executor: str, *jobs: SubmittedJob) -> Submission:
    tasks = tuple(job.array_task for job in jobs)
    return Submission(1, executor, "t-0f", SubmissionState.SUBMITTED, tasks, ProcessId.this(), 0.0, jobs)


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    paths = CampaignPaths(tmp_path / "run")
    paths.round_jobs(1).mkdir(parents=True)
    return paths


def test_questions_come_ever_more_rarely(slurm: FakeSlurm, paths: CampaignPaths) -> None:
    slurm.says("squeue", "7|RUNNING\n")
    time = Time()

    def until(n_polls: int) -> Callable[[Mapping[int, JobState]], int]:
        seen = 0

        def on_poll(states: Mapping[int, JobState]) -> int:
            nonlocal seen
            seen += 1
            if seen == n_polls:
                slurm.says("squeue", "")
                slurm.says("sacct", "7|COMPLETED\n")
            return 0

        return on_poll

    states = watch(paths, submission_of("slurm", SubmittedJob(0, "7")), until(25), time.clock, time.sleep)
    assert states == {0: JobState.COMPLETED}
    assert time.slept[0] == INTERVALS["slurm"].first
    assert time.slept == sorted(time.slept)
    assert time.slept[-1] == INTERVALS["slurm"].longest


def test_unknown_jobs_are_waited_for_while_outcomes_come(slurm: FakeSlurm, paths: CampaignPaths) -> None:
    slurm.says("squeue", "", 1)
    time = Time()
    grows_until = 5 * UNKNOWN_PATIENCE_S["slurm"]
    states = watch(
        paths,
        submission_of("slurm", SubmittedJob(0, "7")),
        lambda states: int(min(time.now, grows_until)),
        time.clock,
        time.sleep,
    )
    assert states == {0: JobState.UNKNOWN}
    longest = INTERVALS["slurm"].longest
    assert grows_until + UNKNOWN_PATIENCE_S["slurm"] < time.now <= grows_until + UNKNOWN_PATIENCE_S["slurm"] + 2 * longest


def test_a_cancelled_campaign_ends_its_jobs(slurm: FakeSlurm, paths: CampaignPaths) -> None:
    """What waits is taken back at once, what runs has time to leave, what does not leave is ended."""
    slurm.says("squeue", "7_0|RUNNING\n7_1|PENDING\n")
    slurm.says("scancel", "")
    paths.cancel.touch()
    time = Time()

    def on_poll(states: Mapping[int, JobState]) -> int:
        if time.now > CANCEL_GRACE_S + 100:
            slurm.says("squeue", "")
            slurm.says("sacct", "7_0|CANCELLED by 0\n7_1|CANCELLED by 0\n")
        return 0

    watch(paths, submission_of("slurm", SubmittedJob(0, "7_0"), SubmittedJob(1, "7_1")), on_poll, time.clock, time.sleep)
    asked = slurm.asked("scancel")
    assert asked[0] == "--state=PENDING 7_0 7_1"
    assert asked.count(asked[0]) == 1
    assert set(asked[1:]) == {"7_0 7_1"}


@pytest.mark.parametrize(
    ("process", "recorded", "state"),
    [
        (ProcessId.this(), None, JobState.RUNNING),
        (GONE, None, JobState.CANCELLED),  # killed before it said anything
        (GONE, RunState.RUNNING, JobState.CANCELLED),  # killed later
        (None, None, JobState.CANCELLED),  # dead before it was looked at
        (GONE, RunState.DONE, JobState.COMPLETED),
        (GONE, RunState.STOPPED, JobState.COMPLETED),
        (GONE, RunState.FAILED, JobState.FAILED),
        (GONE, RunState.KILLED, JobState.CANCELLED),
        (ELSEWHERE, None, JobState.UNKNOWN),
        (ELSEWHERE, RunState.DONE, JobState.COMPLETED),  # the file system knows what this host does not
    ],
)
def test_local_jobs(process: ProcessId | None, recorded: RunState | None, state: JobState, paths: CampaignPaths) -> None:
    if recorded is not None:
        JobRecord(1, 0, 0, recorded, "99", ProcessId.this()).write(paths)
    assert poll(paths, submission_of("local", SubmittedJob(0, "99", process))) == {0: state}


def test_the_latest_attempt_counts(paths: CampaignPaths) -> None:
    JobRecord(1, 0, 0, RunState.FAILED, "99", GONE).write(paths)
    JobRecord(1, 0, 1, RunState.DONE, "99", GONE).write(paths)
    assert poll(paths, submission_of("local", SubmittedJob(0, "99", GONE))) == {0: JobState.COMPLETED}


def test_local_jobs_of_another_host_are_given_up_after_a_while(paths: CampaignPaths) -> None:
    time = Time()
    states = watch(paths, submission_of("local", SubmittedJob(0, "99", ELSEWHERE)), no_outcomes, time.clock, time.sleep)
    assert states == {0: JobState.UNKNOWN}
    assert time.now >= UNKNOWN_PATIENCE_S["local"]
