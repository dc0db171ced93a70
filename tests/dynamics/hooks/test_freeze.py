"""FreezeAtomsHook: frozen atoms stay, and the model sees them where they are."""

from __future__ import annotations

import pytest
import torch

from campaign.data import Batch
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.hooks import FreezeAtomsHook
from campaign.dynamics.integrators import NVE, NVTLangevin
from campaign.dynamics.loop import BaseDynamics
from campaign.dynamics.optimizers.fire import FIRE
from campaign.errors import BatchKeyError
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.models.base import ModelOutputs
from campaign.testing.harmonic import HarmonicTrap, random_cloud


def frozen_cloud(freeze_category: int = -1) -> tuple[Batch, torch.Tensor]:
    batch = random_cloud([4, 3])
    batch["atom_categories"] = torch.tensor([0, -1, 5, 0, -1, -1, 0])
    return batch, batch["atom_categories"] == freeze_category


class Watching(HarmonicTrap):
    """Notes where it sees the atoms."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, data: Batch) -> ModelOutputs:
        self.seen.append(data["positions"].clone())
        return super().forward(data)


def dynamics(kind: str, model: HarmonicTrap, hook: FreezeAtomsHook) -> BaseDynamics:
    if kind == "nve":
        return NVE(model, dt=2.0, hooks=[hook])
    return NVTLangevin(model, dt=2.0, temperature=500.0, friction=0.05, hooks=[hook])


@pytest.mark.parametrize("kind", ["nve", "langevin"])
@pytest.mark.parametrize("freeze_category", [-1, 5])
def test_frozen_atoms_stay(kind: str, freeze_category: int) -> None:
    batch, frozen = frozen_cloud(freeze_category)
    start = batch["positions"].clone()
    model = Watching()
    dynamics(kind, model, FreezeAtomsHook(freeze_category=freeze_category)).run(batch, 20)
    assert torch.equal(batch["positions"][frozen], start[frozen])
    assert not (batch["positions"][~frozen] == start[~frozen]).any()
    assert not batch["velocities"][frozen].any()
    assert not batch["forces"][frozen].any()
    assert batch["forces"][~frozen].all()
    assert len(model.seen) == 20
    assert all(torch.equal(seen[frozen], start[frozen]) for seen in model.seen), "the model saw a frozen atom elsewhere"


def test_forces_can_be_kept() -> None:
    batch, frozen = frozen_cloud()
    dynamics("nve", HarmonicTrap(k=2.0), FreezeAtomsHook(zero_forces=False)).run(batch, 5)
    assert torch.equal(batch["forces"], -2.0 * batch["positions"])
    assert batch["forces"][frozen].all()


def test_forces_are_zero_as_soon_as_they_are_computed() -> None:
    batch, frozen = frozen_cloud()
    seen = []

    class Look:
        stage, frequency = DynamicsStage.AFTER_COMPUTE, 1

        def __call__(self, ctx: DynamicsContext, stage: DynamicsStage) -> None:
            assert ctx.batch is not None
            seen.append(ctx.batch["forces"].clone())

    NVE(HarmonicTrap(), dt=1.0, hooks=[FreezeAtomsHook(), Look()]).run(batch, 2)
    assert not any(forces[frozen].any() for forces in seen)


def test_stages() -> None:
    hook = FreezeAtomsHook()
    assert hook.stage is DynamicsStage.BEFORE_PRE_UPDATE
    assert {stage.name for stage in DynamicsStage if not hook._runs_on_stage(stage)} == {"BEFORE_POST_UPDATE", "ON_CONVERGE"}


@pytest.mark.parametrize("place", ["stages", "whole"])
def test_in_a_fused_stage(place: str) -> None:
    # Sub-stages do not fire AFTER_PRE_UPDATE, the whole does not fire BEFORE_PRE_UPDATE; one hook may serve both sub-stages.
    batch, frozen = frozen_cloud()
    start = batch["positions"].clone()
    hook, model = FreezeAtomsHook(), Watching()
    hooks = [hook] if place == "stages" else []
    hot = NVTLangevin(model, dt=2.0, temperature=500.0, friction=0.05, hooks=hooks, n_steps=6)
    fused = hot + NVE(model, dt=1.0, hooks=hooks, n_steps=5)
    if place == "whole":
        fused.register_fused_hook(hook)
    batch["status"] = torch.tensor([[0], [1]])
    fused.run(batch)
    assert torch.equal(batch["positions"][frozen], start[frozen])
    assert not (batch["positions"][~frozen] == start[~frozen]).any()
    assert not batch["velocities"][frozen].any()
    if place == "whole":
        assert all(torch.equal(seen[frozen], start[frozen]) for seen in model.seen), "the model saw a frozen atom elsewhere"
    assert "_positions_before_step" not in batch


def test_only_systems_that_the_stage_works_on() -> None:
    batch, frozen = frozen_cloud()
    hook = FreezeAtomsHook()
    ctx = DynamicsContext(batch=batch, active_graph_mask=torch.tensor([True, False]))
    start = batch["positions"].clone()
    hook(ctx, DynamicsStage.BEFORE_PRE_UPDATE)
    batch["positions"].add_(1.0)
    hook(ctx, DynamicsStage.AFTER_PRE_UPDATE)
    held = frozen & (batch.batch_idx == 0)
    assert torch.equal(batch["positions"], torch.where(held.unsqueeze(1), start, start + 1.0))


def test_a_batch_without_categories() -> None:
    with pytest.raises(BatchKeyError, match="no key 'atom_categories'"):
        NVE(HarmonicTrap(), dt=1.0, hooks=[FreezeAtomsHook()]).run(random_cloud([2]), 1)


def test_frozen_atoms_neither_move_nor_count_in_a_relaxation() -> None:
    batch, frozen = frozen_cloud()
    start = batch["positions"].clone()
    dynamics = FIRE(HarmonicTrap(), hooks=[FreezeAtomsHook()], convergence_hook=ConvergenceHook.from_fmax(1e-4))
    dynamics.run(batch, 500)
    assert dynamics.step_count < 500, "frozen atoms, far from the origin, kept it from converging"
    assert torch.equal(batch["positions"][frozen], start[frozen])
    assert float(batch["positions"][~frozen].abs().max()) < 1e-4
