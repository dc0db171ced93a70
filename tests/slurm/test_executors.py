from __future__ import annotations

import stat
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from goldens import TOKEN, spec_of

from campaign.errors import SubmissionError
from campaign.spec import CampaignSpec
from slurm.executors import create_executor, make_private_folder
from slurm.parameters import slurm_parameters


def with_executor(spec: CampaignSpec, executor: str) -> CampaignSpec:
    return spec.model_copy(update={"execution": spec.execution.model_copy(update={"executor": executor})})


@pytest.mark.parametrize(("name", "kind"), [("local", "LocalExecutor"), ("debug", "DebugExecutor")])
def test_one_factory_for_all(name: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run 'x' ; ä" / "jobs" / "0001"
    executor = create_executor(with_executor(spec_of(""), name), folder, TOKEN)
    assert type(executor).__name__ == kind
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_slurm_gets_the_parameters(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.says("sbatch", "")
    slurm.says("srun", "")
    spec = spec_of("[execution.slurm]\npartition = 'gpu'")
    executor = create_executor(spec, tmp_path / "jobs", TOKEN)
    assert executor.parameters == slurm_parameters(spec, TOKEN)


def test_slurm_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmissionError, match=r'executor is "slurm" and this machine has no sbatch.*login node.*set executor = "local"'):
        create_executor(spec_of(""), tmp_path / "jobs", TOKEN)


@pytest.mark.parametrize(("executor", "name"), [("local", "a%j"), ("debug", "a%A_%a"), ("slurm", "100%"), ("slurm", "two\nlines")])
def test_names_that_submitit_would_change_are_refused(executor: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"has '.*' in its name, which submitit and SLURM replace.*move the campaign"):
        create_executor(with_executor(spec_of(""), executor), tmp_path / name, TOKEN)
    assert not (tmp_path / name).exists()


def test_a_folder_that_was_open_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir(mode=0o755)
    make_private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
