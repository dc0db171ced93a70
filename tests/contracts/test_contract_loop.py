"""BaseDynamics and DemoDynamics beside the reference's: stages and frequencies, what hooks are told, one step, a run, registration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from specimens import FLOAT64, Recorder, batch, below, mask, trap
from two_packages import Package, differs, same, same_error

EVERYBODY = below(1e9)
SOME = below(1.0)


def demo(p: Package, n_steps: int = 3, dt: float = 0.1, **options: Any) -> Any:
    return p.DemoDynamics(trap(p), n_steps=n_steps, dt=dt, **options)


def stages(p: Package, frequency: int = 1, n_steps: int = 4, **options: Any) -> Any:
    log: list[list[Any]] = []
    dynamics = demo(p, n_steps, hooks=[Recorder(p, log, frequency=frequency)], **options)
    dynamics.run(batch(p))
    return log, dynamics.step_count


@pytest.mark.parametrize("frequency", [1, 2, 3, 5])
@pytest.mark.parametrize("convergence_hook", [None, SOME, EVERYBODY], ids=["no criteria", "some converge", "all converge"])
def test_stages_and_frequencies(frequency: int, convergence_hook: dict[str, Any] | None) -> None:
    log, n_steps = same(lambda p: stages(p, frequency, convergence_hook=convergence_hook))
    assert n_steps == (1 if convergence_hook is EVERYBODY else 4)
    assert {step % frequency for _, _, step in log} == {0}
    assert ("ON_CONVERGE" in [stage for _, stage, _ in log]) == (convergence_hook is not None)


def test_what_hooks_are_told() -> None:
    def script(p: Package) -> Any:
        made, dynamics, log = batch(p), demo(p, 2), []

        def told(ctx: Any) -> list[Any]:
            are_live = [ctx.batch is made, ctx.model is dynamics.model, ctx.workflow is dynamics]
            return [*are_live, ctx.global_rank, isinstance(ctx, p.DynamicsContext), dynamics.current_hook_stage]

        dynamics.register_hook(Recorder(p, log, what=told))
        dynamics.run(made)
        return log

    assert same(script)[0] == ["", "BEFORE_STEP", 0, [True, True, True, 0, True, "BEFORE_STEP"]]


def test_who_converged() -> None:
    def told(p: Package, on: set[str]) -> list[Any]:
        log: list[list[Any]] = []
        recorder = Recorder(p, log, on, what=lambda ctx: None if ctx.converged_mask is None else ctx.converged_mask.tolist())
        demo(p, 2, hooks=[recorder], convergence_hook=SOME).run(batch(p))
        return [entry[-1] for entry in log]

    assert same(lambda p: told(p, {"ON_CONVERGE"})) == [[False, True, False]] * 2
    differs("converged_mask", lambda p: told(p, {"BEFORE_STEP"}), [None, [False, True, False]], [None, None])


# Steps and runs


@pytest.mark.parametrize("n_steps", [0, 1, 2, 7])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (FLOAT64, 1e-12)])
def test_demo_dynamics(n_steps: int, dtype: torch.dtype, atol: float) -> None:
    def script(p: Package) -> Any:
        made = batch(p, dtype=dtype)
        after = demo(p, n_steps).run(made)
        return after, after is made

    assert same(script, atol)[1] is True


def one_step(p: Package, status: list[int] | None = None, **options: Any) -> Any:
    made = batch(p)
    if status is not None:
        made["status"] = torch.tensor(status).unsqueeze(1)
    dynamics = demo(p, **options)
    after, converged = dynamics.step(made)
    return after, converged, dynamics.step_count


def test_one_step() -> None:
    assert same(one_step, 1e-6)[1:] == [None, 1]
    assert same(lambda p: one_step(p, convergence_hook=SOME), 1e-6)[1]["numbers"] == [1.0]


def test_systems_that_left() -> None:
    def moved(p: Package, key: str) -> Any:
        before, after = batch(p), one_step(p, [0, 1, 2], exit_status=2)[0]
        return [bool((before[key] != after[key])[rows].any()) for rows in (slice(0, 3), slice(3, 4), slice(4, 8))]

    assert same(lambda p: moved(p, "positions")) == [True, True, False]

    def forces_are_of_their_place(p: Package) -> bool:
        after = one_step(p, [0, 1, 2], exit_status=2)[0]
        return bool(torch.equal(after.forces[4:], -after.positions[4:]))

    differs("systems that left", forces_are_of_their_place, False, True)


def test_the_number_of_steps() -> None:
    same_error(lambda p: p.BaseDynamics(trap(p)).run(batch(p)), ValueError)
    same_error(lambda p: p.DemoDynamics(trap(p)), TypeError)

    def overridden(p: Package) -> int:
        dynamics = demo(p, 5)
        dynamics.run(batch(p), 2)
        return dynamics.step_count

    assert same(overridden) == 2


def test_what_is_no_model() -> None:
    same_error(lambda p: p.BaseDynamics(torch.nn.Linear(1, 1)), TypeError)
    same_error(lambda p: p.BaseDynamics(None), TypeError)


def test_compute() -> None:
    def script(p: Package) -> Any:
        made = batch(p)
        outputs = p.BaseDynamics(trap(p)).compute(made)
        return list(outputs), dict(outputs), made

    assert same(script)[0] == ["energy", "forces"]
    same_error(lambda p: p.DemoDynamics(trap(p, outputs=("energy",)), n_steps=1).run(batch(p)), RuntimeError)


def test_outputs_that_the_batch_has_no_key_for() -> None:
    def without(key: str) -> Any:
        def script(p: Package) -> bool:
            made = batch(p)
            del made[key]
            return key in demo(p).run(made)

        return script

    differs("missing outputs", without("energy"), False, True)
    differs("missing outputs", without("forces"), AttributeError, True)
    differs("missing outputs", without("velocities"), AttributeError, True)


def test_masked_update() -> None:
    def script(p: Package, *entries: int) -> Any:
        made = batch(p)
        demo(p).masked_update(made, mask(*entries))
        return made

    assert same(lambda p: script(p, 1, 0, 1), 1e-6)["sizes"] == [3, 1, 4]
    differs("wrong calls", lambda p: script(p, 1, 0), RuntimeError, ValueError)


ATTRIBUTES = (
    "n_steps exit_status step_count convergence_hook sinks sampler refill_frequency active_batch max_batch_size done device_type device "
    "inflight_mode active_batch_size room_in_active_batch active_batch_has_room model_is_conservative global_rank current_hook_stage hooks"
)


def test_attributes_of_a_new_dynamics() -> None:
    assert same(lambda p: {name: getattr(p.BaseDynamics(trap(p)), name) for name in ATTRIBUTES.split()})["exit_status"] == 1
    assert same(lambda p: repr(demo(p))).startswith("DemoDynamics(model=Trap, n_steps=3, step_count=0")


@pytest.mark.parametrize("name", ["BaseDynamics", "DemoDynamics", "FIRE", "FIRE2", "FIREVariableCell", "NVE", "NVTLangevin"])
def test_what_a_dynamics_needs_and_gives(name: str) -> None:
    assert len(same(lambda p: [getattr(p, name).__needs_keys__, getattr(p, name).__provides_keys__])) == 2


# Registration


class Listener(SimpleNamespace):
    """A hook with whatever attributes."""

    def __call__(self, ctx: Any, stage: Any) -> None: ...


def register(p: Package, hook: Any, **options: Any) -> Any:
    dynamics = p.BaseDynamics(trap(p))
    dynamics.register_hook(hook, **options)
    return len(dynamics.hooks), getattr(dynamics.hooks[0], "stage", None)


def after_step(p: Package, **attributes: Any) -> Listener:
    return Listener(**{"stage": p.DynamicsStage.AFTER_STEP, "frequency": 1, **attributes})


def test_registration() -> None:
    assert same(lambda p: register(p, after_step(p))) == [1, "AFTER_STEP"]
    assert same(lambda p: register(p, after_step(p, stage=None), stage=p.DynamicsStage.ON_CONVERGE)) == [1, "ON_CONVERGE"]
    assert same(lambda p: register(p, p.ConvergenceHook())) == [1, "AFTER_STEP"]


@pytest.mark.parametrize("frequency", [0, -1, 1.0])
def test_frequencies_that_cannot_be(frequency: Any) -> None:
    same_error(lambda p: register(p, after_step(p, frequency=frequency)), ValueError)


@pytest.mark.parametrize("attributes", [{"stage": None}, {"stage": "AFTER_STEP"}, {"on_register": 3}], ids=str)
def test_hooks_that_cannot_be(attributes: dict[str, Any]) -> None:
    same_error(lambda p: register(p, after_step(p, **attributes)), TypeError)


def test_hooks_that_only_one_refuses() -> None:
    class TakesNoStage(Listener):
        def __call__(self, ctx: Any) -> None: ...

    def takes_no_stage(p: Package) -> Any:
        return register(p, TakesNoStage(stage=p.DynamicsStage.AFTER_STEP, frequency=1))

    differs("hook checks", takes_no_stage, [1, "AFTER_STEP"], TypeError)
    differs("hook checks", lambda p: register(p, Listener(stage=p.DynamicsStage.AFTER_STEP)), AttributeError, TypeError)
    differs("hook checks", lambda p: register(p, Listener(frequency=1)), AttributeError, TypeError)
    differs("nonsense", lambda p: register(p, after_step(p, frequency=True))[0], 1, ValueError)


def test_default_stages() -> None:
    def neighbors(p: Package) -> Any:
        return register(p, p.NeighborListHook(p.NeighborConfig(cutoff=3.0)))

    differs("default stages", neighbors, TypeError, [1, "BEFORE_COMPUTE"])
    differs("default stages", lambda p: register(p, p.WrapPeriodicHook()), TypeError, [1, "AFTER_POST_UPDATE"])


def test_on_register() -> None:
    def script(p: Package) -> Any:
        seen: list[Any] = []
        dynamics = p.BaseDynamics(trap(p))
        dynamics.register_hook(after_step(p, on_register=lambda workflow: seen.append([workflow is dynamics, len(dynamics.hooks)])))
        return seen

    assert same(script) == [[True, 0]]


def managed(log: list[str], attributes: dict[str, Any], raises: bool = False) -> Any:
    class Managed(Listener):
        def __enter__(self) -> Any:
            log.append("enter")
            return self

        def __exit__(self, *error: object) -> None:
            log.append(f"exit {error}")

        def close(self) -> None:
            log.append("close")

        def __call__(self, ctx: Any, stage: Any) -> None:
            log.append("call")
            if raises:
                raise ArithmeticError

    return Managed(**attributes)


def test_hooks_are_entered_and_left() -> None:
    def script(p: Package, raises: bool) -> list[str]:
        log: list[str] = []
        attributes = {"stage": p.DynamicsStage.AFTER_STEP, "frequency": 1}
        hook, closes = managed(log, attributes, raises), after_step(p, close=lambda: log.append("closed"))
        dynamics = p.BaseDynamics(trap(p), hooks=[hook, hook, closes])
        try:
            dynamics.run(batch(p), 2)
        except ArithmeticError:
            log.append("raised")
        return log

    assert same(lambda p: script(p, False)) == ["enter", *["call"] * 4, "exit (None, None, None)", "closed"]
    assert same(lambda p: script(p, True)) == ["enter", "call", "exit (None, None, None)", "closed", "raised"]
