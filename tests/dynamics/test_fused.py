"""Several dynamics on one batch: one evaluation per step, each system moved by the sub-stage that its status names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_loop import Pusher, Recorder, Structures, moving_cloud

from campaign.data import Batch
from campaign.dynamics import FIRE, NVE, BaseDynamics, ConvergenceHook, DynamicsStage, FusedStage, HostMemory, NVTLangevin, SizeAwareSampler
from campaign.errors import ArgumentError, HookError, OperandError
from campaign.hooks import DynamicsContext
from campaign.testing.harmonic import HarmonicTrap, random_cloud


class Counted(HarmonicTrap):
    n_calls = 0

    def forward(self, data: Batch) -> Any:
        self.n_calls += 1
        return super().forward(data)


class AlongY(BaseDynamics):
    def pre_update(self, batch: Batch) -> None:
        batch["positions"][:, 1] += 1.0


def test_status_routes_and_the_model_is_asked_once_per_step() -> None:
    model = Counted()
    fused = Pusher(model) + AlongY(model)
    batch = moving_cloud([1, 1, 1])
    batch["status"] = torch.tensor([[0], [1], [2]])
    start = batch["positions"].clone()
    never = 1e-12
    for _, dynamics in fused.sub_stages:
        dynamics.hooks = []
    for _ in range(3):
        fused.step(batch)
    moved = (batch["positions"] - start).tolist()
    assert moved == [pytest.approx([3, 0, 0], abs=never), pytest.approx([0, 3, 0], abs=never), [0, 0, 0]]
    assert model.n_calls == 3
    assert [fused.step_count, *(dynamics.step_count for _, dynamics in fused.sub_stages)] == [3, 3, 3]


def test_convergence_hands_on_and_the_last_stage_lets_go() -> None:
    model = HarmonicTrap()
    coarse = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.1))
    fine = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-4))
    fused = coarse + fine
    batch = random_cloud([2, 5, 1, 3])
    stages_seen: list[list[int]] = []

    class Watch:
        stage, frequency = DynamicsStage.AFTER_STEP, 1

        def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
            assert ctx.batch is not None
            stages_seen.append(ctx.batch["status"].view(-1).tolist())

    fused.register_fused_hook(Watch())
    result = fused.run(batch)
    assert result is batch
    assert FusedStage.all_complete(batch, fused.exit_status)
    assert (batch["status"] == 2).all()
    assert float(batch["forces"].norm(dim=1).max()) <= 1e-4
    for system in range(4):
        path = [statuses[system] for statuses in stages_seen]
        assert path == sorted(path), "no way back"
        assert set(path) == {0, 1, 2}


def test_budget_of_steps_hands_on() -> None:
    model = HarmonicTrap()
    fused = Pusher(model, n_steps=2) + AlongY(model, n_steps=3)
    batch = moving_cloud([1, 1])
    batch["status"] = torch.tensor([[0], [1]])
    start = batch["positions"].clone()
    graduated = []
    for _ in range(6):
        batch, who = fused.step(batch)
        graduated.append(None if who is None else who.tolist())
        for _, dynamics in fused.sub_stages:
            dynamics.hooks = []  # the default criterion of 0.05 eV/Å has no say here
    assert graduated == [None, None, [1], None, [0], None]
    moved = (batch["positions"] - start).tolist()
    assert moved == [pytest.approx([2, 3, 0]), pytest.approx([0, 3, 0])]
    assert batch["n_steps_counter_0"].view(-1).tolist() == [0, 0]
    assert "n_steps_counter_0" not in BaseDynamics._bookkeeping_keys


def test_heating_and_relaxing_take_one_call_a_step() -> None:
    model = Counted()
    heat = NVTLangevin(model, dt=1.0, temperature=300.0, friction=0.02, n_steps=15)
    fused = heat + FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-3))
    batch = random_cloud([2, 5, 1, 3])
    batch["status"] = torch.tensor([[0], [1], [0], [1]])
    fused.run(batch)
    assert (batch["status"] == 2).all()
    assert fused.step_count > 15
    assert model.n_calls == fused.step_count + 1, "one for each step, and one before the first"


def test_run_evaluates_before_it_moves() -> None:
    model = Counted()
    fused = NVE(model, dt=1.0) + FIRE(model)
    batch = moving_cloud([2])
    start = batch["positions"].clone()
    fused.run(batch, 1)
    assert model.n_calls == 2
    assert not torch.equal(batch["positions"], start)


def test_a_step_by_hand_evaluates_first() -> None:
    fused = FIRE(HarmonicTrap()) + FIRE(HarmonicTrap())
    batch = random_cloud([2, 1])
    start = batch["positions"].clone()
    fused.step(batch)
    assert torch.equal(batch["positions"], start)
    fused(batch)
    assert not torch.equal(batch["positions"], start)


def test_in_flight_from_a_sampler() -> None:
    model = HarmonicTrap()
    sink = HostMemory(20)
    sampler = SizeAwareSampler(Structures([3, 1, 4, 2, 2, 5, 1]), max_batch_size=3)
    begun: list[int] = []
    fused = FusedStage(
        [
            (0, FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.05))),
            (1, FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-4))),
        ],
        sampler=sampler,
        sinks=[sink],
        init_fn=lambda batch: begun.append(batch.num_graphs),
    )
    assert fused.run() is None
    assert begun == [3]
    result = sink.read()
    assert sorted(result["system_id"].view(-1).tolist()) == list(range(7))
    assert float(result["forces"].norm(dim=1).max()) <= 1e-4
    assert fused.done


def test_newcomers_are_evaluated_before_they_move() -> None:
    model = HarmonicTrap()
    first_positions: dict[int, torch.Tensor] = {}

    class Watch:
        stage, frequency = DynamicsStage.AFTER_COMPUTE, 1

        def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
            assert ctx.batch is not None
            for row, system_id in enumerate(ctx.batch["system_id"].view(-1).tolist()):
                first_positions.setdefault(system_id, ctx.batch.index_select([row])["positions"])

    structures = Structures([2, 2, 2, 2])
    fused = FusedStage(
        [(0, FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.05)))],
        sampler=SizeAwareSampler(structures, max_batch_size=2),
        sinks=[HostMemory(9)],
    )
    fused.register_hook(Watch())
    fused.run()
    for system_id, positions in first_positions.items():
        assert torch.equal(positions, structures[system_id][0].positions)


def test_hooks_of_sub_stages() -> None:
    model = HarmonicTrap()
    expected = {
        DynamicsStage.BEFORE_STEP: 2,
        DynamicsStage.BEFORE_PRE_UPDATE: 2,
        DynamicsStage.AFTER_PRE_UPDATE: 0,
        DynamicsStage.BEFORE_COMPUTE: 0,
        DynamicsStage.AFTER_COMPUTE: 2,
        DynamicsStage.BEFORE_POST_UPDATE: 0,
        DynamicsStage.AFTER_POST_UPDATE: 2,
        DynamicsStage.AFTER_STEP: 2,
        DynamicsStage.ON_CONVERGE: 0,
    }
    recorders = {stage: Recorder(stage) for stage in DynamicsStage}
    second = FIRE(model)
    for recorder in recorders.values():
        second.register_hook(recorder)
    fused = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-12)) + second
    own = {stage: Recorder(stage) for stage in DynamicsStage}
    for recorder in own.values():
        fused.register_hook(recorder)
    batch = random_cloud([2])
    fused.step(batch)
    fused.step(batch)
    assert {stage: len(recorder.steps) for stage, recorder in recorders.items()} == expected
    whole = {DynamicsStage.BEFORE_STEP, DynamicsStage.BEFORE_COMPUTE, DynamicsStage.AFTER_COMPUTE, DynamicsStage.AFTER_STEP}
    assert {stage for stage, recorder in own.items() if recorder.steps} == whole


def test_sub_stages_tell_hooks_whose_systems_are_theirs() -> None:
    masks: list[tuple[DynamicsStage, list[bool], list[bool] | None]] = []

    class Look:
        frequency, stage = 1, None

        def _runs_on_stage(self, stage: DynamicsStage) -> bool:
            return stage in (DynamicsStage.AFTER_POST_UPDATE, DynamicsStage.ON_CONVERGE)

        def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
            assert ctx.active_graph_mask is not None
            masks.append((stage, ctx.active_graph_mask.tolist(), None if ctx.converged_mask is None else ctx.converged_mask.tolist()))

    model = HarmonicTrap()
    fused = FIRE(model) + FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e6), hooks=[Look()])
    batch = random_cloud([1, 2, 1])
    batch["status"] = torch.tensor([[0], [1], [2]])
    fused.step(batch)
    assert masks == [
        (DynamicsStage.AFTER_POST_UPDATE, [False, True, False], None),
        (DynamicsStage.ON_CONVERGE, [False, True, False], [False, True, False]),
    ]


def test_plus_appends_without_doubling_migrations() -> None:
    model = HarmonicTrap()
    fused = FIRE(model) + FIRE(model) + FIRE(model, convergence_hook=ConvergenceHook())
    assert [code for code, _ in fused.sub_stages] == [0, 1, 2]
    assert fused.exit_status == 3
    moves = [[(hook.source_status, hook.target_status) for hook in dynamics.hooks] for _, dynamics in fused.sub_stages]  # type: ignore[attr-defined]
    assert moves == [[(0, 1)], [(1, 2)], [(2, 3)]]
    assert repr(fused).startswith("FusedStage(sub_stages=[0:FIRE, 1:FIRE, 2:FIRE], entry_status=0, exit_status=3, compiled=False")


def test_arguments_are_checked() -> None:
    model = HarmonicTrap()
    with pytest.raises(ArgumentError, match="no sub-stage"):
        FusedStage([])
    with pytest.raises(ArgumentError, match=r"sub-stages by status are for devices \{0: 'cpu', 1: 'cuda'\}"):
        FusedStage([(0, FIRE(model, device_type="cpu")), (1, FIRE(model, device_type="cuda"))])
    with pytest.raises(ArgumentError, match="neither a batch nor a sampler"):
        (FIRE(model) + FIRE(model)).run()
    with pytest.raises(OperandError, match=r"FusedStage \+ str"):
        (FIRE(model) + FIRE(model)) + "x"  # type: ignore[operator]
    with pytest.raises(HookError):
        (FIRE(model) + FIRE(model)).register_fused_hook(Recorder(None))  # type: ignore[arg-type]
