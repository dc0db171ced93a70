"""A complete sbatch script for who submits by hand. The text is pure; writing it reserves the round it is for."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from campaign.errors import SpecError
from campaign.paths import CampaignPaths
from campaign.spec import CampaignSpec, read_frozen_spec
from campaign.worker.job import RankJob
from slurm.parameters import Flag, sbatch_flags, signal_delay_s, srun_arguments
from slurm.rounds import reserve_by_hand


def write_script(paths: CampaignPaths) -> str:
    """Plan a round, note that a person submits it, and return the script for it.

    `campaign resume` later finds the job by its name, waits for it, and plans what it left.

    Raises:
        CampaignError: nothing is left to do, or the round cannot be planned.
    """
    spec = read_frozen_spec(paths)
    plan, array_tasks = reserve_by_hand(paths, spec)
    return script_text(spec, plan.round, plan.token, len(array_tasks), sys.executable, paths.round_jobs(plan.round))


def script_text(spec: CampaignSpec, round_: int, token: str, n_array_tasks: int, python: str, log_folder: Path) -> str:
    """Return the script of a round whose first `n_array_tasks` assignments are not empty.

    Raises:
        SpecError: see `sbatch_flags`; or a line break in a path, which sbatch cannot read.
    """
    execution, slurm = spec.execution, spec.execution.slurm
    if any("\n" in text for text in (str(log_folder), python)):
        raise SpecError(f"the path {str(log_folder)!r} has a line break, which sbatch cannot read. Blanks and quotes are fine; rename it.")
    limit = f"%{slurm.max_running}" if slurm.max_running else ""
    by_mpiexec = slurm.launcher == "mpirun"
    flags: dict[str, Flag] = {
        **sbatch_flags(spec, token),
        "array": f"0-{n_array_tasks - 1}{limit}",
        "output": f"{str(log_folder).replace('%', '%%')}/%A_%a.log",
        "open_mode": "append",
        "signal": f"{'B:' if by_mpiexec else ''}USR2@{signal_delay_s(spec)}",
    }
    job = RankJob(
        directory=str(spec.paths.root),
        round=round_,
        array_task=None,
        n_ranks=execution.ranks_per_task,
        claims="files" if slurm.launcher == "none" else "mpi",
        time_limit_s=slurm.time_min * 60.0,
        leave_before_s=float(signal_delay_s(spec)),
        threads=execution.threads_per_rank,
    )
    rank = [python, "-m", "campaign.worker", job.to_json()]
    if by_mpiexec:
        # USR2 would end mpiexec's own daemons: the shell drops it, and ranks watch the clock themselves.
        lines = ["trap : USR2", shlex.join(["mpiexec", "-n", str(execution.ranks_per_task), *rank])]
    else:
        lines = ["exec " + shlex.join(["srun", *srun_arguments(spec), *rank])]
    return "\n".join(
        [
            "#!/bin/bash",
            f"# Round {round_} of a relaxation campaign: {n_array_tasks} array tasks of {execution.ranks_per_task} ranks.",
            "# Submit it with sbatch, once. `campaign resume` on the directory below goes on when it has ended.",
            *(_directive(name, flags[name]) for name in sorted(flags)),
            "",
            *slurm.setup,
            *lines,
            "",
        ]
    )


def _directive(name: str, value: Flag) -> str:
    option = f"#SBATCH --{name.replace('_', '-')}"
    return option if value is True else f"{option}={shlex.quote(str(value))}"
