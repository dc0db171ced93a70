"""The one place on the side of the ranks where environment variables are read, and the one that is set."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RankEnvironment:
    """What the scheduler and the machine say about this process. None where they say nothing.

    Attributes:
        host: name of the node.
        job_id: the scheduler's id, `123_4` for an element of an array.
        array_task: SLURM's array index.
        restart_count: how often SLURM has started this job again.
        rank: rank in SLURM's step.
        n_ranks: ranks of SLURM's step.
        local_rank: rank on this node.
        local_size: ranks on this node.
        cores: CPU cores that this process may use, shared with other ranks of the node unless `cores_are_own`.
        cores_are_own: SLURM counts cores per rank.
        end_unix_s: when the scheduler ends the job.
        cuda_visible_devices: the variable of that name.
    """

    host: str
    job_id: str | None
    array_task: int | None
    restart_count: int
    rank: int | None
    n_ranks: int | None
    local_rank: int | None
    local_size: int | None
    cores: int
    cores_are_own: bool
    end_unix_s: float | None
    cuda_visible_devices: str | None


def read_environment(environ: Mapping[str, str] | None = None) -> RankEnvironment:
    """Return what the environment says.

    A local or debug job inside a SLURM allocation is not SLURM's: submitit's variables win then.

    >>> read_environment({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}).restart_count
    2
    """
    environ = os.environ if environ is None else environ
    own_executor = environ.get("SUBMITIT_EXECUTOR", "") in ("local", "debug") or "SUBMITIT_DEBUG_JOB_ID" in environ
    slurm = {} if own_executor else {key: value for key, value in environ.items() if key.startswith("SLURM_")}
    cpus_per_rank = _integer(slurm.get("SLURM_CPUS_PER_TASK"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    end = slurm.get("SLURM_JOB_END_TIME")
    return RankEnvironment(
        host=socket.gethostname(),
        job_id=_job_id(environ, slurm),
        array_task=_integer(slurm.get("SLURM_ARRAY_TASK_ID")),
        restart_count=_integer(slurm.get("SLURM_RESTART_COUNT")) or 0,
        rank=_integer(slurm.get("SLURM_PROCID")),
        n_ranks=_integer(slurm.get("SLURM_STEP_NUM_TASKS", slurm.get("SLURM_NTASKS"))),
        local_rank=_integer(slurm.get("SLURM_LOCALID")),
        local_size=_tasks_on_node(
            slurm.get("SLURM_STEP_TASKS_PER_NODE", slurm.get("SLURM_TASKS_PER_NODE")), _integer(slurm.get("SLURM_NODEID"))
        ),
        cores=cpus_per_rank or cores,
        cores_are_own=cpus_per_rank is not None,
        end_unix_s=float(end) if end and end.isdigit() else None,
        cuda_visible_devices=environ.get("CUDA_VISIBLE_DEVICES"),
    )


def threads_of(environment: RankEnvironment, local_size: int, wanted: int | None = None) -> int:
    """Return how many CPU threads a rank uses: what is wanted, or its share of the node's cores, at least one."""
    if wanted is not None:
        return wanted
    return environment.cores if environment.cores_are_own else max(1, environment.cores // max(1, local_size))


def thread_variables(n_threads: int) -> dict[str, str]:
    """Environment of a child process whose libraries shall use `n_threads` threads each."""
    return {name: str(n_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")}


def prepare_for_determinism() -> None:
    """Have cuBLAS use a workspace of fixed size, without which it may add in any order; it is read when CUDA is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _job_id(environ: Mapping[str, str], slurm: Mapping[str, str]) -> str | None:
    if "SLURM_ARRAY_JOB_ID" in slurm and "SLURM_ARRAY_TASK_ID" in slurm:
        return f"{slurm['SLURM_ARRAY_JOB_ID']}_{slurm['SLURM_ARRAY_TASK_ID']}"
    return slurm.get("SLURM_JOB_ID") or environ.get("SUBMITIT_LOCAL_JOB_ID") or environ.get("SUBMITIT_DEBUG_JOB_ID")


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d+", text) else None


def _tasks_on_node(text: str | None, node: int | None) -> int | None:
    """Number of ranks on a node from SLURM's list, in which `2(x3),1` means 2, 2, 2, 1."""
    if not text or node is None:
        return None
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node] if node < len(counts) else None
