"""Start the ranks of an array task as child processes, pass on requests to leave, and say how they ended.

Requests reach the ranks through a file that they look for, because a launcher may end its ranks on a signal instead of passing it on
(mpiexec of MPICH passes USR1 and dies of USR2), and because ranks may be on other nodes. Ranks whose supervisor is gone leave by
themselves, so none lives on for ever.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from campaign.errors import LauncherError
from campaign.paths import CampaignPaths
from campaign.worker.attempts import claim_attempt
from campaign.worker.environment import read_environment, thread_variables, threads_of
from campaign.worker.job import RankJob
from campaign.worker.processes import ProcessId
from campaign.worker.records import EXIT_FAILED, EXIT_STOPPED, RankRecord, RunState, read_rank_records
from campaign.worker.stop import StopReason, StopRequests
from slurm.array_job import ArrayJob
from slurm.job_records import JobRecord

POLL_S: Final = 0.1
"""How often the children are looked at."""

GRACE_S: Final = 100.0
"""How long ranks that were asked to leave may take before they are killed; less than the time that a scheduler gives."""


def supervise(job: ArrayJob) -> JobRecord:
    """Run the ranks of an array task and return, and write, how they ended.

    Raises:
        LauncherError: there is no mpiexec.
    """
    paths = job.paths
    environment = read_environment()
    attempt = claim_attempt(paths, job.round, job.array_task, environment.restart_count)
    record = JobRecord(job.round, job.array_task, attempt, RunState.RUNNING, environment.job_id, ProcessId.this())
    record.write(paths)
    try:
        codes = _run_children(job, attempt, paths)
        state, error = _judge(codes, [rank for rank in read_rank_records(paths, job.round) if _is_of(rank, job, attempt)])
    except Exception as failure:
        replace(record, state=RunState.FAILED, error=f"{type(failure).__name__}: {failure}").write(paths)
        raise
    record = replace(record, state=state, error=error)
    record.write(paths)
    return record


def find_mpiexec(executor: str) -> str:
    """Return the path of mpiexec: on a laptop that of the Python environment, in a SLURM job the one that its modules brought.

    Raises:
        LauncherError: there is none.
    """
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    in_path = shutil.which("mpiexec")
    found = (in_path or beside) if executor == "slurm" else (beside or in_path)
    if found is None:
        raise LauncherError(
            f'the launcher is "mpirun" and there is no mpiexec beside {sys.executable} or in PATH. Install one (pip install mpich), load '
            'your cluster\'s module in execution.slurm.setup, or set launcher = "none".'
        )
    return found


def _run_children(job: ArrayJob, attempt: int, paths: CampaignPaths) -> list[int]:
    stop_file = paths.stop_request(job.round, job.array_task, attempt)
    # Our own parent is submitit's or SLURM's; without it nobody waits for us, and we end the ranks.
    stop = StopRequests({paths.cancel: StopReason.CANCELLED}, supervisor=ProcessId.of(os.getppid()))
    with stop.signals():
        children = [subprocess.Popen(command, **_options(job)) for command in _commands(job, attempt)]
        try:
            kill_at: float | None = None
            while any(child.poll() is None for child in children):
                if kill_at is None and stop():
                    stop_file.touch()
                    kill_at = time.monotonic() + GRACE_S
                if kill_at is not None and time.monotonic() > kill_at:
                    _kill(children)
                time.sleep(POLL_S)
        finally:
            _kill(children)
    return [child.wait() for child in children]


def _commands(job: ArrayJob, attempt: int) -> list[list[str]]:
    by_mpiexec = job.launcher == "mpirun"
    rank_job = RankJob(
        directory=job.directory,
        round=job.round,
        array_task=job.array_task,
        n_ranks=job.n_ranks,
        claims="mpi" if by_mpiexec else "files",
        attempt=attempt,
        supervisor=ProcessId.this(),
        time_limit_s=job.time_limit_s,
        leave_before_s=job.leave_before_s,
        threads=job.threads,
    )
    rank = [sys.executable, "-u", "-m", "campaign.worker"]
    if by_mpiexec:
        return [[find_mpiexec(job.executor), "-n", str(job.n_ranks), *rank, rank_job.to_json()]]
    return [[*rank, replace(rank_job, rank=number).to_json()] for number in range(job.n_ranks)]


def _options(job: ArrayJob) -> dict[str, Any]:
    environment = read_environment()
    variables = {**os.environ, **thread_variables(threads_of(environment, job.n_ranks, job.threads))}
    if job.executor == "local":
        # submitit hides all GPUs from local jobs; the ranks see what the submitting process saw.
        variables.pop("CUDA_VISIBLE_DEVICES", None)
        if job.cuda_visible_devices is not None:
            variables["CUDA_VISIBLE_DEVICES"] = job.cuda_visible_devices
        # On a node of a cluster MPICH's mpiexec would start the ranks through SLURM.
        variables |= {"HYDRA_LAUNCHER": "fork", "HYDRA_RMK": "user"}
    # A group of their own: Ctrl-C in a terminal reaches us, and through us the ranks, which then have time to leave.
    return {"stdin": subprocess.DEVNULL, "env": variables, "start_new_session": True}


def _kill(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _judge(codes: list[int], ranks: list[RankRecord]) -> tuple[RunState, str]:
    """Say how the ranks ended, from what their processes returned and what they wrote."""
    if failed := [rank for rank in ranks if rank.state is RunState.FAILED]:
        return RunState.FAILED, f"rank {failed[0].name.rank}: {failed[0].error}"
    if all(code == 0 for code in codes):
        return RunState.DONE, ""
    if all(code in (0, EXIT_STOPPED) for code in codes):
        return RunState.STOPPED, next((rank.reason for rank in ranks if rank.reason), "")
    if any(code in (EXIT_FAILED, 2) for code in codes):
        return RunState.FAILED, f"the ranks ended with codes {codes} and left no word; see the log"
    return RunState.KILLED, f"the ranks were ended from outside, codes {codes}"


def _is_of(rank: RankRecord, job: ArrayJob, attempt: int) -> bool:
    # A rank may have found its shard taken and gone on to a later number, so this attempt is the first number it can have.
    return rank.name.array_task == job.array_task and rank.name.attempt >= attempt
