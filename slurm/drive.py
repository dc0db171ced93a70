"""Rounds until every input has an outcome: look what earlier rounds left running, plan what is left, submit it, watch it, again.

Everything it decides by is in the campaign directory, so it can be killed at any moment and called again by anyone, anywhere.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from campaign.errors import JobError
from campaign.paths import CampaignPaths
from campaign.plan import run_plan
from campaign.progress import Progress, read_progress
from campaign.spec import CampaignSpec
from campaign.worker.in_flight import died_by_itself
from campaign.worker.records import RunState, read_rank_records
from slurm.job_records import read_job_records
from slurm.rounds import settle, submit_round
from slurm.states import Action, JobState
from slurm.steps import Step, call
from slurm.submission import Submission, SubmissionState, read_submission
from slurm.watch import watch

PROGRESS_INTERVAL_S: Final = 1.0
PROGRESS_SHARE: Final = 0.05
"""Progress is read once a second, or less often, so that reading takes no more than this share of the time."""

MOST_FREE_ROUNDS: Final = 32
"""Rounds that are spent on finding systems that kill their process, beside those that the spec allows."""

STDERR_LINES: Final = 20
"""Lines of a failed job's log that its error quotes."""

_log = logging.getLogger("slurm.drive")


def relax_until_done(
    paths: CampaignPaths, spec: CampaignSpec, on_progress: Callable[[Progress], None] | None = None, step: Step = call
) -> Progress:
    """Relax all inputs that have no outcome, and return how far the campaign is then.

    Inputs are left when it was cancelled or when `execution.max_rounds` rounds were not enough; the same call goes on. A round in which a
    rank died by a signal of its own doing is not counted, up to `MOST_FREE_ROUNDS`: the next one knows more of which system did it. Jobs of
    earlier rounds that still run are waited for first. `step` wraps each plan, submit and watch, for example in a Prefect task.

    Raises:
        JobError: the jobs of a round raised an error and added no outcome, so the next round would do the same.
        SubmissionError: a round was not accepted, or another process drives the campaign.
        SpecError: the resources are contradictory.
    """
    observer = _Observer(paths, on_progress)
    for round_ in paths.rounds():
        _watch_earlier(paths, round_, observer, step)
    n_counted = n_free = 0
    while n_counted < spec.execution.max_rounds and observer.read().n_left and not paths.cancel.exists():
        if not _run_round(paths, spec, observer, step):
            break
        if n_free < MOST_FREE_ROUNDS and died_by_itself(paths, paths.rounds()[-1]):
            n_free += 1
        else:
            n_counted += 1
    return observer.read()


def _watch_earlier(paths: CampaignPaths, round_: int, observer: _Observer, step: Step) -> None:
    submission = read_submission(paths, round_)
    if submission is not None and submission.state is not SubmissionState.ENDED:
        _log.info("round %d was submitted before; watching what is left of it", round_)
        step("watch", lambda: _watch(paths, settle(paths, submission), observer))


def _run_round(paths: CampaignPaths, spec: CampaignSpec, observer: _Observer, step: Step) -> bool:
    """Run one round; say whether there was anything to do.

    Raises:
        JobError: it added no outcome because its jobs raised an error.
    """
    n_done = observer.read().n_done
    plan = step("plan", lambda: run_plan(paths, spec))
    if plan is None:
        return False
    submission = step("submit", lambda: submit_round(paths, spec, plan))
    states = step("watch", lambda: _watch(paths, submission, observer))
    after = observer.read()
    if after.n_left and after.n_done == n_done and not paths.cancel.exists():
        if not died_by_itself(paths, submission.round):  # else the next round knows more, and does something else
            _raise_if_failed(paths, submission, states)
        _log.warning("round %d ended without a new outcome", submission.round)
    return True


class _Observer:
    """Reads progress, not too often, and tells the listener."""

    def __init__(self, paths: CampaignPaths, listener: Callable[[Progress], None] | None) -> None:
        self._paths = paths
        self._listener = listener
        self._next_read = 0.0
        self._last: Progress | None = None

    def read(self) -> Progress:
        """Return the progress now."""
        start = time.monotonic()
        progress = read_progress(self._paths)
        seconds = time.monotonic() - start
        self._next_read = start + max(PROGRESS_INTERVAL_S, seconds / PROGRESS_SHARE)
        self._last = progress
        if self._listener is not None:
            self._listener(progress)
        return progress

    def on_poll(self, states: Mapping[int, JobState]) -> int:
        """Return how many inputs have an outcome, perhaps as read a moment ago."""
        del states
        if self._last is None or time.monotonic() >= self._next_read:
            return self.read().n_done
        return self._last.n_done


def _watch(paths: CampaignPaths, submission: Submission, observer: _Observer) -> Mapping[int, JobState]:
    if submission.state is SubmissionState.ENDED:
        return {}
    states = watch(paths, submission, observer.on_poll)
    for array_task, state in states.items():
        _log.info("round %d, array task %d: %s. %s", submission.round, array_task, state, state.sentence)
    replace(submission, state=SubmissionState.ENDED).write(paths)
    return states


def _raise_if_failed(paths: CampaignPaths, submission: Submission, states: Mapping[int, JobState]) -> None:
    """Raise what the ranks of a round raised, if they did. A round that was only killed or preempted is worth another try."""
    jobs = read_job_records(paths, submission.round)
    errors = {task: record.error for task, record in jobs.items() if record.state is RunState.FAILED}
    ranks = read_rank_records(paths, submission.round)
    for rank in ranks:
        if rank.state is RunState.FAILED:
            errors.setdefault(rank.name.array_task, f"rank {rank.name.rank}: {rank.error}")
    started = {rank.name.array_task for rank in ranks}
    for array_task, state in states.items():
        if state.action is Action.EXAMINE and array_task not in started:
            errors.setdefault(
                array_task,
                f"state {state}, and its ranks left no word: they did not start. If the log names MPI or PMI, choose mpi4py's library by "
                "MPI4PY_MPIABI in execution.slurm.setup (docs/operations.md, MPI in SLURM jobs), or another launcher.",
            )
    if not errors:
        return
    array_task, error = min(errors.items())
    job_id = next((job.job_id for job in submission.jobs if job.array_task == array_task), "")
    log, tail = _tail(paths.round_jobs(submission.round), job_id)
    raise JobError(
        f"round {submission.round} of {paths.root} added no outcome: {len(errors)} of its {len(submission.array_tasks)} array tasks "
        f"failed, array task {array_task} with\n  {error}\nIts log {log} ends with\n{tail}\n"
        "Another round would fail in the same way. Mend the cause, then `campaign resume`."
    )


def _tail(folder: Path, job_id: str) -> tuple[str, str]:
    """Return the error log of a job that has the most to say, and its last lines."""
    logs = [file for pattern in (f"{job_id}_*_log.err", f"{job_id}.log") for file in sorted(folder.glob(pattern))]
    if not job_id or not logs:
        return f"in {folder}", "  (there is no log)"
    log = max(logs, key=lambda file: file.stat().st_size)
    with log.open(encoding="utf-8", errors="replace") as lines:
        return str(log), "".join(f"  {line}" for line in deque(lines, STDERR_LINES)).rstrip()
