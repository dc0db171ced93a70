"""Snapshots, frozen atoms, logs and guards beside the reference's."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from specimens import FLOAT64, Recorder, batch, below, structure, trap, with_edges, with_ids
from two_packages import Package, differs, same, same_error


def demo(p: Package, *hooks: Any, n_steps: int = 3, **options: Any) -> Any:
    return p.DemoDynamics(trap(p), n_steps=n_steps, dt=0.1, hooks=list(hooks), **options)


def call(p: Package, hook: Any, made: Any, **told: Any) -> None:
    hook(p.DynamicsContext(batch=made, **told), hook.stage)


# Snapshots; where frames are compared, of ours without the state of the dynamics, which the reference does not write.


def snapshot(p: Package, sink: Any, **options: Any) -> Any:
    return p.SnapshotHook(sink, **options, **({"with_state": False} if p.is_ours else {}))


@pytest.mark.parametrize("frequency", [1, 2, 5])
def test_snapshots(frequency: int) -> None:
    def script(p: Package) -> Any:
        # In a Zarr store, since there frames in main memory are views of the last one.
        sink = p.ZarrData({}, 100)
        hook = snapshot(p, sink, frequency=frequency)
        demo(p, hook, n_steps=5).run(batch(p))
        return len(sink), hook.frequency, hook.stage, sink.read()

    n_frames, *_, frames = same(script, 1e-5)
    assert n_frames == 3 * len(range(0, 5, frequency)) == len(frames["sizes"])


def test_snapshots_are_frames() -> None:
    def script(p: Package) -> int:
        sink = p.HostMemory(100)
        demo(p, p.SnapshotHook(sink)).run(batch(p))
        return len(set(sink.read().energy[::3].flatten().tolist()))

    differs("views", script, 1, 3)


def test_snapshots_at_another_stage() -> None:
    def script(p: Package) -> Any:
        sink = p.ZarrData({}, 100)
        demo(p, snapshot(p, sink, stage=p.DynamicsStage.BEFORE_STEP), n_steps=1).run(batch(p))
        return sink.read()

    assert same(script)["tensors"]["energy"]["numbers"] == [0.0, 1.0, 2.0]


def test_snapshots_into_a_full_sink() -> None:
    same_error(lambda p: demo(p, p.SnapshotHook(p.HostMemory(4))).run(batch(p)), RuntimeError)


def converged(p: Package, energy: float, n_steps: int, **options: Any) -> Any:
    sink = p.HostMemory(100)
    hook = p.ConvergedSnapshotHook(sink, **options)
    demo(p, hook, n_steps=n_steps, convergence_hook=below(energy)).run(with_ids(p, 7))
    return [sink.read().system_id.flatten().tolist(), hook.stage]


def test_snapshots_have_the_state_of_the_dynamics() -> None:
    def script(p: Package) -> bool:
        sink = p.HostMemory(20)
        p.FIRE(trap(p), dt=0.1, n_steps=2, hooks=[p.SnapshotHook(sink)]).run(batch(p))
        return any(key.startswith("dynamics_") for key, _ in sink.read())

    differs("snapshots", script, False, True)


def test_converged_systems() -> None:
    assert same(lambda p: converged(p, 1.0, 1)) == [[8], "ON_CONVERGE"]
    assert same(lambda p: converged(p, 1e9, 9)) == [[7, 8, 9], "ON_CONVERGE"]
    differs("once", lambda p: converged(p, 1.0, 4)[0], [8, 8, 8, 8], [8])
    differs("once", lambda p: converged(p, 1.0, 4, frequency=2)[0], [8, 8], [8])


def test_converged_systems_without_neighbours() -> None:
    def script(p: Package) -> Any:
        sink, made = p.HostMemory(100), with_edges(p)
        call(p, p.ConvergedSnapshotHook(sink), made)
        call(p, p.ConvergedSnapshotHook(sink), made, converged_mask=torch.tensor([False, False, False]))
        call(p, p.ConvergedSnapshotHook(sink), made, converged_mask=torch.tensor([True, False, True]))
        read = sink.read()
        return len(sink), read.num_edges, "neighbor_list" in read, made.num_edges

    assert same(script)[0] == 2
    assert same(script)[3] == 8


# Frozen atoms

CATEGORIES = (0, -1, 0, -1, 0, 0, 0, 1)


def frozen(p: Package, seen: list[Any] | None = None, n_steps: int = 3, **options: Any) -> Any:
    structures, first = [], 0
    for i, n in enumerate((3, 1, 4)):
        categories = torch.tensor(CATEGORIES[first : first + n])
        structures.append(structure(p, n, i, FLOAT64, atom_categories=categories, velocities=torch.ones(n, 3, dtype=FLOAT64)))
        first += n
    log: list[list[Any]] = []
    recorder = Recorder(p, log, {"AFTER_COMPUTE"}, what=lambda ctx: ctx.batch.positions.clone())
    after = demo(p, p.FreezeAtomsHook(**options), recorder, n_steps=n_steps).run(p.Batch.from_data_list(structures))
    if seen is not None:
        seen.extend(entry[-1] for entry in log)
    return after


@pytest.mark.parametrize("category", [-1, 1])
@pytest.mark.parametrize("key", ["positions", "velocities", "forces"])
def test_frozen_atoms(category: int, key: str) -> None:
    rows = torch.tensor([c == category for c in CATEGORIES])
    assert same(lambda p: frozen(p, freeze_category=category)[key][rows], 1e-12)["shape"] == [int(rows.sum()), 3]
    # The others move as if nobody was frozen, since this model has no pairs.
    assert same(lambda p: frozen(p, freeze_category=category)[key][~rows], 1e-12)["shape"] == [8 - int(rows.sum()), 3]


def test_what_the_model_sees_of_frozen_atoms() -> None:
    def stay(p: Package) -> bool:
        seen: list[Any] = []
        after = frozen(p, seen)
        return all(torch.equal(positions[1], after.positions[1]) for positions in seen)

    def forces(p: Package) -> list[bool]:
        return [bool(frozen(p, zero_forces=zero).forces[1].any()) for zero in (True, False)]

    differs("freezing", stay, False, True)
    assert same(forces) == [False, True]


def test_frozen_atoms_without_categories() -> None:
    def script(p: Package) -> None:
        made = batch(p)
        del made["atom_categories"]
        demo(p, p.FreezeAtomsHook()).run(made)

    # A KeyError that is a ValueError too, where there is an AttributeError.
    differs("wrong calls", script, AttributeError, KeyError)


# Logs


def logged(
    p: Package, path: Path, n_steps: int = 3, prepare: Callable[[Any], Any] = lambda made: None, runs: int = 1, **options: Any
) -> Any:
    """Rows of a log, temperatures apart: these hang on the constants."""
    made = batch(p, dtype=FLOAT64)
    made.velocities.fill_(0.1)
    prepare(made)
    hook = p.LoggingHook("csv", log_path=path, **options)
    dynamics = demo(p, hook, n_steps=n_steps)
    for _ in range(runs):
        dynamics.run(made)
    return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(path.read_text().splitlines())]


def without_temperature(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "temperature"} for row in rows]


@pytest.mark.parametrize("options", [{}, {"frequency": 2}])
def test_rows(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = same(lambda p: without_temperature(logged(p, tmp_path / p.root, **options)), 1e-9)
    assert list(rows[0]) == ["step", "graph_idx", "status", "energy", "fmax"]
    assert [row["step"] for row in rows[::3]] == [0.0, 1.0, 2.0][:: options.get("frequency", 1)]
    # ASE's constant of Boltzmann differs by 4e-7.
    assert same(lambda p: [row["temperature"] / 1e3 for row in logged(p, tmp_path / p.root, **options)], 4e-7)[0] > 0.1


def test_temperature_of_constrained_atoms(tmp_path: Path) -> None:
    def ratio(p: Package) -> float:
        def fix(made: Any) -> None:
            made.add_key("fixed", [torch.zeros(n, 3, dtype=torch.bool) for n in (3, 1, 4)])
            made["fixed"][0, 0] = True
            made.velocities[0, 0] = 0.0

        # Of nine components eight can move.
        row = logged(p, tmp_path / p.root, 1, fix, stage=p.DynamicsStage.BEFORE_STEP)[0]
        energy = 0.5 * float((batch(p, dtype=FLOAT64).atomic_masses[:3].repeat_interleave(3)[1:] * 0.01).sum())
        return row["temperature"] * 8.617333e-5 / energy

    differs("degrees of freedom", ratio, 2 / 9, 2 / 8, atol=1e-6)


def test_custom_scalars(tmp_path: Path) -> None:
    scalars: dict[str, Any] = {"a": lambda ctx: 2.0, "b": lambda ctx: ctx.batch.energy.flatten() * 2, "energy": lambda ctx: 1.0}
    rows = same(lambda p: without_temperature(logged(p, tmp_path / p.root, 1, custom_scalars=scalars)), 1e-9)
    assert [row["energy"] for row in rows] == [1.0] * 3
    too_few = {"b": lambda ctx: torch.ones(2)}
    differs("wrong calls", lambda p: logged(p, tmp_path / p.root, 1, custom_scalars=too_few), RuntimeError, ValueError)


def test_own_writer() -> None:
    def script(p: Package) -> Any:
        got: list[Any] = []
        hook = p.LoggingHook("custom", frequency=2, writer_fn=lambda step, rows: got.append([step, len(rows), float(rows[0]["energy"])]))
        demo(p, hook, n_steps=5).run(batch(p))
        with hook:
            call(p, hook, batch(p), step_count=9)
        return got

    assert [entry[0] for entry in same(script, 1e-5)] == [0, 2, 4, 9]


@pytest.mark.parametrize("options", [("csv",), ("tensorboard",), ("custom",), ("xml", 1, "x")])
def test_logs_that_cannot_be(options: tuple[Any, ...]) -> None:
    same_error(lambda p: p.LoggingHook(*options), ValueError)


def test_errors_of_a_writer(tmp_path: Path) -> None:
    def script(p: Package) -> str:
        def write(step: int, rows: Any) -> None:
            raise ArithmeticError("the disk is full")

        demo(p, p.LoggingHook("custom", writer_fn=write)).run(batch(p))
        return "nobody was told"

    differs("log errors", script, "nobody was told", ArithmeticError)
    # An energy of shape [N, 1] is such an error there.
    scalars = {"b": lambda ctx: ctx.batch.energy}
    differs("log errors", lambda p: len(logged(p, tmp_path / p.root, 1, custom_scalars=scalars)), FileNotFoundError, 3)


def test_a_second_run(tmp_path: Path) -> None:
    steps = [0.0, 1.0, 2.0, 3.0]
    differs("log again", lambda p: [row["step"] for row in logged(p, tmp_path / p.root, 2, runs=2)][::3], steps[2:], steps)


def test_columns(tmp_path: Path) -> None:
    def first_line(p: Package) -> Any:
        path = tmp_path / p.root
        logged(p, path, 1, lambda made: made.__setitem__("system_id", torch.tensor([[7], [8], [9]])))
        return [line.split(",")[:3] for line in path.read_text().splitlines()[:2]]

    there = [["step", "graph_idx", "status"], ["0.0", "0.0", "0.0"]]
    differs("log columns", first_line, there, [["step", "graph_idx", "system_id"], ["0", "0", "7"]])


# Guards


@pytest.mark.parametrize(
    ("key", "options", "is_seen"),
    [("forces", {}, True), ("energy", {}, True), ("positions", {}, False), ("positions", {"extra_keys": ["positions"]}, True)],
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_nan_detector(key: str, options: dict[str, Any], is_seen: bool, value: str) -> None:
    def script(p: Package) -> bool:
        made = batch(p)
        made[key][1] = float(value)
        call(p, p.NaNDetectorHook(**options), made)
        return True

    if is_seen:
        same_error(script, RuntimeError)
    else:
        assert same(script) is True


def test_nan_detector_in_order() -> None:
    def script(p: Package, **options: Any) -> bool:
        call(p, p.NaNDetectorHook(**options), batch(p))
        return True

    assert same(script) is True
    assert same(lambda p: script(p, extra_keys=["not there"])) is True


def clamped(p: Package, max_force: float, first: float = 1.0) -> Any:
    made = batch(p)
    made.forces[0] *= first
    call(p, p.MaxForceClampHook(max_force), made)
    return made.forces


@pytest.mark.parametrize(("max_force", "first"), [(0.5, 1.0), (0.5, 0.0), (1e9, 1.0), (0.5, float("nan"))])
def test_clamped_forces(max_force: float, first: float) -> None:
    assert same(lambda p: clamped(p, max_force, first), 1e-7)["shape"] == [8, 3]


def test_infinite_forces() -> None:
    differs("infinite forces", lambda p: bool(clamped(p, 0.5, float("inf"))[0].isnan().all()), True, False)
    for max_force in (0.0, -1.0):
        differs("nonsense", lambda p, limit=max_force: list(clamped(p, limit).shape), [8, 3], ValueError)
