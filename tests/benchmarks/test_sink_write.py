"""The sink benchmark runs both sides, finds what it wrote, and its JSON has what the documents say. Nothing is timed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sink_write.py"
BYTES = 40 * (8 + 24 + 8 + 8 + 24 + 24) + 72 + 3 + 8 + 72
"""Of a structure."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("figures") / "of this run.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--many", "704", "--their-most", "8", "--output", str(output)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    contents: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return contents


def test_each_side_wrote_what_it_was_given(found: dict[str, Any]) -> None:
    assert set(found) == {"benchmark", "options", "figures", "ratios", "targets", "versions", "hardware"}
    done = {side: [(f["per_write"], f["count"]) for f in found["figures"] if f["side"] == side] for side in ("ours", "nvalchemi")}
    assert done["nvalchemi"] == [(1, 8), (4, 8), (64, 8), (512, 8)]
    assert done["ours"] == [(4, 8), (64, 8), *((per_write, 704) for per_write in (1, 4, 64, 512)), (64, 704), (4, 8)]
    for figure in found["figures"]:
        assert figure["n_bytes"] == figure["count"] * BYTES
        assert figure["mb_per_s"] * 1e6 == pytest.approx(figure["structures_per_s"] * BYTES)
        assert figure["n_files"] > 15 and figure["stored_bytes"] > 0
        assert len(figure["file_s"]) == (figure["repeats"] + 1) * figure["compares_with_file"]


def test_ratios_and_targets_follow_from_figures(found: dict[str, Any]) -> None:
    figures = {(f["side"], f["per_write"], f["count"], f["flushes"]): f for f in found["figures"]}
    (same,) = (ratio for ratio in found["ratios"] if ratio["per_write"] == 4 and ratio["count"] == 8)
    ours, theirs = figures["ours", 4, 8, ""], figures["nvalchemi", 4, 8, ""]
    assert same["structures_per_s"] == pytest.approx(ours["structures_per_s"] / theirs["structures_per_s"])
    assert same["read_structures_per_s"] == pytest.approx(theirs["read_s"][0] / np.median(ours["read_s"]))
    targets = {target["name"]: target for target in found["targets"]}
    assert targets["4 per write"]["at_least"] == 500 and targets["4 per write"]["measured"] == same["structures_per_s"]
    tenths = figures["ours", 64, 704, "tenth"]["tenths_s"]
    assert targets["704 structures, 64 per write, first tenth over last"]["measured"] == pytest.approx(tenths[0] / tenths[-1])
    assert {"64 per write", "reading all back", "704 structures, 512 per write, bandwidth"} <= targets.keys()


def test_a_value_that_differs_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    sinks = importlib.import_module("sides.sinks")
    written = sinks.columns_of(3)
    changed = {**written, "forces": np.nextafter(written["forces"], 1)}
    with pytest.raises(ValueError, match="'forces' was read back otherwise"):
        sinks._compare(written, changed)
