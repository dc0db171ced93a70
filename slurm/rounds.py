"""Submit a round, and find a submission again whose record is not complete because its writer died.

The order of things makes that possible: the plan with its token, the record "submitting", the scheduler, the record "submitted". A
local job that was half submitted has done nothing yet and is ended. A SLURM job is found by its name, which has the token.
"""

from __future__ import annotations

import atexit
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import psutil

from campaign.errors import CampaignError, JobError, SubmissionError
from campaign.paths import CampaignPaths
from campaign.plan import RoundPlan, run_plan
from campaign.spec import CampaignSpec
from campaign.worker.processes import Life, ProcessId
from slurm.array_job import plan_array_job
from slurm.entry import JobEntry
from slurm.executors import create_executor, make_private_folder
from slurm.parameters import job_name
from slurm.scheduler import find_jobs
from slurm.submission import Submission, SubmissionState, SubmittedJob, read_submission

if TYPE_CHECKING:
    import submitit

FIND_TRIES: Final = 5
FIND_INTERVAL_S: Final = 3.0
"""A job that was just submitted shows in accounting within 5 s; one that is not found after all tries was never accepted."""

END_TIMEOUT_S: Final = 10.0
"""How long a half-submitted local job may take to end before it is killed."""

_log = logging.getLogger("slurm.rounds")

_LIVE_JOBS: Final[dict[str, Any]] = {}
"""submitit's handles of local jobs that this process started. While one is held, Python waits for the process, so none is left a zombie."""

atexit.register(_LIVE_JOBS.clear)  # the handles' own clean-up needs modules that the interpreter takes down later


def submit_round(paths: CampaignPaths, spec: CampaignSpec, plan: RoundPlan) -> Submission:
    """Submit one job per array task that has something to do. A debug round has run when this returns.

    Raises:
        SubmissionError: the round was submitted already, or the scheduler did not take it.
        SpecError: the resources are contradictory.
        CampaignError: a debug round raised.
    """
    array_tasks = _array_tasks(plan)
    name = job_name(spec, plan.token)
    make_private_folder(paths.round_jobs(plan.round))
    submission = Submission(
        plan.round, spec.execution.executor, name, SubmissionState.SUBMITTING, array_tasks, ProcessId.this(), time.time()
    )
    executor = create_executor(spec, paths.round_jobs(plan.round), plan.token)
    _create(paths, submission)
    entries = [JobEntry(plan_array_job(paths, spec, plan.round, array_task).to_json()) for array_task in array_tasks]
    try:
        handles = executor.submit_array(entries)
    except CampaignError:
        raise
    except Exception as error:  # the boundary to submitit and sbatch, whose errors have no common class
        raise SubmissionError(
            f"round {plan.round} was not accepted: {type(error).__name__}: {error}. Mend what it names, in [execution.slurm] or on the "
            "cluster, then `campaign resume`."
        ) from error
    if submission.executor == "debug":
        _run_debug_jobs(handles)
    jobs = tuple(_job(array_task, handle, submission.executor) for array_task, handle in zip(array_tasks, handles, strict=True))
    submission = replace(submission, state=SubmissionState.SUBMITTED, jobs=jobs)
    submission.write(paths)
    return submission


def reserve_by_hand(paths: CampaignPaths, spec: CampaignSpec) -> tuple[RoundPlan, tuple[int, ...]]:
    """Plan a round that a person submits, and note it. Asked again before anything of it ran, it is the same round.

    Raises:
        JobError: every input has an outcome, or a round runs.
    """
    for round_ in reversed(paths.rounds()):
        submission = read_submission(paths, round_)
        if submission is None or submission.state is SubmissionState.ENDED:
            continue
        if submission.state is SubmissionState.BY_HAND and not paths.rank_records(round_).exists():
            plan = RoundPlan.read(paths.plan(round_))
            return plan, _array_tasks(plan)
        raise JobError(
            f"round {round_} of {paths.root} was submitted and its end was not seen. A script is for what no job works on; "
            "`campaign resume` waits for that round, `campaign cancel` ends it."
        )
    plan_or_none = run_plan(paths, spec)
    if plan_or_none is None:
        raise JobError(f"every input of {paths.root} has an outcome. A script is for what is left; go on with `campaign consolidate`.")
    make_private_folder(paths.round_jobs(plan_or_none.round))
    array_tasks = _array_tasks(plan_or_none)
    name = job_name(spec, plan_or_none.token)
    _create(paths, Submission(plan_or_none.round, "slurm", name, SubmissionState.BY_HAND, array_tasks, ProcessId.this(), time.time()))
    return plan_or_none, array_tasks


def settle(paths: CampaignPaths, submission: Submission) -> Submission:
    """Return a submission whose jobs are known, or that has ended: find out what became of one that was cut short.

    Raises:
        SubmissionError: another process is submitting it in this moment, or SLURM does not say whether it has the job.
    """
    if submission.state in (SubmissionState.SUBMITTED, SubmissionState.ENDED):
        return submission
    if submission.state is SubmissionState.SUBMITTING:
        if submission.driver != ProcessId.this() and submission.driver.life() is Life.ALIVE:
            raise SubmissionError(
                f"process {submission.driver.pid} on {submission.driver.host} is submitting round {submission.round} of {paths.root}. One "
                "process drives a campaign; let it go on, or end it."
            )
        if submission.executor != "slurm":
            _end_half_submitted(paths, submission)
            return _ended(paths, submission)
    found = _find(submission, by_hand=submission.state is SubmissionState.BY_HAND)
    if not found:
        _log.info("round %d has no job; what it was to do is planned again", submission.round)
        return _ended(paths, submission)
    # Had someone submitted a script twice, the newest is watched; ids that both work on count once anyway.
    number, single = found[-1], len(submission.array_tasks) == 1 and submission.state is SubmissionState.SUBMITTING
    jobs = tuple(SubmittedJob(task, number if single else f"{number}_{index}") for index, task in enumerate(submission.array_tasks))
    submission = replace(submission, state=SubmissionState.SUBMITTED, jobs=jobs)
    submission.write(paths)
    return submission


def reap(submission: Submission) -> None:
    """Wait, without blocking, for local jobs that this process started and that have ended."""
    for job in submission.jobs:
        handle = _LIVE_JOBS.get(job.job_id)
        if handle is not None and handle.get_info()["jobState"] != "RUNNING":
            del _LIVE_JOBS[job.job_id]


def _array_tasks(plan: RoundPlan) -> tuple[int, ...]:
    # Assignments are strides, so only the last ones can be empty.
    return tuple(range(min(plan.array_tasks, plan.n_systems)))


def _create(paths: CampaignPaths, submission: Submission) -> None:
    try:
        submission.create(paths)
    except FileExistsError as error:
        raise SubmissionError(
            f"round {submission.round} of {paths.root} was submitted by another process in this moment. One process drives a campaign; "
            "let it go on, or end it and run `campaign resume`."
        ) from error


def _job(array_task: int, handle: submitit.Job[None], executor: str) -> SubmittedJob:
    if executor != "local":
        return SubmittedJob(array_task, handle.job_id)
    _LIVE_JOBS[handle.job_id] = handle
    return SubmittedJob(array_task, handle.job_id, ProcessId.of(int(handle.job_id)))


def _run_debug_jobs(handles: list[submitit.Job[None]]) -> None:
    for handle in handles:
        # Not result(), which opens a debugger on an exception, on whatever standard input there is.
        error = handle.exception()
        if error is not None:
            raise error


def _find(submission: Submission, by_hand: bool) -> list[str]:
    for attempt in range(FIND_TRIES):
        found = find_jobs(submission.job_name, submission.submitted_unix_s - 60.0)
        if found or by_hand:
            return found or []
        if attempt + 1 < FIND_TRIES:
            time.sleep(FIND_INTERVAL_S)
    if found is None:
        raise SubmissionError(
            f"whether round {submission.round} was submitted as {submission.job_name} is not known, and squeue and sacct do not answer. "
            "Run `campaign resume` again when SLURM answers."
        )
    return []


def _end_half_submitted(paths: CampaignPaths, submission: Submission) -> None:
    """End local jobs of a round that are not in its record. Their folder on the command line tells them from all others."""
    folder = str(paths.round_jobs(submission.round))
    processes = [process for process in psutil.process_iter() if _is_local_job(process, folder)]
    for process in processes:
        _log.info("ending process %d of a submission that was cut short", process.pid)
        process.terminate()
    _, alive = psutil.wait_procs(processes, END_TIMEOUT_S)
    for process in alive:
        process.kill()


def _is_local_job(process: psutil.Process, folder: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return folder in command and any(word in ("submitit.local._local", "submitit.core._submit") for word in command)


def _ended(paths: CampaignPaths, submission: Submission) -> Submission:
    submission = replace(submission, state=SubmissionState.ENDED)
    submission.write(paths)
    return submission
