"""examples/nvalchemi_script: one script, both packages, the same output."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Any

import pytest
from two_packages import Package, ours, same, theirs

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "nvalchemi_script" / "relax_molecules.py"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in which the script ran, with what it printed in `printed`, by package."""
    folders = {}
    for package in (theirs(), ours()):
        folder = folders[package.root] = tmp_path_factory.mktemp(package.root)
        with pytest.MonkeyPatch.context() as patch, package.at_work(), (folder / "printed").open("w") as printed:
            patch.setattr("sys.stdout", printed)
            SCRIPT["main"](package.root, folder)
    return folders


def words(line: str) -> list[Any]:
    return [float(word) if word.replace(".", "").removeprefix("-").isdigit() else word for word in line.split()]


def test_it_prints_the_same(outputs: dict[str, Path]) -> None:
    printed = same(lambda p: [words(line) for line in (outputs[p.root] / "printed").read_text().splitlines()], 2e-4)
    assert len(printed) == len(SCRIPT["MOLECULES"]) + 2
    assert {row[1] for row in printed[1:-1]} == {2.0}
    assert max(row[-1] for row in printed[1:-1]) <= SCRIPT["TIGHT"]


def test_it_logs_the_same(outputs: dict[str, Path]) -> None:
    def rows(p: Package) -> Any:
        with (outputs[p.root] / "relax.csv").open() as file:
            # Ours has a column for ids, see the table of differences.
            return [{key: float(value) for key, value in row.items() if key != "system_id"} for row in csv.DictReader(file)]

    assert [row["step"] for row in same(rows, 1e-9)[::4]] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]


def test_it_stores_the_same(outputs: dict[str, Path]) -> None:
    from nvalchemi.data.datapipes.backends.zarr import AtomicDataZarrReader

    def frames(p: Package) -> Any:
        with theirs().at_work(), AtomicDataZarrReader(outputs[p.root] / "trajectory.zarr") as reader:
            return [[reader[i][0][key] for key in ("positions", "energy", "forces")] for i in range(len(reader))]

    assert len(same(frames, 1e-9)) == 24


def test_the_package_is_an_argument() -> None:
    assert SCRIPT["parser"].parse_args([]).package == "campaign"
    assert SCRIPT["parser"].parse_args(["nvalchemi", "--output", "x"]).package == "nvalchemi"
