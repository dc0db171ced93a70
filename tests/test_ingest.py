"""Ingest: ids, rejects, bytes, and that it can be killed anywhere and repeated."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from small_campaign import make_campaign, spec_of, structures

from campaign.errors import CampaignExistsError, SpecError
from campaign.fields import INPUT_FIELDS, decode_error
from campaign.ingest import run_ingest
from campaign.outcomes import RUNNING, Outcome
from campaign.paths import CampaignPaths
from campaign.spec import CampaignSpec, parse_spec, read_spec
from campaign.store import StoreReader


def rows(paths: CampaignPaths) -> list[dict[str, Any]]:
    """All inputs as plain values."""
    reader = StoreReader.open(paths.inputs)
    found = []
    for system_id in range(reader.n_systems):
        values = reader.read([system_id], [field.name for field in INPUT_FIELDS])
        found.append(
            {
                **values,
                "n_atoms": len(values["atomic_numbers"]),
                "source": values["source"][0],
                "frame": int(values["frame"][0, 0]),
                "outcome": int(values["outcome"][0, 0]),
                "error": decode_error(values["error"][0].tobytes()),
                "info": json.loads(values["info"][0] or "{}"),
            }
        )
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_ids_follow_entries_then_names_then_frames(tmp_path: Path) -> None:
    for name, count in (("s10", 1), ("s2", 2), ("first", 1)):
        write(tmp_path / f"{name}.extxyz", structures(count), format="extxyz")
    report = run_ingest(spec_of(tmp_path, "first.extxyz", "s*.extxyz"))
    found = rows(report.paths)
    assert [(row["source"], row["frame"]) for row in found] == [("first.extxyz", 0), ("s2.extxyz", 0), ("s2.extxyz", 1), ("s10.extxyz", 0)]
    assert [row["system_id"].item() for row in found] == [0, 1, 2, 3]
    assert report.n_inputs == 4 and report.n_rejected == 0 and report.n_files == 3
    assert str(report) == "4 structures from 3 files, 0 rejected"


def test_what_comes_with_a_structure_survives(tmp_path: Path) -> None:
    atoms = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.7]], cell=[[9, 0, 0], [1, 9, 0], [0, 0, 9]], pbc=[True, True, False])
    atoms.set_tags([3, 4])
    atoms.set_initial_charges([0.5, -0.5])
    atoms.set_initial_magnetic_moments([1.0, 0.0])
    atoms.set_masses([63.0, 197.0])
    atoms.info = {"text": "å \\ \" '", "list": [1, 2.5], "nested": {"a": None}, "array": np.arange(3)}
    write(tmp_path / "a.traj", atoms)
    report = run_ingest(spec_of(tmp_path, "a.traj"))
    (row,) = rows(report.paths)
    assert row["info"] == {"text": "å \\ \" '", "list": [1, 2.5], "nested": {"a": None}, "array": [0, 1, 2]}
    assert row["atomic_numbers"].tolist() == [29, 79] and np.array_equal(row["positions"], atoms.positions)
    assert row["tags"].tolist() == [3, 4] and row["initial_charges"].tolist() == [0.5, -0.5]
    assert row["initial_magmoms"].tolist() == [1, 0] and row["atomic_masses"].tolist() == [63, 197]
    assert row["pbc"].tolist() == [[True, True, False]] and np.array_equal(row["cell"][0], atoms.cell.array)
    assert row["outcome"] == RUNNING and row["error"] == "" and not row["fixed"].any()


def test_constraints_become_fixed_components(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path, 4)
    assert [row["fixed"].any(axis=1).tolist() for row in rows(paths)[:4]] == [[False], [False] * 2, [True, False, False], [False] * 4]


def test_results_and_columns_that_came_along_are_not_taken_for_ours(tmp_path: Path) -> None:
    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.info = {"energy": -1.5}
    atoms.new_array("colour", np.array([7.0]))
    write(tmp_path / "a.extxyz", atoms, format="extxyz")
    report = run_ingest(spec_of(tmp_path, "a.extxyz"))
    assert rows(report.paths)[0]["info"] == {"input_energy": -1.5}
    assert report.dropped_arrays == ("colour",)


def test_moments_with_three_components_stay_readable(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", Atoms("Cu", magmoms=[[0.0, 0.5, 1.0]]))
    (row,) = rows(run_ingest(spec_of(tmp_path, "a.traj")).paths)
    assert row["outcome"] == RUNNING and row["info"] == {"initial_magmoms": [[0.0, 0.5, 1.0]]}


def test_rejects_are_rows_with_file_frame_and_reason(tmp_path: Path) -> None:
    good = bulk("Cu", "fcc", a=3.6, cubic=True)
    bad = good.copy()
    bad.positions[1] = bad.positions[0] + 0.01
    broken = good.copy()
    broken.positions[0] = np.nan
    write(tmp_path / "a.extxyz", [good, bad, broken, bulk("Xe", "fcc", a=6.2), good], format="extxyz")
    (tmp_path / "b.cif").touch()
    report = run_ingest(spec_of(tmp_path, "*.extxyz", "b.cif"))
    found = rows(report.paths)
    assert [row["outcome"] == Outcome.INVALID for row in found] == [False, True, True, True, False, True]
    assert [row["frame"] for row in found] == [0, 1, 2, 3, 4, 0]
    assert found[5]["source"] == "b.cif"
    # Atoms are kept where their numbers are finite.
    assert [row["n_atoms"] for row in found] == [4, 4, 0, 1, 4, 0]
    for row, words in zip(
        (found[1], found[2], found[3], found[5]), ("0.0173 Å apart", "position of atom 0", "not know Xe", "empty"), strict=True
    ):
        assert words in row["error"]
    assert report.n_rejected == 4
    assert dict(report.reasons) == {"empty file": 1, "not finite": 1, "two atoms on one spot": 1, "unknown element": 1}


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", structures(30), format="extxyz")
    write(tmp_path / "b.cif", bulk("Cu", "fcc", a=3.6, cubic=True))
    stores = []
    for name in ("one", "two"):
        spec = spec_of(tmp_path, "a.extxyz", "b.cif")
        spec = spec.model_copy(update={"campaign": spec.campaign.model_copy(update={"directory": str(tmp_path / name)})})
        stores.append(files_of(run_ingest(spec).paths.inputs))
    assert stores[0] == stores[1] and stores[0]


def test_blocks_do_not_show_in_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.extxyz", structures(20), format="extxyz")
    spec = spec_of(tmp_path, "a.extxyz")
    whole = files_of(run_ingest(spec).paths.inputs)
    monkeypatch.setattr("campaign.ingest.BLOCK_SYSTEMS", 3)
    monkeypatch.setattr("campaign.ingest.BLOCK_ATOMS", 10)
    spec = spec.model_copy(update={"campaign": spec.campaign.model_copy(update={"directory": str(tmp_path / "other")})})
    assert files_of(run_ingest(spec).paths.inputs) == whole


def test_the_directory_belongs_to_its_user_and_holds_the_frozen_spec(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path, 1)
    assert stat.S_IMODE(paths.root.stat().st_mode) == 0o700
    assert read_spec(paths.spec) == spec
    assert sorted(path.name for path in paths.root.iterdir()) == ["campaign.toml", "inputs.zarr"]


def test_a_campaign_is_never_overwritten(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path, 1)
    before = files_of(paths.root)
    with pytest.raises(CampaignExistsError, match=r"is a campaign already.*never overwritten.*campaign resume"):
        run_ingest(spec)
    assert files_of(paths.root) == before


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", structures(1), format="extxyz")
    spec = spec_of(tmp_path, "a.extxyz")
    spec.paths.root.mkdir()
    (spec.paths.root / "thesis.tex").touch()
    with pytest.raises(SpecError, match=r"holds other files and is no campaign. Give a directory"):
        run_ingest(spec)
    (spec.paths.root / "thesis.tex").unlink()
    assert run_ingest(spec).n_inputs == 1, "an empty directory is fine"
    assert stat.S_IMODE(spec.paths.root.stat().st_mode) == 0o700


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", structures(1), format="extxyz")
    spec = spec_of(tmp_path, "a.extxyz")
    spec.paths.root.touch()
    with pytest.raises(SpecError, match="is a file"):
        run_ingest(spec)


@pytest.mark.parametrize("change", ["paths", "model", "option"])
def test_a_bad_spec_leaves_nothing_behind(tmp_path: Path, change: str) -> None:
    write(tmp_path / "a.extxyz", structures(1), format="extxyz")
    spec = spec_of(tmp_path, "nothing*.cif" if change == "paths" else "a.extxyz")
    if change == "model":
        spec = parse_spec(
            '[campaign]\nname = "x"\ndirectory = "run"\n[inputs]\npaths = ["a.extxyz"]\n[model]\nname = "sevennet"\ndtype = "float64"\n',
            tmp_path,
        )
    if change == "option":
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"options": {"asap_cutof": True}})})
    with pytest.raises(SpecError):
        run_ingest(spec)
    assert not spec.paths.root.exists()


def test_an_ingest_that_was_killed_is_repeated(tmp_path: Path) -> None:
    """Kill it after the spec was frozen and while the store is written, then ingest again from the frozen spec."""
    write(tmp_path / "a.extxyz", structures(1) * 3000, format="extxyz")
    spec = spec_of(tmp_path, "a.extxyz")
    code = "import sys, pathlib, small_campaign as small; small.run_ingest(small.spec_of(pathlib.Path(sys.argv[1]), 'a.extxyz'))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    while not list(spec.paths.root.glob(".inputs.zarr.*.partial")) and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert spec.paths.spec.exists() and not spec.paths.inputs.exists()
    frozen = read_spec(spec.paths.spec)
    assert frozen == spec
    assert run_ingest(frozen).n_inputs == 3000
    assert StoreReader.open(spec.paths.inputs).n_systems == 3000


def test_left_overs_of_a_killed_ingest_are_swept_when_they_are_old(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", structures(1), format="extxyz")
    spec = spec_of(tmp_path, "a.extxyz")
    spec.paths.root.mkdir()
    for name, age_s in ((".campaign.toml.old.partial", 7200), (".campaign.toml.new.partial", 0)):
        (spec.paths.root / name).touch()
        os.utime(spec.paths.root / name, (time.time() - age_s,) * 2)
    run_ingest(spec)
    assert sorted(path.name for path in spec.paths.root.iterdir()) == [".campaign.toml.new.partial", "campaign.toml", "inputs.zarr"]


def test_a_directory_with_another_spec_is_refused(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path, 1)
    other = spec.model_copy(update={"relax": spec.relax.model_copy(update={"max_steps": 7})})
    (paths.inputs).rename(tmp_path / "elsewhere")
    with pytest.raises(CampaignExistsError, match="its spec is another one"):
        run_ingest(other)
    assert run_ingest(spec).n_inputs == 2


def test_progress_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", structures(2), format="extxyz")
    seen: list[tuple[int, int | None]] = []
    run_ingest(spec_of(tmp_path, "a.extxyz"), lambda n_done, n_total: seen.append((n_done, n_total)))
    assert seen[0] == (1, None) and seen[-1] == (2, 2)


def test_hostile_names_everywhere(tmp_path: Path) -> None:
    folder = tmp_path / "qu'o\"te new\nline %20?#@2 [1] Körper"
    folder.mkdir()
    write(folder / "plain.extxyz", structures(2), format="extxyz")
    (folder / "plain.extxyz").rename(folder / "a\"b'c\n[0-9] ñ@3.extxyz")
    spec: CampaignSpec = spec_of(folder, "a\"b'c\n[0-9] ñ@3.extxyz")
    report = run_ingest(spec)
    assert [row["source"] for row in rows(report.paths)] == ["a\"b'c\n[0-9] ñ@3.extxyz"] * 2


def test_a_campaign_of_nothing_but_rejects_is_a_campaign(tmp_path: Path) -> None:
    (tmp_path / "a.cif").touch()
    report = run_ingest(spec_of(tmp_path, "a.cif"))
    assert report.n_inputs == report.n_rejected == 1
