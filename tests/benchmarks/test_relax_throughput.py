"""The throughput benchmark runs, its sides agree with ASE and each other, and its JSON has what the documents say. Nothing is timed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "relax_throughput.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("figures") / "of this run.json"
    sizes = ["--n", "A=1,3", "B=2", "C=2", "--n-serial", "A=1", "B=1", "C=1"]
    ran = run("--quick", *sizes, "--output", str(output))
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    contents: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return contents


def test_json_has_its_parts(found: dict[str, Any]) -> None:
    assert set(found) == {"benchmark", "options", "figures", "ratios", "targets", "versions", "hardware"}
    assert found["benchmark"] == "relax_throughput"
    assert {"cpu", "cores", "usable_cores", "load_average"} <= set(found["hardware"])
    assert {"python", "torch"} <= set(found["versions"]["ours"])
    assert {"python", "ase"} <= set(found["versions"]["ase"])


def test_each_side_has_a_right_answer_in_each_case(found: dict[str, Any]) -> None:
    cases = ["A N=1", "A N=3", "B N=2", "C N=2"]
    sides = sorted((figure["case"], figure["side"]) for figure in found["figures"])
    assert sides == [(case, side) for case in cases for side in ("ase", "ours")]
    for figure in found["figures"]:
        assert figure["disagreements"] == []
        assert figure["n_converged"] == figure["n_structures"]
        assert figure["structures_per_s"] > 0 and figure["structures_per_cpu_s"] > 0
        assert figure["atom_steps_per_s"] * min(figure["seconds"]) <= figure["atom_steps"] * (1 + 1e-9)
        assert figure["peak_memory_mib"] > 0
        assert 0 < figure["steps"]["min"] <= figure["steps"]["median"] <= figure["steps"]["max"] <= 2000


def test_parts_are_all_of_our_time(found: dict[str, Any]) -> None:
    for figure in found["figures"]:
        if figure["side"] == "ours":
            assert {"model", "neighbors", "optimizer", "sink", "exchange", "other"} < set(figure["part_shares"])
            assert 0.9 < sum(figure["part_shares"].values()) <= 1 + 1e-9


def test_both_sides_take_the_same_steps(found: dict[str, Any]) -> None:
    assert [ratio["case"] for ratio in found["ratios"]] == ["A N=1", "A N=3", "B N=2", "C N=2"]
    for ratio in found["ratios"]:
        assert ratio["of"] == "ours / ase"
        assert ratio["structures_per_s"] == pytest.approx(ratio["atom_steps_per_s"])
        assert ratio["largest_difference_in_steps"] == 0


def test_targets_say_against_whom(found: dict[str, Any]) -> None:
    assert [target["name"].partition(" over ")[0] for target in found["targets"]] == ["A N=1", "A N=3", "B N=2", "C N=2"]
    for target in found["targets"]:
        assert set(target) == {"name", "at_least", "measured", "basis", "is_met"}
        assert target["is_met"] == (target["measured"] >= target["at_least"])
        assert target["basis"]


def test_sizes_that_mean_nothing_are_refused() -> None:
    ran = run("--n", "D=1")
    assert ran.returncode == 2
    assert "'D=1' is not like A=16,128" in ran.stderr


def test_wrong_answers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    calculators, exchange = importlib.import_module("sides.ase_calculators"), importlib.import_module("sides.exchange")
    workload = importlib.import_module("sides.workloads").WORKLOADS["A"]
    structures = workload.structures(2)
    settings = exchange.Settings(workload.potential, workload.options, 1e-3, 10, 2, 0.1, 1)
    evaluated = calculators.atoms_of(structures)
    for atoms in evaluated:
        atoms.calc = calculators.calculator(workload.potential, workload.options)
    right = exchange.Relaxed(
        structures.positions,
        np.array([atoms.get_potential_energy() for atoms in evaluated]),
        np.concatenate([atoms.get_forces() for atoms in evaluated]),
        np.array([10, 10]),
        np.array([False, False]),
    )
    push = np.zeros_like(right.forces)
    push[-1, 0] = 2e-6
    wrong = {
        "structure 1: forces differ": replace(right, forces=right.forces + push),
        "structure 0: the energy differs": replace(right, energy=right.energy + np.array([1e-4, 0.0])),
        "structure 1: called converged, and fmax": replace(right, converged=np.array([False, True])),
        "structure 0: given up after 9 steps": replace(right, n_steps=np.array([9, 10])),
        "1 systems with": replace(right, n_steps=np.array([10])),
        "structure 0: forces differ from ASE's by up to nan": replace(right, forces=np.where(push == push[0], np.nan, right.forces)),
    }
    assert calculators.disagreements(structures, right, settings) == []
    for text, relaxed in wrong.items():
        assert calculators.disagreements(structures, relaxed, settings)[0].startswith(text)


def test_missed_targets_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    figures = importlib.import_module("figures")
    met, missed, unknown = (figures.Target(name, 10.0, value, "x") for name, value in (("a", 10.0), ("b", 9.0), ("c", float("nan"))))
    assert figures.print_missed([met]) == 0
    assert figures.print_missed([met, missed, unknown]) == 1
    assert "1 of 3 targets met" in capsys.readouterr().out
