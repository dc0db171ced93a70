"""The benchmark of reading runs, finds what was written, notices when it is not, and its JSON has its parts. Nothing is timed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import campaign

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "store_read.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("store_read")


def test_it_runs_and_writes_its_parts(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--n", "300", "--repeats", "1", "--folder", str(tmp_path), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))
    assert set(found) == {"benchmark", "options", "figures", "ratios", "targets", "versions", "hardware"}
    assert {figure["name"] for figure in found["figures"]} >= {"a random structure", "sum over atoms, cold", "the table, all columns"}
    assert [target["name"] for target in found["targets"]] == [
        "random structures a second",
        "rows of the table a second",
        "sum over atoms",
    ]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.json"]


def test_a_wrong_answer_is_noticed(tmp_path: Path, benchmark: Any) -> None:
    systems = benchmark.tiled(60)
    benchmark.write(tmp_path / "s.zarr", systems)
    store = campaign.open(tmp_path / "s.zarr")
    assert benchmark.differences(store, systems) == []
    systems.columns["energy"] += 1
    systems.columns["forces"] *= 2
    assert benchmark.differences(store, systems) == ["the table has other energies", "the sums over atoms are other ones"]
