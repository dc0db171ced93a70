"""Hooks are checked when registered, and called in order, at their stage, when it is their turn."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from campaign.errors import HookError, HookFrequencyError
from campaign.hooks import DynamicsContext, DynamicsStage, Hook, HookContext, HookRegistryMixin

STAGE = DynamicsStage.AFTER_STEP


class Engine(HookRegistryMixin):
    _stage_type = DynamicsStage

    def __init__(self, hooks: list[Hook] | None = None) -> None:
        self.step_count = 0
        self.n_contexts = 0
        self._init_hooks(hooks)

    def _build_context(self, batch: Any) -> HookContext:
        self.n_contexts += 1
        return super()._build_context(batch)


class Recorder:
    def __init__(self, stage: Enum | None = STAGE, frequency: Any = 1, log: list[Any] | None = None) -> None:
        self.stage = stage
        self.frequency = frequency
        self.log: list[Any] = [] if log is None else log

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        self.log.append((self, ctx, stage))


def test_a_hook_is_called_with_the_context_at_its_stage_only() -> None:
    hook = Recorder()
    engine = Engine([hook])
    batch = object()
    for stage in DynamicsStage:
        engine._call_hooks(stage, batch)  # type: ignore[arg-type]
    [(_, ctx, stage)] = hook.log
    assert (ctx.batch, ctx.workflow, ctx.model, ctx.global_rank, stage) == (batch, engine, None, 0, STAGE)


def test_hooks_are_called_in_the_order_of_registration_with_one_context() -> None:
    log: list[Any] = []
    first, second = Recorder(log=log), Recorder(log=log)
    engine = Engine([first])
    engine.register_hook(second)
    engine._call_hooks(STAGE, None)
    assert [entry[0] for entry in log] == [first, second]
    assert log[0][1] is log[1][1] and engine.n_contexts == 1


@pytest.mark.parametrize("frequency", [1, 3])
def test_a_hook_fires_when_the_step_is_a_multiple_of_its_frequency(frequency: int) -> None:
    hook = Recorder(frequency=frequency)
    engine = Engine([hook])
    fired = []
    for engine.step_count in range(7):
        hook.log.clear()
        engine._call_hooks(STAGE, None)
        if hook.log:
            fired.append(engine.step_count)
    assert fired == list(range(0, 7, frequency))


def test_without_a_listener_not_even_a_context_is_made() -> None:
    engine = Engine([Recorder(), Recorder(stage=DynamicsStage.BEFORE_STEP, frequency=2)])
    engine.step_count = 1
    engine._call_hooks(DynamicsStage.BEFORE_STEP, None)
    engine._call_hooks(DynamicsStage.ON_CONVERGE, None)
    assert engine.n_contexts == 0


def test_runs_on_stage_takes_the_place_of_the_stage() -> None:
    class Both(Recorder):
        def _runs_on_stage(self, stage: Enum) -> bool:
            return stage in (DynamicsStage.BEFORE_STEP, DynamicsStage.AFTER_STEP)

    hook = Both(stage=None)
    engine = Engine([hook])
    for stage in DynamicsStage:
        engine._call_hooks(stage, None)
    assert [entry[2] for entry in hook.log] == [DynamicsStage.BEFORE_STEP, DynamicsStage.AFTER_STEP]


def test_on_register_is_called_once_before_the_hook_is_stored() -> None:
    class Curious(Recorder):
        def on_register(self, engine: Engine) -> None:
            self.log.append(list(engine.hooks))

    hook = Curious()
    engine = Engine([hook])
    assert hook.log == [[]] and engine.hooks == [hook]


def test_a_stage_given_at_registration_is_the_hooks_stage() -> None:
    hook = Recorder(stage=None)
    engine = Engine()
    engine.register_hook(hook, stage=DynamicsStage.BEFORE_COMPUTE)
    assert hook.stage is DynamicsStage.BEFORE_COMPUTE


def test_the_trace_sees_each_call_before_it_happens() -> None:
    seen: list[Any] = []
    hook = Recorder(log=seen)
    engine = Engine([hook])
    engine._hook_trace = lambda hook, stage, step: seen.append((hook, stage, step))
    engine._call_hooks(STAGE, None)
    assert seen[0] == (hook, STAGE, 0) and seen[1][0] is hook


def test_what_a_hook_raises_comes_through_as_it_is() -> None:
    class Failing(Recorder):
        def __call__(self, ctx: HookContext, stage: Enum) -> None:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Engine([Failing()])._call_hooks(STAGE, None)


@pytest.mark.parametrize("frequency", [0, -1, 1.0, "1", None, True])
def test_a_frequency_is_a_positive_integer(frequency: Any) -> None:
    with pytest.raises(HookFrequencyError, match=r"Recorder has frequency .*must be a positive integer.*Set it to 1") as caught:
        Engine([Recorder(frequency=frequency)])
    assert isinstance(caught.value, (TypeError, ValueError))


class Foreign(Enum):
    AFTER_STEP = 7


@pytest.mark.parametrize("stage", [None, Foreign.AFTER_STEP, 7, "AFTER_STEP"])
def test_a_stage_is_one_of_the_engines(stage: Any) -> None:
    with pytest.raises(HookError, match=r"Recorder has (no )?stage.*Engine has DynamicsStage\.BEFORE_STEP.*Pass stage="):
        Engine([Recorder(stage=stage)])


def test_an_engine_may_take_several_enumerations_or_any() -> None:
    class Two(Engine):
        _stage_type = (DynamicsStage, Foreign)  # type: ignore[assignment]

    class AnyStage(Engine):
        _stage_type = None  # type: ignore[assignment]

    assert len(Two([Recorder(stage=Foreign.AFTER_STEP), Recorder()]).hooks) == 2
    assert len(AnyStage([Recorder(stage=Foreign.AFTER_STEP)]).hooks) == 1
    with pytest.raises(HookError, match="any member of an enumeration"):
        AnyStage([Recorder(stage=None)])


def no_arguments() -> None: ...
def one_argument(ctx: Any) -> None: ...
def three_arguments(ctx: Any, stage: Any, more: Any) -> None: ...
def keywords_only(*, ctx: Any, stage: Any) -> None: ...


@pytest.mark.parametrize("function", [no_arguments, one_argument, three_arguments, keywords_only])
def test_a_hook_takes_a_context_and_a_stage(function: Any) -> None:
    function.stage, function.frequency = STAGE, 1
    with pytest.raises(HookError, match=r"function\(.*a hook is called with \(ctx, stage\).*Change its arguments"):
        Engine([function])


def test_a_plain_function_may_be_a_hook() -> None:
    def hook(ctx: Any, stage: Any, factor: float = 1.0) -> None: ...

    hook.stage, hook.frequency = STAGE, 1  # type: ignore[attr-defined]
    assert isinstance(hook, Hook)
    assert Engine([hook]).hooks == [hook]


def test_a_hook_is_callable() -> None:
    class NotCallable:
        stage, frequency = STAGE, 1

    with pytest.raises(HookError, match=r"NotCallable is not callable.*\(ctx, stage\).*__call__"):
        Engine([NotCallable()])  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["_runs_on_stage", "on_register"])
def test_optional_methods_are_methods(name: str) -> None:
    hook = Recorder()
    setattr(hook, name, "yes")
    with pytest.raises(HookError, match=rf"Recorder\.{name} is 'yes'.*must be a method.*Remove or define"):
        Engine([hook])


def test_a_hook_that_is_refused_is_not_stored() -> None:
    engine = Engine()
    with pytest.raises(HookError):
        engine.register_hook(Recorder(stage=None))
    assert engine.hooks == []


def test_stages_are_those_of_the_contract() -> None:
    assert [(stage.name, stage.value) for stage in DynamicsStage] == [
        ("BEFORE_STEP", 0),
        ("BEFORE_PRE_UPDATE", 1),
        ("AFTER_PRE_UPDATE", 2),
        ("BEFORE_COMPUTE", 3),
        ("AFTER_COMPUTE", 4),
        ("BEFORE_POST_UPDATE", 5),
        ("AFTER_POST_UPDATE", 6),
        ("AFTER_STEP", 7),
        ("ON_CONVERGE", 8),
    ]


def test_the_dynamics_context_has_what_newer_hooks_look_for() -> None:
    ctx = DynamicsContext(batch=None)
    assert (ctx.step_count, ctx.converged_mask, ctx.active_graph_mask) == (0, None, None)
