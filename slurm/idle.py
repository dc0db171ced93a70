"""Whether anything of a campaign waits in a queue or runs: what must be known before its files are moved."""

from __future__ import annotations

from campaign.errors import JobError, StoreDamagedError
from campaign.paths import CampaignPaths
from campaign.worker.processes import Life
from slurm.scheduler import find_jobs, read_states
from slurm.states import Action
from slurm.submission import Submission, SubmissionState, read_submission
from slurm.watch import poll


def require_idle(paths: CampaignPaths) -> None:
    """Return if no job of a campaign waits or runs, as far as its records, its processes and SLURM say.

    A record that cannot be read says nothing; the records of the ranks then have to do.

    Raises:
        JobError: a job waits or runs, or a round is being submitted.
    """
    for round_ in paths.rounds():
        try:
            submission = read_submission(paths, round_)
        except StoreDamagedError:
            continue
        if submission is None or submission.state is SubmissionState.ENDED:
            continue
        waiting = _waiting(paths, submission)
        if waiting:
            raise JobError(
                f"round {round_} of {paths.root} has not ended: {waiting}. Wait for it (`campaign resume` does), or "
                "`campaign cancel`; then call this again."
            )


def _waiting(paths: CampaignPaths, submission: Submission) -> str:
    if submission.state is SubmissionState.SUBMITTING and submission.driver.life() is Life.ALIVE:
        return f"process {submission.driver.pid} is submitting it"
    if submission.executor == "slurm" and not submission.jobs:
        numbers = find_jobs(submission.job_name, submission.submitted_unix_s - 60.0) or []
        states = dict(read_states(numbers)) if numbers else {}
    else:
        states = {str(array_task): state for array_task, state in poll(paths, submission).items()}
    # A job that nobody knows any more has left whatever it had; the records of its ranks say if one works.
    live = [f"{name} is {state}" for name, state in states.items() if state.action is Action.WAIT]
    return f"job {live[0]}" if live else ""
