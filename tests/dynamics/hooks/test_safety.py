"""Hooks that guard against what a model may return."""

from __future__ import annotations

import pytest
import torch

from campaign.data import Batch
from campaign.dynamics.hooks import MaxForceClampHook, NaNDetectorHook
from campaign.dynamics.loop import BaseDynamics
from campaign.errors import ArgumentError, ModelOutputError
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.testing.harmonic import HarmonicTrap, random_cloud

NAN, INF = float("nan"), float("inf")


def computed() -> Batch:
    batch = random_cloud([2, 1, 3], first_id=70)
    BaseDynamics(HarmonicTrap()).compute(batch)
    return batch


def detect(batch: Batch, **options: object) -> None:
    hook = NaNDetectorHook(**options)  # type: ignore[arg-type]
    hook(DynamicsContext(batch=batch, step_count=17), hook.stage)


def test_finite_values_pass() -> None:
    batch = computed()
    before = {name: value.clone() for name, value in batch}
    detect(batch)
    detect(random_cloud([2]))  # nothing to look at
    assert all(torch.equal(batch[name], value) for name, value in before.items())


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_forces_per_atom(value: float) -> None:
    batch = computed()
    batch["forces"][2, 1] = value
    batch["forces"][4, 0] = value
    batch["forces"][5, 2] = value
    words = r"at step 17, values that are not finite: forces \(3 values\) in systems 1, 2 of the batch \(system_id \[71, 72\]\)\. .*Look at"
    with pytest.raises(ModelOutputError, match=words):
        detect(batch)
    assert issubclass(ModelOutputError, RuntimeError)


def test_energy_per_system_with_as_many_atoms_as_systems() -> None:
    batch = random_cloud([0, 3, 0])
    batch["energy"] = torch.tensor([[0.0], [0.0], [NAN]])
    with pytest.raises(ModelOutputError, match=r"energy \(1 value\) in system 2 of the batch \(system_id \[2\]\)"):
        detect(batch)


def test_further_keys() -> None:
    batch = computed()
    batch["velocities"] = torch.full_like(batch["positions"], NAN)
    detect(batch)
    with pytest.raises(ModelOutputError, match=r"velocities \(18 values\) in systems 0, 1, 2"):
        detect(batch, extra_keys=["velocities", "stress"])


def test_ends_a_run() -> None:
    batch = random_cloud([2, 1])
    batch["positions"][2, 0] = NAN
    with pytest.raises(ModelOutputError, match=r"at step 0.*energy \(1 value\) in system 1"):
        BaseDynamics(HarmonicTrap(), hooks=[NaNDetectorHook()]).run(batch, 3)


def test_forces_are_shortened() -> None:
    batch = computed()
    before = batch["forces"].clone()
    limit = float(torch.linalg.vector_norm(before, dim=1).median())
    place = batch["forces"].data_ptr()
    MaxForceClampHook(limit)(DynamicsContext(batch=batch), DynamicsStage.AFTER_COMPUTE)
    after, lengths = batch["forces"], torch.linalg.vector_norm(before, dim=1)
    assert after.data_ptr() == place
    assert torch.allclose(torch.linalg.vector_norm(after, dim=1), lengths.clamp(max=limit), rtol=1e-14)
    assert torch.allclose(torch.nn.functional.cosine_similarity(after, before), torch.ones_like(lengths))
    short = lengths <= limit
    assert torch.equal(after[short], before[short])


def test_forces_that_are_not_finite_are_not_hidden() -> None:
    batch = Batch.from_arrays([4], {"forces": torch.tensor([[NAN, 0.0, 0.0], [INF, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])}, {})
    MaxForceClampHook(2.0)(DynamicsContext(batch=batch), DynamicsStage.AFTER_COMPUTE)
    assert torch.isfinite(batch["forces"]).all(dim=1).tolist() == [False, False, True, True]
    assert batch["forces"][1, 0] == INF
    assert batch["forces"][2:].tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_only_systems_that_the_stage_works_on() -> None:
    batch = Batch.from_arrays([1, 1], {"forces": torch.full((2, 3), 9.0)}, {})
    MaxForceClampHook(1.0)(DynamicsContext(batch=batch, active_graph_mask=torch.tensor([False, True])), DynamicsStage.AFTER_COMPUTE)
    assert torch.linalg.vector_norm(batch["forces"], dim=1).tolist() == pytest.approx([243**0.5, 1.0])


@pytest.mark.parametrize("max_force", [0.0, -1.0, NAN])
def test_the_limit_is_a_length(max_force: float) -> None:
    with pytest.raises(ArgumentError, match=f"max_force is {max_force}; it is a length above 0"):
        MaxForceClampHook(max_force)


def test_defaults_are_the_contracts() -> None:
    detector, clamp = NaNDetectorHook(), MaxForceClampHook(1.0)
    assert (detector.frequency, detector.extra_keys, detector.stage) == (1, [], DynamicsStage.AFTER_COMPUTE)
    assert (clamp.frequency, clamp.max_force, clamp.stage) == (1, 1.0, DynamicsStage.AFTER_COMPUTE)
