"""The job entry: what submitit runs on the other side. The same for local, debug and slurm.

What differs is who starts the ranks. Under srun each process is one, so the rank runs right here. For mpirun, and on a machine
without SLURM, this process starts them and watches over them. A debug job is one rank in the submitting process.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from campaign.worker.attempts import claim_attempt
from campaign.worker.job import RankJob
from campaign.worker.records import RunState
from slurm.array_job import ArrayJob
from slurm.supervise import supervise


class JobEntry:
    """Callable that submitit pickles: by the name of this class and one text, nothing else.

    Raises, when called:
        SystemExit: the ranks failed or were killed (code 1), or left early with what was finished on disk (`EXIT_STOPPED`).
        CampaignError: there is no mpiexec; or, in a debug job and under srun, whatever the rank raised.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> None:
        """Run the array task."""
        job = ArrayJob.from_json(self.text)
        if job.executor == "debug":
            _run_here(job)
        elif job.executor == "slurm" and job.launcher != "mpirun":
            _leave(_run_one_rank_of_many(job), "")
        else:
            record = supervise(job)
            _leave(record.state, record.error)


def _run_here(job: ArrayJob) -> None:
    """One rank with claim files in this process, whatever the spec says: results do not depend on the number of ranks."""
    from campaign.worker.start import start_rank  # with torch

    attempt = claim_attempt(job.paths, job.round, job.array_task)
    state = start_rank(replace(_rank_job(job, "files"), n_ranks=1, rank=0, attempt=attempt))
    if state is RunState.STOPPED and not job.paths.cancel.exists():
        # It was a signal, most likely Ctrl-C, which the rank took for itself. Whoever drives must not go on with the next round.
        raise KeyboardInterrupt


def _run_one_rank_of_many(job: ArrayJob) -> RunState:
    from campaign.worker.start import log_to_stderr, start_rank  # with torch

    log_to_stderr()
    return start_rank(_rank_job(job, "files" if job.launcher == "none" else "mpi"))


def _rank_job(job: ArrayJob, claims: str) -> RankJob:
    return RankJob(
        directory=job.directory,
        round=job.round,
        array_task=job.array_task,
        n_ranks=job.n_ranks,
        claims="mpi" if claims == "mpi" else "files",
        time_limit_s=job.time_limit_s,
        leave_before_s=job.leave_before_s,
        threads=job.threads,
    )


def _leave(state: RunState, error: str) -> None:
    # Not by an exception: submitit would print its own traceback below that of the rank, which is the one to read, and pickle it.
    if state is RunState.FAILED:
        print(f"the ranks of this job failed. {error}\nThe traceback is above; mend the cause, then `campaign resume`.", file=sys.stderr)
    if state is not RunState.DONE:
        sys.exit(state.exit_code)
