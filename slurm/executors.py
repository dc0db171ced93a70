"""Which submitit executor a spec means, and nothing of how a round is submitted. The one factory for local, debug and slurm."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from campaign.errors import SubmissionError
from campaign.files import make_folder, writing
from campaign.paths import DIRECTORY_MODE
from campaign.spec import CampaignSpec
from slurm.parameters import local_parameters, slurm_parameters

if TYPE_CHECKING:
    import submitit


def create_executor(spec: CampaignSpec, folder: Path, token: str) -> submitit.Executor:
    """Return the executor for a round; its scripts, logs and pickled entries go to `folder`, which becomes private to the user.

    Raises:
        SubmissionError: there is no SLURM here, or submitit cannot work with the folder's name.
        SpecError: the resources are contradictory.
    """
    import submitit  # heavy, and only needed where jobs are submitted

    name = spec.execution.executor
    _check_folder(folder, name)
    make_private_folder(folder)
    if name == "debug":
        return submitit.DebugExecutor(folder)
    if name == "local":
        executor: submitit.Executor = submitit.LocalExecutor(folder)
        executor.update_parameters(**local_parameters())
        return executor
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise SubmissionError(
            'execution.executor is "slurm" and this machine has no sbatch or no srun in its PATH. Submit from a login node of the '
            'cluster, or set executor = "local".'
        )
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**slurm_parameters(spec, token))
    return executor


def make_private_folder(folder: Path) -> None:
    """Make a folder, and its parents below the campaign, for the user alone: entries are pickles, which whoever writes there runs."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        make_folder(path, DIRECTORY_MODE)
    with writing(folder):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(DIRECTORY_MODE)


def _check_folder(folder: Path, executor: str) -> None:
    pattern = r"%|\n" if executor == "slurm" else r"%[jtAa]"
    if match := re.search(pattern, str(folder)):
        raise SubmissionError(
            f"the campaign's folder {str(folder)!r} has {match[0]!r} in its name, which submitit and SLURM replace by a job's number. "
            "Blanks, quotes and other letters are fine; move the campaign to a folder without it."
        )
