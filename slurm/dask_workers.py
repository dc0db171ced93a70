"""Workers for consolidation as a spec asks for them: threads, processes, a scheduler that runs already, or SLURM jobs of dask-jobqueue."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from campaign.dask_client import DaskWorkers
from campaign.errors import SpecError
from campaign.spec import CampaignSpec

if TYPE_CHECKING:
    from distributed import Client

OWN_FLAGS: Final = frozenset({"array", "cpus_per_task", "error", "job_name", "mem", "nodes", "ntasks", "output", "time", "wrap"})
"""Flags of `execution.slurm.extra` that are meant for ranks, or that dask-jobqueue sets itself; workers go without."""


def n_jobs(spec: CampaignSpec) -> int:
    """Return how many jobs, of one worker each, consolidation asks for."""
    return spec.consolidate.n_workers or spec.execution.array_tasks


def jobqueue_parameters(spec: CampaignSpec) -> dict[str, Any]:
    """Return the arguments of `dask_jobqueue.SLURMCluster`: workers of one thread in the campaign's partition, without GPUs.

    A worker is given a half more memory than its Dask tasks plan with: what Dask and the page cache of its files take is not theirs.
    """
    slurm = spec.execution.slurm
    hours, minutes = divmod(slurm.time_min, 60)
    directives = [f"--{flag}={value}" for flag, value in (("qos", slurm.qos), ("constraint", slurm.constraint)) if value is not None]
    for key, value in slurm.extra.items():
        if value is not False and key.replace("-", "_") not in OWN_FLAGS:
            flag = key.replace("_", "-")
            directives.append(f"--{flag}" if value is True else f"--{flag}={value}")
    logs = spec.paths.jobs / "consolidate"
    return {
        "queue": slurm.partition,
        "account": slurm.account,
        "cores": 1,
        "processes": 1,
        "memory": f"{round(spec.consolidate.memory_gb * 1.5 * 1024)} MiB",
        "walltime": f"{hours:02d}:{minutes:02d}:00",
        "job_name": "consolidate",
        "job_extra_directives": directives,
        "job_script_prologue": list(slurm.setup),
        "log_directory": str(logs),
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
    }


@contextmanager
def asked_workers(spec: CampaignSpec, scheduler: str | None = None) -> Iterator[DaskWorkers | Client]:
    """Yield the workers of `[consolidate]`, or those of the scheduler at an address; jobs end with the block.

    Raises:
        SpecError: SLURM is asked for, and dask-jobqueue is not installed or there is no `sbatch`.
    """
    asked = spec.consolidate
    if scheduler is not None:
        yield DaskWorkers("scheduler", address=scheduler)
    elif asked.workers == "slurm":
        with _slurm_client(spec) as client:
            yield client
    else:
        yield DaskWorkers(asked.workers, asked.n_workers, asked.scheduler)


@contextmanager
def _slurm_client(spec: CampaignSpec) -> Iterator[Client]:
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise SpecError(
            'consolidate.workers is "slurm", which needs dask-jobqueue. Install it (pip install dask-jobqueue), or choose "auto", '
            '"threads", "local" or "scheduler".'
        ) from None
    if shutil.which("sbatch") is None:
        # Without it Dask would wait for ever.
        raise SpecError(
            'consolidate.workers is "slurm", and there is no sbatch on this machine. Consolidate where jobs can be submitted, or choose '
            '"auto", "threads", "local" or "scheduler".'
        )
    from distributed import Client

    with SLURMCluster(**jobqueue_parameters(spec)) as cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        cluster.scale(jobs=n_jobs(spec))
        # One is enough to begin; those that wait in the queue join later.
        client.wait_for_workers(1)
        yield client
