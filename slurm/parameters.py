"""A spec's resources as SLURM's flags and as submitit's parameters. Pure: the same spec gives the same words, compared with goldens.

What is asked for is per rank in the spec; SLURM counts per node, per task and per CPU. Memory goes by CPU, so that it does not depend on
how many nodes an array task spans. `extra` adds or replaces flags, except those that the campaign needs for itself.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from campaign.errors import SpecError
from campaign.spec import CampaignSpec

SIGNAL_DELAY_S: Final = 120
"""How long before its time limit a job is asked to leave; SLURM looks every 30 s, so it may come that much earlier."""

LOCAL_TIMEOUT_MIN: Final = 10 * 365 * 24 * 60
"""submitit's local jobs end after two minutes unless told otherwise; ours end when they are done."""

OWN_FLAGS: Final = frozenset({"array", "error", "input", "job_name", "open_mode", "output", "parsable", "signal", "time", "wait", "wrap"})
"""Flags that `extra` may not replace: the campaign finds, watches or ends its jobs by them."""

Flag = str | int | bool


def job_name(spec: CampaignSpec, token: str) -> str:
    """Name of a round's job: readable in front, and by its token findable in `squeue --name` and `sacct --name`.

    A campaign called "Cu–Au (α)" whose round has the token 1f00 gets the name `Cu-Au-1f00`.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", spec.campaign.name).strip("-")[:40].strip("-") or "campaign"
    return f"{readable}-{token}"


def signal_delay_s(spec: CampaignSpec) -> int:
    """Seconds before the time limit at which ranks leave: two minutes, or a quarter of a short limit."""
    return min(SIGNAL_DELAY_S, spec.execution.slurm.time_min * 60 // 4)


def sbatch_flags(spec: CampaignSpec, token: str) -> dict[str, Flag]:
    """Return sbatch's flags by their names with underscores, without array, output and error, which depend on who submits.

    Raises:
        SpecError: `extra` has a flag of our own, or nodes that do not divide the ranks.
    """
    execution, slurm = spec.execution, spec.execution.slurm
    extra = {key.replace("-", "_").lstrip("_"): value for key, value in slurm.extra.items()}
    if taken := sorted(OWN_FLAGS & extra.keys()):
        raise SpecError(
            f"execution.slurm.extra has {', '.join(taken)}, which the campaign sets itself. Allowed is any other flag of sbatch; "
            "remove it, or use time_min, max_running or setup of [execution.slurm]."
        )
    n_nodes = extra.pop("nodes", 1)
    if isinstance(n_nodes, bool) or not str(n_nodes).isdigit() or int(n_nodes) < 1 or execution.ranks_per_task % int(n_nodes):
        raise SpecError(
            f"execution.slurm.extra.nodes is {n_nodes!r} and execution.ranks_per_task {execution.ranks_per_task}. Allowed is a number of "
            "nodes that divides the ranks; change one of them."
        )
    ranks_per_node = execution.ranks_per_task // int(n_nodes)
    flags: dict[str, Flag | None] = {
        "job_name": job_name(spec, token),
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "time": slurm.time_min,
        "nodes": int(n_nodes),
        "ntasks_per_node": ranks_per_node,
        "cpus_per_task": slurm.cpus_per_rank,
        "requeue": True,
    }
    if not extra.keys() & {"mem", "mem_per_gpu"}:
        flags["mem_per_cpu"] = f"{math.ceil(slurm.mem_gb * 1024 / slurm.cpus_per_rank)}M"
    if slurm.gpus_per_rank:
        # mpiexec starts ranks that SLURM does not know, so they share the node's GPUs and take one by their local rank.
        per_rank = slurm.launcher != "mpirun"
        flags["gpus_per_task" if per_rank else "gpus_per_node"] = slurm.gpus_per_rank * (1 if per_rank else ranks_per_node)
    return {key: value for key, value in {**flags, **extra}.items() if value is not None and value is not False}


def srun_arguments(spec: CampaignSpec) -> list[str]:
    """Return what srun needs to start the ranks. Not for the launcher mpirun.

    Without `--wait=0` a site's WaitTime kills the ranks that still work when the first one has finished; since 22.05 srun no longer
    takes the CPUs per task from sbatch; one dead MPI rank ends its array task, while ranks with claim files do not need each other.
    """
    slurm = spec.execution.slurm
    with_mpi = slurm.launcher != "none"
    return [
        f"--mpi={slurm.launcher.removeprefix('srun-')}",
        f"--kill-on-bad-exit={int(with_mpi)}",
        "--wait=0",
        f"--cpus-per-task={slurm.cpus_per_rank}",
    ]


def slurm_parameters(spec: CampaignSpec, token: str) -> dict[str, Any]:
    """Return the arguments of `submitit.SlurmExecutor.update_parameters`.

    Raises:
        SpecError: see `sbatch_flags`.
    """
    slurm = spec.execution.slurm
    flags = sbatch_flags(spec, token)
    named: dict[str, Any] = {key: flags.pop(key) for key in _SUBMITIT_KEYS if key in flags}
    parameters: dict[str, Any] = {
        **named,
        "array_parallelism": slurm.max_running or spec.execution.array_tasks,
        "signal_delay_s": signal_delay_s(spec),
        "setup": list(slurm.setup),
        "use_srun": slurm.launcher != "mpirun",
        "wckey": None,
    }
    if slurm.launcher == "mpirun":
        # USR2 would end mpiexec's own daemons. The shell gets it instead and drops it: ranks watch the clock themselves.
        flags["signal"] = f"B:USR2@{signal_delay_s(spec)}"
        parameters["setup"].append("trap : USR2")
    else:
        parameters["srun_args"] = srun_arguments(spec)
    parameters["additional_parameters"] = flags
    return parameters


def local_parameters() -> dict[str, Any]:
    """Return the arguments of `submitit.LocalExecutor.update_parameters`: one entry process that starts the ranks itself."""
    return {"timeout_min": LOCAL_TIMEOUT_MIN, "tasks_per_node": 1, "signal_delay_s": 0}


_SUBMITIT_KEYS: Final = (
    "job_name",
    "partition",
    "account",
    "qos",
    "constraint",
    "time",
    "nodes",
    "ntasks_per_node",
    "cpus_per_task",
    "gpus_per_task",
    "gpus_per_node",
    "mem_per_cpu",
)
