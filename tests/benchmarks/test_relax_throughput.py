"""The throughput benchmark runs, its sides agree with ASE and each other, and its JSON has what the documents say. Nothing is timed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "relax_throughput.py"
CASES = ["A N=1", "A N=3", "B N=2", "C N=2", "D N=3"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("figures") / "of this run.json"
    sizes = ["--n", "A=1,3", "B=2", "C=2", "D=3", "H=1", "--n-serial", "A=1", "B=1", "C=1"]
    ran = run("--quick", "--cores", "2", "--sides", "ours", "refilled", "fixed", "ase", *sizes, "--output", str(output))
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    contents: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return contents


def without_hooks(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in found if "hook" not in one]


def of_side(found: dict[str, Any], side: str) -> Iterator[dict[str, Any]]:
    return (figure for figure in without_hooks(found["figures"]) if figure["side"] == side)


def test_json_has_its_parts(found: dict[str, Any]) -> None:
    assert set(found) == {"benchmark", "options", "figures", "ratios", "targets", "versions", "hardware"}
    assert found["benchmark"] == "relax_throughput"
    assert found["options"]["cores"] == 2
    assert {"cpu", "cores", "usable_cores", "load_average"} <= set(found["hardware"])
    assert {"python", "torch"} <= set(found["versions"]["ours"])
    assert {"python", "ase"} <= set(found["versions"]["ase"])


def test_each_side_has_a_right_answer_in_each_case(found: dict[str, Any]) -> None:
    sides = sorted((figure["case"], figure["side"]) for figure in without_hooks(found["figures"]))
    expected = [(case, side) for case in CASES[:4] for side in ("ase", "ours")] + [
        (CASES[4], side) for side in ("fixed", "ours", "refilled")
    ]
    assert sides == expected
    for figure in found["figures"]:
        assert figure["disagreements"] == []
        assert figure["n_converged"] == figure["n_structures"]
    for figure in without_hooks(found["figures"]):
        assert figure["n_processes"] == (1 if figure["n"] == 1 or figure["side"] == "ase" else 2)
        assert figure["structures_per_s"] > 0 and figure["structures_per_cpu_s"] > 0
        assert figure["atom_steps_per_s"] * min(figure["seconds"]) <= figure["atom_steps"] * (1 + 1e-9)
        assert figure["peak_memory_mib"] > 0
        assert 0 <= figure["steps"]["min"] <= figure["steps"]["median"] <= figure["steps"]["max"] <= 2000


def test_parts_are_of_our_time(found: dict[str, Any]) -> None:
    for figure in of_side(found, "ours"):
        assert {"sink", "exchange", "other"} < set(figure["part_shares"])
        # Two processes do not begin and end at the same time.
        least = 0.9 if figure["n_processes"] == 1 else 0.1
        assert least < sum(figure["part_shares"].values()) <= 1 + 1e-9


def test_idle_places_are_counted_where_steps_are(found: dict[str, Any]) -> None:
    (refilled,), (fixed,) = of_side(found, "refilled"), of_side(found, "fixed")
    # One place in each process: nobody waits for anybody, in either mode, but between the last step of one and the first of the next.
    assert 0 <= refilled["idle_share"] < 0.5 and 0 <= fixed["idle_share"] < 0.5
    assert all(figure["idle_share"] is None for figure in of_side(found, "ours"))


def test_all_sides_take_the_same_steps(found: dict[str, Any]) -> None:
    ratios = without_hooks(found["ratios"])
    of = [(ratio["case"], ratio["of"]) for ratio in ratios]
    assert of == [(case, "ours / ase") for case in CASES[:4]] + [(CASES[4], "refilled / fixed")]
    for ratio in ratios:
        assert ratio["structures_per_s"] == pytest.approx(ratio["atom_steps_per_s"])
        assert ratio["largest_difference_in_steps"] == 0


def test_targets_of_a_run_say_against_whom(found: dict[str, Any]) -> None:
    assert [target["name"].partition(" over ")[0] for target in found["targets"]] == [*CASES[:4], "D N=3 refilled"]
    for target in found["targets"]:
        assert set(target) == {"name", "at_least", "measured", "basis", "is_met"}
        assert target["is_met"] == (target["measured"] >= target["at_least"])
        assert target["basis"]


def test_hooks_run_beside_none_and_write_what_they_should(found: dict[str, Any]) -> None:
    hooked = [one for one in found["figures"] if "hook" in one]
    kinds = [(one["case"], one["side"], one["has_network"], one["hook"]) for one in hooked]
    with_network = [("H N=1", "ours", True, hook) for hook in ("", "snapshot", "converged")]
    assert kinds == with_network + [("H N=1", "ours", False, hook) for hook in ("", "listener", "snapshot", "converged")]
    for one in hooked:
        assert one["n_structures"] == 2, "a batch of one in each process"
        assert len(one["seconds"]) == 2
        if one["hook"] == "converged":
            assert one["n_written"] == one["n_converged"] == one["n_writes"] == 2
        elif one["hook"] == "snapshot":
            assert one["n_written"] == one["n_writes"] >= one["steps"]["max"] / 10
        else:
            assert one["n_written"] == one["n_writes"] == 0
    assert len({(one["steps"]["min"], one["steps"]["max"]) for one in hooked}) == 1, "a hook changed the steps"
    overheads = [ratio for ratio in found["ratios"] if "hook" in ratio]
    assert [(ratio["of"], ratio["has_network"]) for ratio in overheads] == [
        (f"ours with {hook} / without", has_network) for _, _, has_network, hook in kinds if hook
    ]
    for ratio in overheads:
        assert {"wall", "cpu", "noise", "cpu_noise", "ms_per_step", "ms_per_write"} <= set(ratio)


def hooked(load: Any, hook: str, seconds: list[float], n_writes: int, n_written: int, n: int = 128) -> Any:
    """Return a made-up measurement of ours with a network: 20 steps of two structures, in two processes."""
    exchange, measured, processes = load("sides.exchange"), load("sides.measured"), load("sides.processes")
    structures = load("sides.workloads").WORKLOADS["H"].structures(2)
    settings = exchange.Settings("lj", {}, 1e-3, 100, 2, 2, "", 1.0, 1, has_ballast=True, hook=hook)
    steps, zeros = np.array([20, 11]), np.zeros((140, 3))
    relaxed = exchange.Relaxed(np.arange(2), zeros, np.zeros(2), zeros, steps, np.ones(2, bool), n_writes=n_writes, n_written=n_written)
    answer = processes.Answer(relaxed, seconds, [2 * second for second in seconds], 100.0, 2)
    return measured.Measured(measured.Case("H", n, 2 * n), "ours", exchange.Task(settings, structures), answer, [])


def test_overhead_is_that_of_the_fastest_and_has_a_target(load: Any) -> None:
    overhead = load("sides.overhead")
    without = hooked(load, "", [10.0, 12.0, 10.2], 0, 0)
    snapshot = hooked(load, "snapshot", [10.4, 10.2, 13.0], 4, 4)
    converged = hooked(load, "converged", [10.3, 10.2, 10.4], 2, 2)
    found = list(overhead.overheads_of([without, snapshot, converged]))
    assert [one.hook for one in found] == ["snapshot", "converged"]
    assert (found[0].wall, found[0].cpu) == pytest.approx((0.02, 0.02))
    assert found[0].noise == pytest.approx(0.02), "the middle one over the fastest"
    assert found[0].ms_per_write == pytest.approx(200 / 2), "two writes in each of two processes"
    assert found[0].ms_per_step == pytest.approx(500)
    targets = list(overhead.targets_of([without.case], found))
    assert [(target.name, target.is_met) for target in targets] == [
        ("H N=128 with snapshot, as a share of the rate without", True),
        ("H N=128 with converged, as a share of the rate without", False),
    ]
    small = [hooked(load, hook, [1.0], 2, 2, n=16) for hook in ("", "snapshot")]
    found = list(overhead.overheads_of(small))
    assert found[0].noise is None and list(overhead.targets_of([small[0].case], found)) == []


def test_a_store_with_too_little_or_too_much_is_wrong(load: Any) -> None:
    wrongly_written = load("sides.overhead")._wrongly_written
    # Structures of 20 and 11 steps: two snapshots of each, every ten steps; none is there when it has left.
    right = [("", 0, 0), ("listener", 0, 0), ("snapshot", 2, 4), ("snapshot", 3, 5), ("converged", 1, 2)]
    wrong = [("", 1, 1), ("snapshot", 2, 3), ("snapshot", 2, 5), ("converged", 1, 1), ("converged", 2, 3)]
    for hook, n_writes, n_written in right:
        assert list(wrongly_written(hooked(load, hook, [1.0], n_writes, n_written))) == []
    for hook, n_writes, n_written in wrong:
        (text,) = wrongly_written(hooked(load, hook, [1.0], n_writes, n_written))
        assert text.startswith(f"{n_written} systems are in the store of the hook")


def test_ballast_is_work_and_changes_nothing(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from campaign.data import Batch
    from campaign.hooks import DynamicsContext
    from campaign.models.registry import create_model

    ballast = load("sides.ballast")
    one = load("sides.workloads").WORKLOADS["H"].structures(1)
    positions = torch.from_numpy(one.positions)
    first, second = (ballast.Ballast()(positions) for _ in range(2))
    assert torch.equal(first, second) and float(first.abs().max()) > 0
    model = create_model("lj", torch.float64, torch.device("cpu"), {})
    batch = Batch.from_arrays(one.n_atoms, {"positions": one.positions, "atomic_numbers": one.numbers}, {"cell": one.cell, "pbc": one.pbc})
    for hook in model.make_neighbor_hooks():
        hook(DynamicsContext(batch=batch, model=model), hook.stage)
    calls = []
    alone = model(batch)["forces"].clone()
    monkeypatch.setattr(ballast.Ballast, "forward", lambda self, given: calls.append(len(given)))
    ballast.add_ballast(model)
    assert torch.equal(model(batch)["forces"], alone)
    assert calls == [len(positions)]


def test_a_peer_that_ran_counts_and_one_that_did_not_is_estimated(load: Any) -> None:
    measured, targets = load("sides.measured"), load("sides.targets")
    case = measured.Case("A", 128, 128)

    def ratio(of: str, value: float, ours: int, theirs: int) -> dict[str, Any]:
        return {"case": case.name, "of": of, "structures_per_s": value, "processes": [ours, theirs]}

    over_ase = ratio("ours / ase", 400.0, 2, 2)
    # Recorded: nvalchemi 171, torch-sim 36 and ASE 10.6 structures/s, ASE on one core; compiled code 3850 on one core.
    peers, compiled = targets.targets_of([case], [over_ase])
    assert peers.measured == pytest.approx(400 * 2 / (171 / 10.6)) and peers.basis.startswith("nvalchemi as recorded at N=128")
    assert compiled.measured == pytest.approx(400 / (3850 / 10.6)) and "recorded" in compiled.basis
    ran = [over_ase, ratio("ours / nvalchemi", 30.0, 2, 2), ratio("ours / compiled", 0.3, 1, 2)]
    peers, compiled = targets.targets_of([case], ran)
    assert (peers.measured, peers.basis) == (30.0, "nvalchemi in this run")
    assert compiled.measured == pytest.approx(0.6)


def test_sharers_of_a_queue_take_each_number_once(load: Any, tmp_path: Path) -> None:
    queue = load("sides.queue")
    path = tmp_path / "queue"
    path.touch()

    def take_all(most: int) -> list[int]:
        own, taken = queue.Queue(1000, path, n_sharing=4), []
        while block := own.take(most):
            taken.extend(block)
        assert own.is_exhausted and own.share == 250
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take_all, (1, 2, 3, 7)))
    assert sorted(number for numbers in taken for number in numbers) == list(range(1000))


def test_what_processes_relaxed_is_put_in_order(load: Any) -> None:
    exchange = load("sides.exchange")
    structures = load("sides.workloads").WORKLOADS["A"].structures(3)
    n_atoms = int(structures.n_atoms.sum())
    inward = exchange.Relaxed(np.arange(3), structures.positions, np.arange(3.0), np.zeros((n_atoms, 3)), np.arange(3), np.ones(3, bool))
    shuffled = exchange.joined([exchange.joined([]), *(_part(inward, structures, i) for i in (2, 0, 1))])
    assert shuffled.index.tolist() == [2, 0, 1]
    ordered = exchange.in_order(shuffled, structures)
    assert np.array_equal(ordered.positions, structures.positions) and ordered.energy.tolist() == [0, 1, 2]
    with pytest.raises(RuntimeError, match="2 structures came back, 3 were given"):
        exchange.in_order(exchange.joined([_part(inward, structures, i) for i in (2, 0)]), structures)


def _part(relaxed: Any, structures: Any, i: int) -> Any:
    atoms = slice(structures.ptr[i], structures.ptr[i + 1])
    rows = {name: getattr(relaxed, name)[i : i + 1] for name in ("index", "energy", "n_steps", "converged")}
    return replace(relaxed, **rows, positions=relaxed.positions[atoms], forces=relaxed.forces[atoms])


def test_heavy_tail_has_all_sizes(load: Any) -> None:
    sizes = load("sides.workloads").WORKLOADS["D"].structures(60).n_atoms
    assert sizes.min() <= 2 and 300 < sizes.max() <= 500
    assert np.median(sizes) < sizes.mean() / 1.5


def test_a_side_without_environment_is_left_out(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environments, script, case = load("environments"), load("relax_throughput"), load("sides.measured").Case("A", 16, 16)
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    (tmp_path / "compiled").mkdir()
    assert not script._is_at_hand("compiled", [case])
    assert "compiled  left out: it has no environment; `make bench-peers` makes it" in capsys.readouterr().out
    (tmp_path / "compiled" / environments.MADE).touch()
    assert script._is_at_hand("compiled", [case])
    assert load("sides.processes").SIDES["compiled"].python == tmp_path / "compiled" / "bin" / "python"
    assert script._is_at_hand("ase", [case]) and not script._is_at_hand("refilled", [case])


def test_sizes_that_mean_nothing_are_refused() -> None:
    ran = run("--n", "E=1")
    assert ran.returncode == 2
    assert "'E=1' is not like A=16,128" in ran.stderr


def test_wrong_answers_are_found(load: Any) -> None:
    calculators, exchange = load("sides.ase_calculators"), load("sides.exchange")
    workload = load("sides.workloads").WORKLOADS["A"]
    structures = workload.structures(2)
    settings = exchange.Settings(workload.potential, workload.options, 1e-3, 10, 2, 2, "", 0.1, 1)
    evaluated = calculators.atoms_of(structures)
    for atoms in evaluated:
        atoms.calc = calculators.calculator(workload.potential, workload.options)
    right = exchange.Relaxed(
        np.arange(2),
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
    unshifted = replace(
        right, energy=np.array([lennard_jones(atoms.positions, **workload.options) for atoms in evaluated]), is_shifted=False
    )
    assert calculators.disagreements(structures, unshifted, settings) == []
    assert len(calculators.disagreements(structures, replace(unshifted, is_shifted=True), settings)) == 2
    for text, relaxed in wrong.items():
        assert calculators.disagreements(structures, relaxed, settings)[0].startswith(text)


def lennard_jones(positions: Any, epsilon: float, sigma: float, rc: float) -> float:
    """Return the energy of pairs within the cutoff, not shifted."""
    pairs = np.triu_indices(len(positions), 1)
    distances = np.linalg.norm(positions[pairs[0]] - positions[pairs[1]], axis=1)
    s6 = (sigma / distances[distances < rc]) ** 6
    return float(4 * epsilon * (s6**2 - s6).sum())


def test_missed_targets_are_printed(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    figures = load("figures")
    met, missed, unknown = (figures.Target(name, 10.0, value, "x") for name, value in (("a", 10.0), ("b", 9.0), ("c", float("nan"))))
    assert figures.print_missed([met]) == 0
    assert figures.print_missed([met, missed, unknown]) == 1
    assert "1 of 3 targets met" in capsys.readouterr().out
