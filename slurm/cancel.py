"""Stop a campaign: leave a request in its directory, which ranks see within seconds, and take back what has not begun."""

from __future__ import annotations

from datetime import UTC, datetime

from campaign.files import write_whole
from campaign.paths import CampaignPaths
from campaign.worker.processes import Life
from slurm.scheduler import cancel_jobs, read_states
from slurm.states import Action
from slurm.submission import Submission, SubmissionState, read_submission


def cancel_campaign(paths: CampaignPaths) -> int:
    """Ask all jobs of a campaign to stop and return how many there are, as far as can be known. What is finished stays.

    The request stays too, until `campaign resume` withdraws it.
    """
    write_whole(paths.cancel, f"asked {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
    n_jobs = 0
    for round_ in paths.rounds():
        submission = read_submission(paths, round_)
        if submission is not None and submission.state is not SubmissionState.ENDED:
            n_jobs += _n_unfinished(submission)
            cancel_pending(submission)
    return n_jobs


def cancel_pending(submission: Submission) -> None:
    """Take back jobs that wait in SLURM's queue. Running ones see the request by themselves and leave in good order."""
    if submission.executor == "slurm" and submission.jobs:
        cancel_jobs([job.job_id for job in submission.jobs], only_pending=True)


def cancel_all(submission: Submission) -> None:
    """End jobs that did not see the request in time; local ones are ended by their entries."""
    if submission.executor == "slurm" and submission.jobs:
        cancel_jobs([job.job_id for job in submission.jobs], only_pending=False)


def _n_unfinished(submission: Submission) -> int:
    if submission.executor == "slurm":
        states = read_states([job.job_id for job in submission.jobs]) if submission.jobs else {}
        return sum(state.action in (Action.WAIT, Action.ASK) for state in states.values())
    return sum(job.process is not None and job.process.life() is not Life.GONE for job in submission.jobs)
