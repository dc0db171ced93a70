"""Advice that says what to remove is followed to the letter, and then it is true."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from ase.io import write
from small_campaign import structures

from campaign.consolidate import run_consolidate
from campaign.errors import ModelMismatchError
from campaign.paths import CampaignPaths, ShardName
from campaign.removal import removal_advice, shard_patterns
from campaign.repair import run_repair
from campaign.spec import parse_spec
from campaign.store import StoreReader
from campaign.store.digest import digest
from campaign.verify import run_verify
from slurm.run import resume_campaign, start_campaign

SPEC = """
[campaign]
name = "advice"
directory = "run"
[inputs]
paths = ["in.extxyz"]
[model]
name = "emt"
device = "cpu"
[execution]
executor = "debug"
array_tasks = 2
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write(folder / "in.extxyz", structures(6))
    result = start_campaign(parse_spec(SPEC, folder))
    assert result.complete
    return result.paths.root


@pytest.fixture
def paths(tmp_path: Path, made: Path) -> CampaignPaths:
    return CampaignPaths(shutil.copytree(made, tmp_path / "it's, and ö"))


def follow(advice: str) -> None:
    """Do what the advice says, and nothing else; resuming is left to the test."""
    found = re.search(r"Remove (.+) in (/.+?), then run `campaign resume`", advice)
    assert found, advice
    for pattern in re.split(r", | and ", found[1]):
        removed = list(Path(found[2]).glob(pattern))
        assert removed, pattern
        for path in removed:
            shutil.rmtree(path)


def damage(folder: Path) -> None:
    chunk = folder / "core/positions/c/0/0"
    raw = bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 4
    chunk.write_bytes(raw)


@pytest.mark.parametrize("store_too", [False, True])
def test_a_damaged_shard(paths: CampaignPaths, store_too: bool) -> None:
    before, damaged = digest(paths.store), paths.shard_names()[1]
    damage(paths.shard(damaged))
    if store_too:
        damage(paths.store)
    findings = run_verify(paths).findings
    assert len(findings) == 1 + store_too
    assert all("`campaign repair`" in finding.advice for finding in findings)
    run_repair(paths)
    assert resume_campaign(paths).complete
    assert digest(paths.store) == before


def test_a_damaged_store(paths: CampaignPaths) -> None:
    before = digest(paths.store)
    damage(paths.store)
    (finding,) = run_verify(paths).findings
    assert "`campaign repair`" in finding.advice
    run_repair(paths)
    assert resume_campaign(paths).complete
    assert digest(paths.store) == before
    assert paths.rounds() == [1], "nothing was computed again"


def test_rows_that_break_a_rule(paths: CampaignPaths) -> None:
    """The spec asks for less force than the shards reached: as if another process had written them."""
    text = paths.spec.read_text()
    strict = re.sub(r"fmax_ev_per_ang = .*", "fmax_ev_per_ang = 1e-5", text)
    paths.spec.write_text(strict)
    report = run_verify(paths)
    assert not report.ok and len({finding.advice for finding in report.findings}) == 1
    follow(report.findings[0].advice)
    assert not paths.store.exists()
    assert resume_campaign(paths).complete
    assert (StoreReader.open(paths.store).read_system("fmax") <= 1e-5).all()


def test_shards_of_two_models(paths: CampaignPaths) -> None:
    """One array task is lost, a store of the rest was asked for, and the model changes before it goes on."""
    shutil.rmtree(paths.shard(paths.shard_names()[1]))
    shutil.rmtree(paths.store)
    run_consolidate(paths, allow_incomplete=True)
    paths.spec.write_text(paths.spec.read_text().replace('dtype = "float64"', 'dtype = "float32"'))
    with pytest.raises(ModelMismatchError, match="that worked last") as caught:
        resume_campaign(paths)
    assert paths.store.exists(), "it would stand in for what is removed"
    follow(str(caught.value))
    assert resume_campaign(paths).complete
    attributes = StoreReader.open(paths.store).attributes
    assert len(attributes["model_fingerprints"]) == 1
    assert attributes["provenance"]["shared"]["model"]["dtype"] == "float32"


def test_nothing_to_remove_is_to_resume(tmp_path: Path) -> None:
    assert removal_advice(CampaignPaths(tmp_path), ()) == "Run `campaign resume`."


def test_patterns_match_what_is_meant_and_nothing_else() -> None:
    known = [ShardName(round_, task, rank, 0) for round_ in (1, 2) for task in (0, 1) for rank in (0, 1)]
    for number in range(2 ** len(known)):
        names = [name for bit, name in enumerate(known) if number >> bit & 1]
        patterns = shard_patterns(names, known)
        assert [name for name in known if any(Path(str(name)).match(pattern) for pattern in patterns)] == names
    assert shard_patterns(known, known) == ["0001-*.zarr", "0002-*.zarr"]
