"""Watch the jobs of a round until all have ended: one question for all, at growing intervals, whatever the executor.

Local jobs are watched by their processes, so that a driver that took over watches them as well as the one that started them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from campaign.paths import CampaignPaths
from campaign.worker.processes import Life
from campaign.worker.records import RunState, read_rank_records
from slurm.cancel import cancel_all, cancel_pending
from slurm.job_records import read_job_records
from slurm.rounds import reap
from slurm.scheduler import read_states
from slurm.states import Action, JobState
from slurm.submission import Submission

UNKNOWN_PATIENCE_S: Final = {"slurm": 900.0, "local": 120.0, "debug": 0.0}
"""How long jobs that nobody knows about are waited for while no new outcome appears. What they may still write counts once anyway."""

CANCEL_GRACE_S: Final = 120.0
"""How long running jobs may take to see that the campaign is cancelled before SLURM ends them."""

_log = logging.getLogger("slurm.watch")


@dataclass(frozen=True, slots=True)
class Interval:
    """Seconds between two questions: `first`, then each time longer by `growth`, up to `longest`."""

    first: float
    growth: float
    longest: float


INTERVALS: Final = {"slurm": Interval(2.0, 1.3, 60.0), "local": Interval(0.1, 1.2, 1.0), "debug": Interval(0.1, 1.0, 0.1)}
"""SLURM's controller serves many; a local process costs nothing to look at."""


def poll(paths: CampaignPaths, submission: Submission) -> dict[int, JobState]:
    """Return the state of the job of each array task."""
    if submission.executor == "slurm":
        states = read_states([job.job_id for job in submission.jobs])
        return {job.array_task: states[job.job_id] for job in submission.jobs}
    return _poll_local(paths, submission)


def watch(
    paths: CampaignPaths,
    submission: Submission,
    on_poll: Callable[[Mapping[int, JobState]], int],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[int, JobState]:
    """Return the last states of a round's jobs when none is waited for any more.

    `on_poll` is told the states after each question and returns how many inputs have an outcome.
    """
    interval = INTERVALS[submission.executor]
    pause_s = interval.first
    cancelled_at: float | None = None
    last_sign, n_done = clock(), -1
    while True:
        states = poll(paths, submission)
        actions = {state.action for state in states.values()}
        now_done = on_poll(states)
        if Action.WAIT in actions or now_done != n_done:
            last_sign, n_done = clock(), now_done
        if Action.WAIT not in actions and Action.ASK not in actions:
            return states
        if Action.WAIT not in actions and clock() - last_sign > UNKNOWN_PATIENCE_S[submission.executor]:
            _log.warning("nothing is known of round %d's jobs and no outcome was added; going by the files", submission.round)
            return states
        if paths.cancel.exists():
            if cancelled_at is None:
                cancelled_at = clock()
                cancel_pending(submission)
            elif clock() - cancelled_at > CANCEL_GRACE_S:
                cancel_all(submission)
        sleep(pause_s)
        pause_s = min(pause_s * interval.growth, interval.longest)


def _poll_local(paths: CampaignPaths, submission: Submission) -> dict[int, JobState]:
    reap(submission)
    records = read_job_records(paths, submission.round)
    working = {
        record.name.array_task
        for record in read_rank_records(paths, submission.round)
        if record.state is RunState.RUNNING and record.process.life() is Life.ALIVE
    }
    states: dict[int, JobState] = {}
    for job in submission.jobs:
        record = records.get(job.array_task)
        life = job.process.life() if job.process is not None else Life.GONE
        if life is Life.ALIVE:
            states[job.array_task] = JobState.RUNNING
        elif job.array_task in working:
            states[job.array_task] = JobState.COMPLETING  # the job was killed, and its ranks are leaving
        elif record is not None and record.state in _LOCAL_STATES:
            states[job.array_task] = _LOCAL_STATES[record.state]
        elif submission.executor == "debug":
            states[job.array_task] = JobState.COMPLETED  # it ran when it was submitted, or its error was raised there
        else:
            states[job.array_task] = JobState.UNKNOWN if life is Life.ELSEWHERE else JobState.CANCELLED
    return states


_LOCAL_STATES: Final = {
    RunState.DONE: JobState.COMPLETED,
    RunState.STOPPED: JobState.COMPLETED,
    RunState.FAILED: JobState.FAILED,
    RunState.KILLED: JobState.CANCELLED,
}
"""SLURM's word for how a local job ended. One that says `running` and whose process is gone was killed."""
