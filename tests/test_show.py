"""Everything about one input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_campaign import make_campaign, write_shard

from campaign.consolidate import run_consolidate
from campaign.errors import SpecError
from campaign.outcomes import Outcome
from campaign.paths import ShardName
from campaign.show import show_system


def test_before_during_and_after(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    before = show_system(paths, 2)
    assert (before.outcome, before.place, before.energy_ev) == ("none yet", None, None)
    assert "stored in           nowhere yet" in str(before)
    write_shard(paths, ShardName(1, 0, 0, 0), [2], [Outcome.MAX_STEPS])
    write_shard(paths, ShardName(1, 0, 1, 0), [2, 0, 1, 3, 4, 5])
    during = show_system(paths, 2)
    assert (during.outcome, during.place, during.energy_ev) == ("max_steps", "shards/0001-00000-00000-000.zarr", -2.0)
    run_consolidate(paths)
    after = show_system(paths, 2)
    assert (after.outcome, after.reason, after.place) == ("max_steps", "it is max_steps", "store.zarr")
    assert (after.source, after.frame, after.n_atoms, after.n_fixed, after.formula) == ("in/a b.extxyz", 2, 3, 1, "Cu2Au")
    assert (after.n_steps, after.fmax_ev_per_ang) == (7, 0.5) and after.info["number"] == 2
    assert json.loads(json.dumps(after.to_json()))["pbc"] == [True, True, True]


def test_the_text_says_everything(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    write_shard(paths, ShardName(1, 0, 0, 0), [2], [Outcome.MAX_STEPS])
    text = str(show_system(paths, 2))
    for words in (
        "system              2",
        "in/a b.extxyz, frame 2",
        "reason              it is max_steps",
        "Cu2Au, 3 atoms, 1 held, periodic TTT",
        "-2.00000000 eV (-0.666667 an atom)",
        "fmax                0.5 eV/Å",
        "0.5 eV/Å³ (80.1 GPa)",
        "shortest distance   0.500 of the covalent radii",
        "fragments           1",
        "cell c (Å)",
        'info text           say "hi"',
    ):
        assert words in text, text


def test_a_reject(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    found = show_system(paths, 6)
    assert (found.outcome, found.place, found.n_atoms, found.formula) == ("invalid", "inputs.zarr", 0, "")
    assert "the file is empty" in found.reason and "no atoms" in str(found)


def test_a_diverged_system_has_no_energy(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    write_shard(paths, ShardName(1, 0, 0, 0), [2], [Outcome.DIVERGED])
    assert show_system(paths, 2).energy_ev is None


@pytest.mark.parametrize("system_id", [7, -1])
def test_an_id_that_is_none(tmp_path: Path, system_id: int) -> None:
    paths, _ = make_campaign(tmp_path)
    with pytest.raises(SpecError, match=rf"system {system_id} was asked of .*inputs 0 to 6. Give one"):
        show_system(paths, system_id)


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    from ase.build import bulk
    from ase.io import write
    from small_campaign import spec_of

    from campaign.ingest import run_ingest

    write(tmp_path / "a.extxyz", bulk("Cu"), format="extxyz")
    (tmp_path / "a.extxyz").rename(tmp_path / "a\x1b[2J\n.extxyz")
    report = run_ingest(spec_of(tmp_path, "*.extxyz"))
    text = str(show_system(report.paths, 0))
    assert "\x1b" not in text and "a\\x1b[2J\\n.extxyz, frame 0" in text
