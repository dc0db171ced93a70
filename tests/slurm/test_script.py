from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from goldens import CASES, TOKEN, check, script_texts, spec_of

from campaign.errors import SpecError
from campaign.worker.job import RankJob
from slurm.script import script_text


@pytest.mark.parametrize("name", [f"sbatch_{case}.sh" for case in CASES])
def test_scripts_are_those_of_the_goldens(name: str) -> None:
    check(name, script_texts()[name])


@pytest.mark.parametrize("case", CASES)
def test_a_shell_runs_the_script_and_the_rank_gets_its_job(case: str, tmp_path: Path) -> None:
    """The script, run by bash with a launcher in PATH that writes down its arguments."""
    folder = tmp_path / "a 'b' \"c\" $HOME ; ä"
    folder.mkdir()
    for launcher in ("srun", "mpiexec"):
        program = tmp_path / launcher
        program.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" > {shlex.quote(str(tmp_path / "arguments"))}\nexit 7\n')
        program.chmod(0o755)
    execution = re.sub("setup = .*", "", CASES[case])  # there are no modules here
    spec = spec_of(execution, directory=str(folder))
    text = script_text(spec, 3, TOKEN, 2, "/opt/my env/bin/python", spec.paths.round_jobs(3))
    done = subprocess.run(["bash", "-c", text], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
    assert done.returncode == 7, "the state of the job is the exit code of its script"
    arguments = (tmp_path / "arguments").read_text().split("\0")[:-1]
    job = RankJob.from_json(arguments[-1])
    assert arguments[-4:-1] == ["/opt/my env/bin/python", "-m", "campaign.worker"]
    assert (job.paths, job.round, job.array_task, job.n_ranks) == (spec.paths, 3, None, spec.execution.ranks_per_task)
    assert json.loads(arguments[-1]).keys() <= RankJob.__dataclass_fields__.keys()


def test_a_line_break_in_a_path_is_refused() -> None:
    spec = spec_of("", directory="/data/a\nb")
    with pytest.raises(SpecError, match=r"(?s)has a line break, which sbatch cannot read.*rename it"):
        script_text(spec, 1, TOKEN, 1, "python", spec.paths.round_jobs(1))


def test_a_percent_sign_stays_one() -> None:
    spec = spec_of("", directory="/data/100%j")
    assert "--output=/data/100%%j/jobs/0001/%A_%a.log" in script_text(spec, 1, TOKEN, 1, "python", spec.paths.round_jobs(1))
