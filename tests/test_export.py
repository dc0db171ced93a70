"""Export: what other programs read is what the store holds, streamed, whole or not at all."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase.io import read
from small_campaign import make_campaign, write_shard

from campaign.consolidate import run_consolidate
from campaign.errors import MissingDependencyError, ResourceError, SpecError, StoreDamagedError
from campaign.export import EXPORT_FORMATS, run_export
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName

OUTCOMES = [Outcome.CONVERGED, Outcome.CONVERGED, Outcome.MAX_STEPS, Outcome.DIVERGED, Outcome.CONVERGED, Outcome.FAILED]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> CampaignPaths:
    """Six inputs with results of all kinds, and a reject without atoms; published."""
    paths, _ = make_campaign(tmp_path_factory.mktemp('it\'s a "run"'))
    write_shard(paths, ShardName(1, 0, 0, 0), range(6), OUTCOMES)
    run_consolidate(paths)
    return paths


def test_extxyz_has_every_digit_and_everything_that_came_along(paths: CampaignPaths, tmp_path: Path) -> None:
    report = run_export(paths, "extxyz", tmp_path / "out file.extxyz")
    assert (report.n_systems, report.n_without_atoms) == (6, 1)
    assert report.n_bytes == report.output.stat().st_size
    from campaign.store import StoreReader

    store = StoreReader.open(paths.store)
    frames = read(report.output, ":")
    for system_id, atoms in enumerate(frames):
        _, positions = store.read_atoms("positions", [system_id])
        assert np.array_equal(atoms.positions, positions), "bit for bit"
        assert np.array_equal(atoms.cell.array, store.read_system("cell", [system_id])[0]) and atoms.pbc.all()
        assert atoms.get_tags().tolist() == list(range(system_id + 1))
        assert atoms.info["system_id"] == system_id and atoms.info["source"] == "in/a b.extxyz" and atoms.info["frame"] == system_id
        assert atoms.info["number"] == system_id and atoms.info["text"] == 'say "hi"'
        assert atoms.info["outcome"] == OUTCOMES[system_id].label
        if system_id == 3:
            assert atoms.calc is None, "a diverged system has no energy"
        else:
            assert atoms.get_potential_energy() == -system_id
            assert (atoms.get_forces(apply_constraint=False) == 0.25).all() and (atoms.get_stress() == 0.0625).all()
    assert frames[2].constraints[0].index.tolist() == [0]
    assert frames[3].info["error"] == "it is diverged"


def test_ase_db(paths: CampaignPaths, tmp_path: Path) -> None:
    report = run_export(paths, "ase-db", tmp_path / "out.db", "outcome == 'converged'")
    with ase.db.connect(report.output) as database:
        rows = list(database.select("system_id>0"))
        assert len(database) == 3
    assert [row.system_id for row in rows] == [1, 4]
    assert rows[0].energy == -1.0 and rows[0].outcome == "converged" and rows[0].data["source"] == "in/a b.extxyz"
    assert rows[1].toatoms().get_forces().shape == (5, 3)


def test_aselmdb_as_its_own_package_reads_it(paths: CampaignPaths, tmp_path: Path) -> None:
    backend = pytest.importorskip("ase_db_backends.aselmdb", reason="needs ase-db-backends: pip install ase-db-backends")
    lmdb = pytest.importorskip("lmdb")
    report = run_export(paths, "aselmdb", tmp_path / "out.aselmdb", "outcome == 'converged'")
    assert report.n_systems == 3 and sorted(path.name for path in tmp_path.iterdir()) == ["out.aselmdb"]
    with backend.LMDBDatabase(report.output, readonly=True) as database:
        assert len(database) == 3
        rows = [database._get_row_by_index(at) for at in range(3)]
    assert [row.system_id for row in rows] == [0, 1, 4]
    assert rows[1].toatoms().get_potential_energy() == -1.0 and rows[1].data["number"] == 1
    with lmdb.open(str(report.output), subdir=False, readonly=True, lock=False) as environment, environment.begin() as transaction:
        for _, value in transaction.cursor():
            json.loads(zlib.decompress(value))


def test_aselmdb_without_its_package(paths: CampaignPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(MissingDependencyError, match="pip install ase-db-backends"):
        run_export(paths, "aselmdb", tmp_path / "out.aselmdb")
    assert list(tmp_path.iterdir()) == []


def test_parquet_has_all_systems_and_all_fields(paths: CampaignPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("campaign.analysis.export.parquet.BLOCK_SYSTEMS", 2)
    report = run_export(paths, "parquet", tmp_path / "out.parquet")
    assert report.n_systems == 7
    file = pq.ParquetFile(report.output)
    assert file.num_row_groups == 4, "blocks of two systems"
    table = file.read()
    assert table["system_id"].to_pylist() == list(range(7))
    assert table["outcome"].to_pylist() == [*(outcome.label for outcome in OUTCOMES), "invalid"]
    assert table["energy"].to_pylist()[:2] == [0.0, -1.0] and table["n_atoms"].to_pylist() == [1, 2, 3, 4, 5, 6, 0]
    assert [len(values) for values in table["positions"].to_pylist()] == [3, 6, 9, 12, 15, 18, 0]
    assert len(table["cell"].to_pylist()[0]) == 9 and table["pbc"].to_pylist()[0] == [True] * 3
    assert table.schema.field("energy").metadata[b"unit"] == b"eV"
    assert json.loads(table["info"].to_pylist()[4])["number"] == 4
    assert "empty" in table["error"].to_pylist()[6]


def test_before_consolidation_what_is_committed_is_exported(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    write_shard(paths, ShardName(1, 0, 0, 0), [4, 2])
    report = run_export(paths, "extxyz", tmp_path / "out.extxyz")
    assert sorted(atoms.info["system_id"] for atoms in read(report.output, ":")) == [2, 4]


@pytest.mark.parametrize("format_", EXPORT_FORMATS)
def test_nothing_to_export_is_an_empty_file(paths: CampaignPaths, tmp_path: Path, format_: str) -> None:
    if format_ == "aselmdb":
        pytest.importorskip("lmdb", reason="needs ase-db-backends: pip install ase-db-backends")
    report = run_export(paths, format_, tmp_path / "out", "n_atoms > 1000")
    assert report.n_systems == 0 and report.output.exists()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("outcom == 'converged'", "did you mean 'outcome'"),
        ("__import__('os').system('true')", "not allowed"),
        ("energy >", "is no condition"),
        ("energy == 'low'", "text and number"),
    ],
)
def test_conditions_that_are_none(paths: CampaignPaths, tmp_path: Path, where: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        run_export(paths, "extxyz", tmp_path / "out.extxyz", where)
    assert list(tmp_path.iterdir()) == []


def test_unknown_format(paths: CampaignPaths, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"export format 'pickle' is unknown. There are extxyz.*Choose one"):
        run_export(paths, "pickle", tmp_path / "out")


def test_an_output_is_replaced_only_when_told(paths: CampaignPaths, tmp_path: Path) -> None:
    output = tmp_path / "out.extxyz"
    output.write_text("precious")
    with pytest.raises(SpecError, match=r"there already.*does not replace it.*--force"):
        run_export(paths, "extxyz", output)
    assert output.read_text() == "precious"
    run_export(paths, "extxyz", output, force=True)
    assert len(read(output, ":")) == 6
    with pytest.raises(SpecError, match="is a folder"):
        run_export(paths, "extxyz", tmp_path, force=True)


def test_an_output_that_cannot_be_written(paths: CampaignPaths, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"cannot write .*its folder is not there. Give a folder that exists"):
        run_export(paths, "extxyz", tmp_path / "nowhere" / "out.extxyz")


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    write_shard(paths, ShardName(1, 0, 0, 0), range(6))
    run_consolidate(paths)
    target = tmp_path / "target"
    target.mkdir()
    (target / "out.extxyz").write_text("precious")
    for chunk in (paths.store / "core" / "positions" / "c").rglob("*"):
        if chunk.is_file():
            os.truncate(chunk, chunk.stat().st_size // 2)
    with pytest.raises(StoreDamagedError):
        run_export(paths, "extxyz", target / "out.extxyz", force=True)
    assert [path.name for path in target.iterdir()] == ["out.extxyz"]
    assert (target / "out.extxyz").read_text() == "precious"
