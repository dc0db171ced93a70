"""FusedStage beside the reference's: order of stages, migration of systems, evaluations, hooks of sub-stages and of the whole batch.

Sub-stages here hand systems on by criteria of their own, unless budgets of steps are what is compared: of these the table speaks.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from specimens import Recorder, batch, below, statuses, trap
from two_packages import Package, differs, same, same_error

Log = list[list[Any]]


def sub_stage(p: Package, model: Any, energy: float | None, n_steps: int | None = None, **options: Any) -> Any:
    made = p.DemoDynamics(model, n_steps=1, dt=0.1, convergence_hook=None if energy is None else below(energy), **options)
    made.n_steps = n_steps
    return made


def fused(p: Package, log: Log, *energies: float | None, **options: Any) -> Any:
    """A stage whose sub-stages a, b, … end at these energies; everything that fires is noted."""
    model = trap(p)
    stages = [
        (code, sub_stage(p, model, energy, hooks=[Recorder(p, log, name=name)]))
        for (code, name), energy in zip(enumerate("abc"), energies, strict=False)
    ]
    return p.FusedStage(stages, hooks=[Recorder(p, log, name="own")], **options)


def test_order_of_stages() -> None:
    def script(p: Package) -> Any:
        log: Log = []
        stage = fused(p, log, 1.0, 3.0)
        stage.register_fused_hook(Recorder(p, log, {"BEFORE_STEP", "AFTER_STEP"}, name="fused"))
        after = stage.run(batch(p), n_steps=6)
        return log, after.status, stage.step_count, [dynamics.step_count for _, dynamics in stage.sub_stages]

    log, _, *counts = same(script)
    assert counts == [6, [6, 6]]
    # Nothing fires around the updates and after them but what the page lists.
    assert {stage for name, stage, _ in log if name in "ab"} == {
        *("BEFORE_STEP", "BEFORE_PRE_UPDATE", "AFTER_COMPUTE", "AFTER_POST_UPDATE", "AFTER_STEP", "ON_CONVERGE")
    }


def test_hooks_of_the_whole_batch() -> None:
    def script(p: Package) -> Any:
        log: Log = []
        stage = fused(p, [], 1.0, 3.0)
        stage.register_fused_hook(Recorder(p, log, {"BEFORE_COMPUTE", "AFTER_COMPUTE"}))
        stage.step(batch(p))
        return [entry[1] for entry in log]

    differs("fused hooks", script, [], ["BEFORE_COMPUTE", "AFTER_COMPUTE"])

    class NoStage:
        stage, frequency = None, 1

        def __call__(self, ctx: Any, stage: Any) -> None: ...

    def registered(p: Package, frequency: int) -> int:
        stage, hook = fused(p, [], 1.0, 3.0), NoStage()
        hook.frequency = frequency
        stage.register_fused_hook(hook)
        return len(stage.fused_hooks)

    same_error(lambda p: registered(p, 0), ValueError)
    differs("hook checks", lambda p: registered(p, 1), 1, TypeError)


@pytest.mark.parametrize(
    ("energies", "options"),
    [((1.0, 3.0), {}), ((3.0, 3.6), {}), ((None, None), {}), ((0.1, 0.2, 5.0), {}), ((1.0, 3.0), {"exit_status": 7}), ((1e9, 1e9), {})],
)
def test_migration(energies: tuple[float | None, ...], options: dict[str, int]) -> None:
    def script(p: Package) -> Any:
        log: Log = []
        stage = fused(p, [], *energies, **options)
        stage.register_hook(Recorder(p, log, {"BEFORE_STEP", "AFTER_STEP"}, what=statuses))
        after = stage.run(batch(p), n_steps=8)
        return log, stage.step_count, after

    log, n_steps, after = same(script, 1e-5)
    assert len(log) == 2 * n_steps
    assert after["tensors"]["status"]["shape"] == [3, 1]


def test_a_status_that_is_brought() -> None:
    def script(p: Package, *status: int) -> Any:
        made = batch(p)
        made["status"] = torch.tensor(status).unsqueeze(1)
        stage = fused(p, [], 1.0, 3.0)
        return stage.run(made, n_steps=4), stage.step_count

    assert same(lambda p: script(p, 1, 0, 2), 1e-6)[1] == 4
    assert same(lambda p: script(p, 2, 2, 2), 1e-6)[1] == 1


def test_what_steps_return() -> None:
    def script(p: Package) -> Any:
        stage, made, seen = fused(p, [], 1.0, 3.65), batch(p), []
        for _ in range(4):
            made, left = stage.step(made)
            seen.append([left, made.status])
        return seen

    assert any(left is not None for left, _ in same(script))


def test_who_converged() -> None:
    def script(p: Package) -> Any:
        log: Log = []
        stage = fused(p, [], 3.65, 0.245)
        for name, (_, dynamics) in zip("ab", stage.sub_stages, strict=True):
            dynamics.register_hook(
                Recorder(p, log, {"ON_CONVERGE"}, name=name, what=lambda ctx: [ctx.converged_mask.tolist(), statuses(ctx)])
            )
        stage.run(batch(p), n_steps=8)
        return log

    assert {entry[0] for entry in same(script)} == {"a", "b"}


def test_frequencies() -> None:
    def script(p: Package) -> Any:
        log: Log = []
        model = trap(p)
        stages = [
            sub_stage(p, model, 1.0, hooks=[Recorder(p, log, {"AFTER_STEP"}, frequency, name)]) for name, frequency in (("a", 2), ("b", 3))
        ]
        (stages[0] + stages[1]).run(batch(p), n_steps=7)
        return log

    log = same(script)
    assert [step for name, _, step in log if name == "b"] == [0, 3, 6]


def test_one_evaluation_per_step() -> None:
    def script(p: Package) -> Any:
        calls: list[int] = []
        model = trap(p, calls=calls)
        (sub_stage(p, model, 1.0) + sub_stage(p, model, 3.0)).run(batch(p), n_steps=5)
        return calls

    assert same(script) == [3] * 6


# Budgets of steps


def with_budgets(p: Package, *n_steps: int) -> Any:
    log: Log = []
    model = trap(p)
    stage = p.FusedStage([(code, sub_stage(p, model, None, n)) for code, n in enumerate(n_steps)])
    # The criteria that are there by default are never met here.
    stage.register_hook(Recorder(p, log, {"BEFORE_STEP"}, what=lambda ctx: statuses(ctx)[0]))
    stage.run(batch(p))
    return [entry[-1] for entry in log]


def test_budgets() -> None:
    assert same(lambda p: with_budgets(p, 3)) == [0, 0, 0]
    differs("budgets", lambda p: with_budgets(p, 2, 3), [0, 0, 1, 1], [0, 0, 1, 1, 1])
    differs("budgets", lambda p: with_budgets(p, 2, 1), [0, 0], [0, 0, 1])


def test_counters_of_steps() -> None:
    def script(p: Package) -> Any:
        with_budgets(p, 2)
        made = p.FusedStage([(0, sub_stage(p, trap(p), 1.0))]).run(batch(p), n_steps=1)
        return "n_steps_counter_0" in made

    differs("counters", script, True, False)


# Making one


def test_addition() -> None:
    def script(p: Package) -> Any:
        model = trap(p)
        stage = p.DemoDynamics(model, n_steps=2) + p.NVE(model, 1.0) + p.FIRE(model, 0.1)
        return [code for code, _ in stage.sub_stages], stage.exit_status, stage.entry_status, repr(stage)

    assert same(script)[:3] == [[0, 1, 2], 3, 0]
    same_error(lambda p: p.NVE(trap(p), 1.0) + 3, TypeError)
    same_error(lambda p: (p.NVE(trap(p), 1.0) + p.NVE(trap(p), 1.0)) + "x", TypeError)


def test_what_a_stage_needs_and_gives() -> None:
    def script(p: Package) -> Any:
        stage = p.DemoDynamics(trap(p), n_steps=2) + p.FIREVariableCell(trap(p), 0.1)
        return stage.__needs_keys__, stage.__provides_keys__

    assert same(script) == [["forces", "stress"], ["cell", "positions", "velocities"]]


def test_stages_that_cannot_be() -> None:
    def on(p: Package, *devices: str) -> Any:
        return p.FusedStage([(i, p.NVE(trap(p), 1.0, device_type=device)) for i, device in enumerate(devices)])

    same_error(lambda p: on(p, "cpu", "cuda"), ValueError)
    same_error(lambda p: on(p, "cpu", "cpu").run(), ValueError)
    differs("wrong calls", lambda p: p.FusedStage([]), IndexError, ValueError)


def test_all_complete() -> None:
    def script(p: Package, *status: int) -> bool:
        made = batch(p)
        if status:
            made["status"] = torch.tensor(status).unsqueeze(1)
        return p.FusedStage.all_complete(made, 1)

    assert same(lambda p: [script(p), script(p, 1, 1, 1), script(p, 0, 1, 1)]) == [False, True, False]
    differs("complete", lambda p: script(p, 1, 2, 1), False, True)
