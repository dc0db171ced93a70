"""From a process to a rank: find out who we are, agree with the others, set threads and signals, run, and leave in good order.

An exception in one MPI rank would leave the others waiting for it for ever, so it becomes an abort of all of them, after it was logged.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from campaign.errors import LauncherError, MissingDependencyError
from campaign.paths import ShardName
from campaign.plan import RoundPlan
from campaign.worker.attempts import claim_attempt
from campaign.worker.claims import ClaimBlocks, Claims, plan_blocks
from campaign.worker.claims.files import FileClaims
from campaign.worker.environment import RankEnvironment, read_environment, threads_of
from campaign.worker.job import Place, RankJob
from campaign.worker.processes import ProcessId
from campaign.worker.records import EXIT_FAILED, RankRecord, RunState
from campaign.worker.stop import StopReason, StopRequests

if TYPE_CHECKING:
    from mpi4py import MPI

_log = logging.getLogger("campaign.worker")


def log_to_stderr() -> None:
    """Send the log of this process to stderr. Not for a debug job, whose process is someone else's."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)


def start_rank(job: RankJob) -> RunState:
    """Run one rank in this process, to its end or until it is asked to leave.

    Raises:
        LauncherError: the processes do not form the ranks that were asked for.
        CampaignError: whatever stops the rank; under MPI the process ends then, together with all other ranks.
    """
    started_unix_s = time.time()
    environment = read_environment()
    if job.claims == "mpi":
        return _start_with_mpi(job, environment, started_unix_s)
    place = _place_without_mpi(job, environment)
    folder = job.paths.claims(place.round, place.array_task, place.attempt)
    return _run(job, place, environment, started_unix_s, lambda blocks: FileClaims(folder, blocks, place.rank))


def _start_with_mpi(job: RankJob, environment: RankEnvironment, started_unix_s: float) -> RunState:
    # First of all: a rank that dies before MPI knows it leaves the others waiting in its initialisation.
    mpi = _initialise_mpi()
    comm = mpi.COMM_WORLD
    place = None
    try:
        from campaign.worker.claims.mpi import MpiClaims

        place = _place_with_mpi(job, environment, comm)
        state = _run(job, place, environment, started_unix_s, lambda blocks: MpiClaims(comm, blocks))
    except BaseException:
        _log.exception("rank %d of %d ends its job", comm.rank, comm.size)
        if place is None:
            _record_failure(job, environment, comm.rank, started_unix_s)
        logging.shutdown()
        comm.Abort(EXIT_FAILED)
        raise
    mpi.Finalize()
    return state


def _initialise_mpi() -> Any:  # the module mpi4py.MPI, which no type names
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            f"MPI cannot be loaded ({error}). mpi4py needs an MPI library: load your cluster's module in execution.slurm.setup, or "
            'pip install mpich, or set launcher = "none".'
        ) from error
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)
    return MPI


def _place_with_mpi(job: RankJob, environment: RankEnvironment, comm: MPI.Intracomm) -> Place:
    if comm.size != job.n_ranks:
        raise LauncherError(
            f"{job.n_ranks} ranks were asked for and MPI sees {comm.size}: the launcher and the MPI library of mpi4py do not belong "
            'together. Set launcher to "srun-pmix" or "srun-pmi2", whichever `srun --mpi=list` has and your MPI was built for, to "mpirun" '
            'with the mpiexec of that MPI, or to "none", which needs no MPI. MPI4PY_MPIABI in execution.slurm.setup says which MPI mpi4py '
            "loads."
        )
    array_task = _array_task(job, environment)
    attempt = job.attempt
    if attempt is None:
        attempt = claim_attempt(job.paths, job.round, array_task, environment.restart_count) if comm.rank == 0 else 0
        attempt = int(comm.bcast(attempt, 0))
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    place = Place(job.round, array_task, attempt, comm.rank, comm.size, node.rank, node.size)
    node.Free()
    return place


def _place_without_mpi(job: RankJob, environment: RankEnvironment) -> Place:
    rank = environment.rank if job.rank is None else job.rank
    seen = job.n_ranks if job.rank is not None else environment.n_ranks
    if rank is None or seen != job.n_ranks or not 0 <= rank < job.n_ranks:
        raise LauncherError(
            f"this process is rank {rank} of {seen}, and {job.n_ranks} ranks were asked for. Without MPI, srun says who is who: start the "
            f"array task with `srun --ntasks={job.n_ranks}`, as the script of `campaign script` does."
        )
    if job.rank is not None:
        local_rank, local_size = job.rank, job.n_ranks
    else:
        local_rank = rank if environment.local_rank is None else environment.local_rank
        local_size = environment.local_size or job.n_ranks
    attempt = environment.restart_count if job.attempt is None else job.attempt
    return Place(job.round, _array_task(job, environment), attempt, rank, job.n_ranks, local_rank, local_size)


def _array_task(job: RankJob, environment: RankEnvironment) -> int:
    array_task = environment.array_task if job.array_task is None else job.array_task
    if array_task is None:
        raise LauncherError(
            "the job names no array task and SLURM_ARRAY_TASK_ID is not set. Submit the script with sbatch, whose --array line sets it."
        )
    return array_task


def _run(
    job: RankJob, place: Place, environment: RankEnvironment, started_unix_s: float, create_claims: Callable[[ClaimBlocks], Claims]
) -> RunState:
    paths = job.paths
    stop = StopRequests(
        files={
            paths.cancel: StopReason.CANCELLED,
            paths.stop_request(place.round, place.array_task, place.attempt): StopReason.ASKED,
        },
        deadline_unix_s=job.deadline_unix_s(started_unix_s, environment.end_unix_s),
        supervisor=job.supervisor,
    )
    with stop.signals():
        plan = RoundPlan.read(paths.plan(place.round))
        claims = create_claims(plan_blocks(len(plan.assignment(place.array_task)), place.n_ranks))

        import torch  # takes seconds; by now the ranks have found each other

        from campaign.worker.run import run_rank

        torch.set_num_threads(threads_of(environment, place.local_size, job.threads))
        state = run_rank(job, claims, place, environment=environment, plan=plan, stop=stop, started_unix_s=started_unix_s)
        claims.close()
    return state


def _record_failure(job: RankJob, environment: RankEnvironment, rank: int, started_unix_s: float) -> None:
    """Leave word for who drives the campaign of a failure before the rank knew its attempt."""
    error = sys.exception()
    name = ShardName(job.round, job.array_task or environment.array_task or 0, rank, job.attempt or 0)
    record = RankRecord(name, RunState.FAILED, ProcessId.this(), environment.job_id, started_unix_s, time.time())
    try:
        replace(record, error=f"{type(error).__name__}: {error}").write(job.paths)
    except OSError as failure:
        _log.warning("the record %s cannot be written: %s", job.paths.rank_record(name), failure)


__all__ = ["log_to_stderr", "start_rank"]
