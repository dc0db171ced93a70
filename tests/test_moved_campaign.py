"""A campaign directory that was moved or copied goes on where it is, and leaves the place where it was alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ase.io import write
from small_campaign import structures

from campaign.ingest import run_ingest
from campaign.paths import CampaignPaths
from campaign.spec import CampaignSpec, parse_spec
from campaign.store.digest import digest
from campaign.verify import run_verify
from slurm.run import resume_campaign, start_campaign
from slurm.script import write_script

SPEC = """
[campaign]
name = "moved"
directory = "run"
[inputs]
paths = ["in.extxyz"]
[model]
name = "emt"
device = "cpu"
[relax]
preset = "screening"
[execution]
executor = "debug"
array_tasks = 2
"""


@pytest.fixture
def spec(tmp_path: Path) -> CampaignSpec:
    write(tmp_path / "in.extxyz", structures(5))
    return parse_spec(SPEC, tmp_path)


def test_a_finished_campaign_that_was_moved(spec: CampaignSpec, tmp_path: Path) -> None:
    assert start_campaign(spec).complete
    before = digest(spec.paths.store)
    moved = CampaignPaths.open(spec.paths.root.rename(tmp_path / "elsewhere ö"))
    result = resume_campaign(moved)
    assert result.complete and result.paths == moved and result.report == moved.report
    assert run_verify(moved).ok
    assert digest(moved.store) == before
    assert moved.rounds() == [1]
    assert not spec.paths.root.exists()


def test_a_half_done_campaign_that_was_copied(spec: CampaignSpec, tmp_path: Path) -> None:
    assert start_campaign(spec).complete
    before = digest(spec.paths.store)
    shutil.rmtree(spec.paths.store)
    shutil.rmtree(spec.paths.shard(spec.paths.shard_names()[0]))
    left_alone = sorted(str(path.relative_to(spec.paths.root)) for path in spec.paths.root.rglob("*"))
    copied = CampaignPaths.open(shutil.copytree(spec.paths.root, tmp_path / "copy"))
    assert resume_campaign(copied).complete
    assert run_verify(copied).ok
    assert digest(copied.store) == before
    assert copied.rounds() == [1, 2]
    assert sorted(str(path.relative_to(spec.paths.root)) for path in spec.paths.root.rglob("*")) == left_alone


def test_a_campaign_whose_ingest_was_killed_and_that_was_moved(spec: CampaignSpec, tmp_path: Path) -> None:
    run_ingest(spec)
    shutil.rmtree(spec.paths.inputs)
    moved = CampaignPaths.open(spec.paths.root.rename(tmp_path / "elsewhere"))
    assert resume_campaign(moved).complete
    assert not spec.paths.root.exists()


def test_a_script_of_a_moved_campaign_works_on_its_new_place(spec: CampaignSpec, tmp_path: Path) -> None:
    run_ingest(spec)
    moved = CampaignPaths.open(spec.paths.root.rename(tmp_path / "elsewhere"))
    script = write_script(moved)
    assert str(moved.root) in script and str(spec.paths.root) not in script
