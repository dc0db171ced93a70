"""The step loop: stages in order, hooks in turn, masks that hold, and state that follows the systems."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from campaign.data import AtomicData, Batch
from campaign.dynamics import FIRE, BaseDynamics, ConvergenceHook, DemoDynamics, DynamicsStage, HostMemory, SizeAwareSampler
from campaign.errors import ArgumentError, HookError, HookFrequencyError, ModelOutputError, OperandError, SamplerError, SinkFullError
from campaign.hooks import DynamicsContext
from campaign.testing.harmonic import HarmonicTrap, random_cloud


class Recorder:
    """Notes when it is called."""

    def __init__(self, stage: DynamicsStage, frequency: int = 1) -> None:
        self.stage: Any = stage
        self.frequency = frequency
        self.steps: list[int] = []

    def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
        assert stage is self.stage
        self.steps.append(ctx.step_count)


class Pusher(BaseDynamics):
    """Moves everything by one along x before the model is evaluated, and velocities after it; knows nothing of masks."""

    __needs_keys__: set[str] = {"forces"}  # noqa: RUF012

    def pre_update(self, batch: Batch) -> None:
        batch["positions"][:, 0] += 1.0

    def post_update(self, batch: Batch) -> None:
        batch["velocities"][:, 0] += 1.0


def moving_cloud(n_atoms: list[int]) -> Batch:
    batch = random_cloud(n_atoms)
    batch["velocities"] = torch.zeros_like(batch["positions"])
    return batch


def test_nine_stages_in_order() -> None:
    batch = moving_cloud([2, 3])
    recorders = [Recorder(stage) for stage in reversed(DynamicsStage)]
    dynamics = Pusher(HarmonicTrap(), hooks=recorders, convergence_hook={"criteria": {"key": "energy", "threshold": 1e9}})
    seen: list[tuple[DynamicsStage, int]] = []
    dynamics._hook_trace = lambda hook, stage, step: seen.append((stage, step))  # type: ignore[assignment]
    dynamics.step(batch)
    dynamics.step(batch)
    assert seen == [(stage, step) for step in (0, 1) for stage in DynamicsStage]


def test_frequency_and_when_no_one_has_converged() -> None:
    every, third, never = Recorder(DynamicsStage.AFTER_STEP), Recorder(DynamicsStage.AFTER_STEP, 3), Recorder(DynamicsStage.ON_CONVERGE)
    dynamics = Pusher(HarmonicTrap(), hooks=[every, third, never], convergence_hook=ConvergenceHook.from_fmax(1e-9))
    dynamics.run(moving_cloud([2]), 7)
    assert (every.steps, third.steps, never.steps) == (list(range(7)), [0, 3, 6], [])


def test_hooks_see_the_batch_at_each_stage() -> None:
    notes: dict[DynamicsStage, tuple[float, float, bool]] = {}

    class Look:
        frequency, stage = 1, None

        def _runs_on_stage(self, stage: DynamicsStage) -> bool:
            return True

        def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
            batch = ctx.batch
            assert batch is not None
            assert ctx.workflow is dynamics
            assert ctx.model is dynamics.model
            notes[stage] = float(batch["positions"][0, 0]), float(batch["velocities"][0, 0]), "forces" in batch
            assert (ctx.converged_mask is not None) == (stage is DynamicsStage.ON_CONVERGE)
            if ctx.converged_mask is not None:
                assert ctx.converged_mask.tolist() == [False, True]

    batch = moving_cloud([1, 1])
    batch["positions"].copy_(torch.tensor([[0.0, 0, 0], [-1.0, 0, 0]]))
    dynamics = Pusher(HarmonicTrap(), hooks=[Look()], convergence_hook=ConvergenceHook.from_fmax(0.1))
    _, converged = dynamics.step(batch)
    assert converged is not None
    assert converged.tolist() == [1]
    before, moved, computed, ended = (0.0, 0.0, False), (1.0, 0.0, False), (1.0, 0.0, True), (1.0, 1.0, True)
    assert [notes[stage] for stage in DynamicsStage] == [before, before, moved, moved, computed, computed, ended, ended, ended]


def test_run_needs_a_number_of_steps_and_stops_when_all_have_converged() -> None:
    with pytest.raises(ArgumentError, match=r"Pusher\.run has no number of steps; it needs one\. Pass n_steps") as caught:
        Pusher(HarmonicTrap()).run(moving_cloud([1]))
    assert isinstance(caught.value, ValueError)
    dynamics = FIRE(HarmonicTrap(), n_steps=500, convergence_hook=ConvergenceHook.from_fmax(1e-3))
    batch = dynamics.run(random_cloud([2, 3]))
    assert dynamics.step_count < 500
    assert float(batch["forces"].norm(dim=1).max()) <= 1e-3
    dynamics.run(random_cloud([2, 3]), 3)
    assert dynamics.step_count < 503


def test_what_has_left_is_not_moved() -> None:
    batch = moving_cloud([2, 1, 3])
    batch["status"] = torch.tensor([[0], [1], [2]])
    start = batch["positions"].clone()
    dynamics = Pusher(HarmonicTrap())
    dynamics.run(batch, 4)
    moved = (batch["positions"] - start)[:, 0].tolist()
    assert moved == pytest.approx([4, 4, 0, 0, 0, 0])
    assert batch["velocities"][:, 0].tolist() == [4, 4, 0, 0, 0, 0]
    dynamics.exit_status = 2
    dynamics.run(batch, 1)
    assert (batch["positions"] - start)[:, 0].tolist() == pytest.approx([5, 5, 1, 0, 0, 0])


class Scheduled(FIRE):
    """Overrides an update of a class that masks by itself, and does not say that it masks too."""

    def pre_update(self, batch: Batch) -> None:
        super().pre_update(batch)
        batch["positions"][:, 1] += 1.0


def test_masks_hold_in_subclasses_of_what_masks_by_itself() -> None:
    assert FIRE.applies_mask
    assert not Scheduled.applies_mask
    batch = random_cloud([2, 3])
    batch["status"] = torch.tensor([[1], [0]])
    start = batch["positions"].clone()
    Scheduled(HarmonicTrap()).run(batch, 3)
    assert torch.equal(batch["positions"][:2], start[:2])
    assert (batch["positions"][2:, 1] - start[2:, 1] > 1.5).all(), "the first step evaluates, two move"


def test_masked_update() -> None:
    batch = moving_cloud([1, 2])
    start = batch["positions"].clone()
    batch["cell"] = torch.ones(2, 3, 3, dtype=torch.float64)

    class Shrinks(Pusher):
        def pre_update(self, batch: Batch) -> None:
            super().pre_update(batch)
            batch["cell"] *= 0.5

    Shrinks(HarmonicTrap()).masked_update(batch, torch.tensor([False, True]))
    assert (batch["positions"] - start)[:, 0].tolist() == [0, 1, 1]
    assert batch["velocities"][:, 0].tolist() == [0, 1, 1]
    assert batch["cell"][:, 0, 0].tolist() == [1.0, 0.5]


def test_outputs_are_written_in_place_in_the_dtype_of_the_batch() -> None:
    batch = moving_cloud([2, 1])
    batch["forces"] = torch.zeros(3, 3, dtype=torch.float32)
    forces = batch["forces"]
    outputs = BaseDynamics(HarmonicTrap(2.0)).compute(batch)
    assert batch["forces"] is forces
    assert torch.allclose(forces, -2.0 * batch["positions"].float())
    assert batch["energy"].shape == (2, 1)
    assert outputs["energy"] is not None
    assert not outputs["energy"].requires_grad


def test_a_missing_output_is_told() -> None:
    class NeedsStress(BaseDynamics):
        __needs_keys__: set[str] = {"stress"}  # noqa: RUF012

    with pytest.raises(
        ModelOutputError, match=r"HarmonicTrap returned no 'stress', only energy, forces; NeedsStress requires 'stress'"
    ) as caught:
        NeedsStress(HarmonicTrap()).step(moving_cloud([1]))
    assert isinstance(caught.value, RuntimeError)


def test_types_and_hooks_are_checked() -> None:
    with pytest.raises(OperandError, match="model of type Linear; it must be a BaseModelMixin"):
        BaseDynamics(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(OperandError, match=r"Pusher \+ int; both must be BaseDynamics"):
        Pusher(HarmonicTrap()) + 1  # type: ignore[operator]
    with pytest.raises(HookFrequencyError):
        Pusher(HarmonicTrap(), hooks=[Recorder(DynamicsStage.AFTER_STEP, 0)])
    with pytest.raises(HookError, match="no stage"):
        Pusher(HarmonicTrap()).register_hook(Recorder(None))  # type: ignore[arg-type]


def test_hooks_are_opened_and_closed_once_whatever_happens() -> None:
    events: list[str] = []

    class Managed(Recorder):
        def __enter__(self) -> None:
            events.append("enter")

        def __exit__(self, *error: object) -> None:
            events.append("exit")
            raise OSError("disk full")

    class Closing(Recorder):
        def close(self) -> None:
            events.append("close")

    managed, closing = Managed(DynamicsStage.AFTER_STEP), Closing(DynamicsStage.BEFORE_STEP)
    with pytest.raises(OSError, match="disk full"):
        Pusher(HarmonicTrap(), hooks=[managed, managed, closing], n_steps=2).run(moving_cloud([1]))
    assert events == ["enter", "exit", "close"]


class Structures:
    """A dataset of clouds."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[AtomicData, dict[str, object]]:
        data = random_cloud([self.sizes[index]], first_id=index).get_data(0)
        return AtomicData(positions=data.positions, atomic_numbers=data.atomic_numbers, atomic_masses=data.atomic_masses), {}

    def get_metadata(self, index: int) -> tuple[int, int]:
        return self.sizes[index], 0


def test_refill_check() -> None:
    sampler = SizeAwareSampler(Structures([3, 3, 2, 2, 1]), max_batch_size=2)
    sink = HostMemory(10)
    dynamics = FIRE(HarmonicTrap(), sampler=sampler, sinks=[sink])
    batch: Batch | None = sampler.build_initial_batch()
    assert batch is not None
    dynamics.step(batch)
    assert dynamics.refill_check(batch, 1) is batch, "nobody leaves"
    seen: list[int] = []
    for _ in range(20):
        assert batch is not None
        assert batch.num_graphs <= 2
        dynamics.step(batch)
        assert dynamics._state.num_graphs == batch.num_graphs
        assert dynamics._state["last_positions"].shape == batch["positions"].shape
        seen.extend(batch["system_id"].view(-1).tolist())
        batch["status"][0] = 1
        batch = dynamics.refill_check(batch, 1)
        if batch is None:
            break
    assert dynamics.done
    assert sorted(sink.read()["system_id"].view(-1).tolist()) == sorted(set(seen)) == list(range(5))


def test_refill_check_needs_a_sampler_and_room_in_a_sink() -> None:
    batch = random_cloud([1, 1])
    batch["status"] = torch.ones(2, 1, dtype=torch.int64)
    with pytest.raises(SamplerError, match="refill_check was called without a sampler") as caught:
        Pusher(HarmonicTrap()).refill_check(batch, 1)
    assert isinstance(caught.value, RuntimeError)
    sampler = SizeAwareSampler(Structures([1]), max_batch_size=2)
    with pytest.raises(SinkFullError):
        Pusher(HarmonicTrap(), sampler=sampler, sinks=[HostMemory(1)]).refill_check(batch, 1)


def test_state_is_made_anew_for_another_batch() -> None:
    dynamics = FIRE(HarmonicTrap())
    first = random_cloud([2, 3])
    for _ in range(20):
        dynamics.step(first)
    second = random_cloud([4])
    start = second["positions"].clone()
    dynamics.step(second)
    assert torch.equal(second["positions"], start), "the first step of a system evaluates only"
    assert dynamics._state.num_nodes == 4
    copy = second.clone()  # the same systems in the same order
    dynamics.step(copy)
    assert not torch.equal(copy["positions"], start)


def test_bookkeeping_keys() -> None:
    class Counts(Pusher):
        pass

    Counts.register_bookkeeping_key("visits", lambda n, device: torch.full((n, 1), 7, device=device))
    assert "visits" not in Pusher._bookkeeping_keys
    sampler = SizeAwareSampler(Structures([1, 1, 1]), max_batch_size=2)
    batch = sampler.build_initial_batch()
    batch["status"][1] = 1
    refilled = Counts(HarmonicTrap(), sampler=sampler).refill_check(batch, 1)
    assert refilled is not None
    assert refilled["visits"].view(-1).tolist() == [7, 7]
    assert refilled["status"].view(-1).tolist() == [0, 0]
    assert refilled["system_id"].view(-1).tolist() == [0, 2]


def test_small_things_of_the_contract() -> None:
    dynamics = Pusher(HarmonicTrap(), max_batch_size=3, device_type="cpu")
    assert (dynamics.active_batch_size, dynamics.room_in_active_batch, dynamics.active_batch_has_room) == (0, 3, True)
    dynamics.active_batch = random_cloud([1, 1, 1])
    assert (dynamics.active_batch_size, dynamics.active_batch_has_room) == (3, False)
    assert dynamics.device == torch.device("cpu")
    assert not dynamics.inflight_mode
    assert not dynamics.model_is_conservative
    assert repr(dynamics).startswith("Pusher(model=HarmonicTrap, n_steps=None, step_count=0")
    with dynamics as entered:
        assert entered is dynamics


def test_demo_dynamics_is_velocity_verlet() -> None:
    batch = moving_cloud([1])
    batch["atomic_masses"].fill_(1.0)
    batch["positions"].copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    dynamics = DemoDynamics(HarmonicTrap(), n_steps=4, dt=0.1)
    x, v, a = 1.0, 0.0, 0.0
    for step in range(4):
        dynamics.step(batch)
        x += v * 0.1 + 0.5 * a * 0.01
        v += (0.5 * (a - x) if step else -x) * 0.1  # there is no old acceleration in the first step
        a = -x
        assert batch["positions"][0, 0].item() == pytest.approx(x, abs=1e-14)
        assert batch["velocities"][0, 0].item() == pytest.approx(v, abs=1e-14)
    assert dynamics.step_count == 4
