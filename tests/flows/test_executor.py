"""The flow keeps a campaign with the executor that it was begun with, and says so where another one is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write
from prefect.testing.utilities import prefect_test_harness

from campaign.errors import SpecError
from campaign.ingest import run_ingest
from campaign.spec import read_spec
from flows.relax_campaign import _refuse_another_executor, _with_executor, relax_campaign


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    write(tmp_path / "in.extxyz", bulk("Cu"))
    path = tmp_path / "campaign.toml"
    path.write_text(
        '[campaign]\nname = "x"\ndirectory = "run"\n[inputs]\npaths = ["in.extxyz"]\n[model]\nname = "emt"\n'
        '[execution]\nexecutor = "debug"\n'
    )
    return path


def test_another_executor_than_the_frozen_one_is_refused(spec: Path) -> None:
    begun = _with_executor(read_spec(spec), "local")
    run_ingest(begun)
    _refuse_another_executor(begun.paths, "local")
    with pytest.raises(SpecError, match=r"was begun with executor 'local'; this run asks for 'slurm'.*`campaign resume`"):
        _refuse_another_executor(begun.paths, "slurm")


@pytest.mark.long
def test_the_flow_refuses_it_before_it_does_anything(spec: Path) -> None:
    run_ingest(read_spec(spec))
    with prefect_test_harness(server_startup_timeout=120), pytest.raises(SpecError, match="was begun with executor 'debug'"):
        relax_campaign(str(spec), executor="local")
    assert not read_spec(spec).paths.plans.exists()
