"""Names of files, and files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import campaign.units as units
from campaign.errors import CampaignNotFoundError
from campaign.files import create_whole, write_whole
from campaign.paths import CampaignPaths, ShardName


@given(st.integers(0, 9999), st.integers(0, 99999), st.integers(0, 99999), st.integers(0, 999))
def test_shard_name_round_trip(round_: int, array_task: int, rank: int, attempt: int) -> None:
    name = ShardName(round_, array_task, rank, attempt)
    assert ShardName.parse(str(name)) == name


@pytest.mark.parametrize("name", ["x.zarr", "0001-00000-00000-000.zarr.partial", "../0001-00000-00000-000.zarr", "1-0-0-0.zarr"])
def test_other_names_are_no_shards(name: str) -> None:
    assert ShardName.parse(name) is None


def test_open_needs_a_campaign(tmp_path: Path) -> None:
    with pytest.raises(CampaignNotFoundError, match="is no campaign directory"):
        CampaignPaths.open(tmp_path)


def test_write_replaces_and_create_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a 'b' é"
    write_whole(path, b"1")
    write_whole(path, b"2")
    assert path.read_bytes() == b"2"
    with pytest.raises(FileExistsError):
        create_whole(path, b"3")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_units_are_ases() -> None:
    ase_units = pytest.importorskip("ase.units")
    assert pytest.approx(1 / ase_units.GPa, rel=1e-12) == units.GPA_PER_EV_PER_ANG3
    assert pytest.approx(ase_units.kB, rel=1e-7) == units.EV_PER_K
    assert pytest.approx(ase_units.fs, rel=1e-12) == units.FS_TO_ASE_TIME
