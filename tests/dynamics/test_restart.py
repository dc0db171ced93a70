"""Restart in the middle: a run that goes on from a snapshot ends with the bits of the run that was never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from relax_structures import Relaxed, assert_same_bits, lj_clusters, one_of_each, relax, to_batch

from campaign.data import Batch
from campaign.dynamics import FIRE, FIRE2, LBFGS, NVE, HostMemory, NVTLangevin, Relaxation, RelaxSettings
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.hooks import SnapshotHook, newest_of_each
from campaign.dynamics.loop import BaseDynamics
from campaign.dynamics.sampler import BatchSampler
from campaign.dynamics.sinks import ZarrData
from campaign.errors import ArgumentError
from campaign.hooks import DynamicsStage
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome
from campaign.testing.harmonic import HarmonicTrap, random_cloud

OPTIMIZERS: dict[str, type[Any]] = {"fire": FIRE, "fire2": FIRE2, "lbfgs": LBFGS}
CELL: dict[str, Any] = {"cell": "full", "smax_ev_per_ang3": 1e-3}


@pytest.fixture(scope="module")
def crowd() -> Batch:
    return to_batch(one_of_each(0) + one_of_each(1))


def interrupted(model: Any, batch: Batch, place: Path, steps: int, stage: DynamicsStage = DynamicsStage.AFTER_STEP, **how: Any) -> Batch:
    """Relax for a while with snapshots into a store; return the newest snapshot of each system."""
    with ZarrData(place) as sink:
        settings = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=300, refill_every=1, **how)
        hooks = [SnapshotHook(sink, frequency=5, stage=stage)]
        relaxation = Relaxation(model, settings, BatchSampler(batch), [HostMemory(1000)], hooks, max_systems=6)
        calls = iter(range(steps))
        relaxation.run(lambda: next(calls, None) is None)
    return newest_of_each(ZarrData(place).read())


def assert_same_results(resumed: Relaxed, whole: Relaxed, ids: list[int]) -> None:
    assert resumed.batch["system_id"].view(-1).tolist() == ids
    for system_id in ids:
        assert_same_bits(resumed.system(system_id), whole.system(system_id))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cell", ["fixed", "full"])
def test_a_relaxation_goes_on_with_the_same_bits(crowd: Batch, tmp_path: Path, optimizer: str, cell: str) -> None:
    how: dict[str, Any] = {"optimizer": optimizer, **CELL, "cell": cell}
    whole = relax(EMTModel(), crowd, **how)
    snapshots = interrupted(EMTModel(), crowd, tmp_path / "snapshots.zarr", 13, **how)
    ids = snapshots["system_id"].view(-1).tolist()
    begun = snapshots["n_steps"].view(-1)
    print(f"{optimizer}, cell {cell}: {len(ids)} systems go on from steps {begun.tolist()}")
    assert len(ids) >= 6
    assert int((begun > 0).sum()) >= 5
    # By bursts, one after the other, and with other batch mates that have not begun.
    assert_same_results(relax(EMTModel(), snapshots, **how), whole, ids)
    alone = relax(EMTModel(), snapshots, limits={"max_systems": 1}, hooks=[SnapshotHook(HostMemory(10**6), 100)], **how)
    assert_same_results(alone, whole, ids)
    strangers = to_batch(one_of_each(7), first_id=100)
    mixed = relax(EMTModel(), _joined(strangers, snapshots), limits={"max_systems": 5}, **how)
    for system_id in ids:
        assert_same_bits(mixed.system(system_id), whole.system(system_id))
    fresh = relax(EMTModel(), strangers, **how)
    for system_id in range(100, 100 + strangers.num_graphs):
        assert_same_bits(mixed.system(system_id), fresh.system(system_id))


def _joined(first: Batch, second: Batch) -> Batch:
    joined = first.index_select(slice(None))
    joined.append(second)
    return joined


def test_snapshots_before_a_step_do_as_well(crowd: Batch, tmp_path: Path) -> None:
    whole = relax(EMTModel(), crowd, **CELL)
    snapshots = interrupted(EMTModel(), crowd, tmp_path / "snapshots.zarr", 11, DynamicsStage.BEFORE_STEP, **CELL)
    resumed = relax(EMTModel(), snapshots, **CELL)
    assert_same_results(resumed, whole, snapshots["system_id"].view(-1).tolist())


def test_again_and_again(crowd: Batch, tmp_path: Path) -> None:
    whole = relax(EMTModel(), crowd, **CELL)
    left: dict[int, dict[str, torch.Tensor]] = {}
    batch = crowd
    for turn in range(200):
        sink, snapshots = HostMemory(1000), ZarrData(tmp_path / f"{turn}.zarr")
        settings = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=300, **CELL)
        hooks = [SnapshotHook(snapshots, frequency=7)]
        relaxation = Relaxation(EMTModel(), settings, BatchSampler(batch), [sink], hooks)
        calls = iter(range(15))
        relaxation.run(lambda calls=calls: next(calls, None) is None)
        if len(sink):
            done = sink.read()
            left |= {int(i): dict(iter(done.index_select([row]))) for row, i in enumerate(done["system_id"].view(-1))}
        if len(left) == crowd.num_graphs:
            break
        with snapshots:
            newest = newest_of_each(snapshots.read())
        batch = newest.index_select([int(i) not in left for i in newest["system_id"].view(-1)])
    assert turn > 3
    for system_id, system in left.items():
        assert_same_bits(system, whole.system(system_id))


def test_those_that_had_ended_leave_as_they_would_have(tmp_path: Path) -> None:
    # They wait in the batch, and in the snapshot, until there are enough of them to leave.
    batch = to_batch(one_of_each(0))
    how: dict[str, Any] = {"cell": "fixed", "optimizer": "fire"}
    whole = relax(EMTModel(), batch, max_steps=40, **how)
    with ZarrData(tmp_path / "snapshots.zarr") as sink:
        settings = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=40, refill_every=1000, **how)
        relaxation = Relaxation(EMTModel(), settings, BatchSampler(batch), [HostMemory(100)], [SnapshotHook(sink, frequency=3)])
        calls = iter(range(38))
        relaxation.run(lambda: next(calls, None) is None)
        snapshots = newest_of_each(sink.read())
    assert int((snapshots["outcome"] == int(Outcome.CONVERGED)).sum()) >= 1
    assert int((snapshots["outcome"] < 0).sum()) >= 1
    assert_same_results(relax(EMTModel(), snapshots, max_steps=40, **how), whole, list(range(batch.num_graphs)))
    # Also where the run is asked to stop before its first step.
    sink2 = HostMemory(100)
    settings = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=40, **how)
    relaxation = Relaxation(EMTModel(), settings, BatchSampler(snapshots), [sink2])
    relaxation.run(lambda: True)
    assert len(sink2) == int((snapshots["outcome"] >= 0).sum())
    for row, system_id in enumerate(sink2.read()["system_id"].view(-1).tolist()):
        assert_same_bits(dict(iter(sink2.read().index_select([row]))), whole.system(system_id))


def test_what_was_moved_and_not_yet_evaluated_is_evaluated_first() -> None:
    # A batch with newcomers beside systems under way: `with_state` says of each which it is.
    batch = to_batch(lj_clusters([13, 20, 9]))
    whole = relax(LennardJonesModel(), batch)
    settings = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=300)
    relaxation = Relaxation(LennardJonesModel(), settings, BatchSampler(batch), [HostMemory(10)], [SnapshotHook(HostMemory(10**4), 50)])
    calls = iter(range(9))
    relaxation.run(lambda: next(calls, None) is None)
    assert relaxation.batch is not None
    carried = relaxation.dynamics.with_state(relaxation.batch)
    assert carried["dynamics_phase"].view(-1).tolist() == [2, 2, 2]
    assert not [key for key, _ in relaxation.batch if key.startswith("dynamics_")]
    start = relaxation.dynamics.with_state(relaxation.batch)
    start["dynamics_phase"] = torch.tensor([[0], [1], [2]])
    # The first starts anew from where it is; the others go on.
    resumed = relax(LennardJonesModel(), start)
    for system_id in (1, 2):
        assert_same_bits(resumed.system(system_id), whole.system(system_id))
    assert int(resumed.system(0)["n_steps"]) < int(whole.system(0)["n_steps"])


# Dynamics alone


def dynamics_of(kind: str, **kwargs: Any) -> BaseDynamics:
    if kind == "nve":
        return NVE(HarmonicTrap(), dt=1.0, **kwargs)
    if kind == "nvt":
        return NVTLangevin(HarmonicTrap(), dt=1.0, temperature=300.0, friction=0.02, **kwargs)
    return OPTIMIZERS[kind](HarmonicTrap(), **kwargs)  # type: ignore[no-any-return]


def cloud() -> Batch:
    batch = random_cloud([3, 1, 4])
    batch["positions"].mul_(5.0)
    return batch


@pytest.mark.parametrize("kind", ["fire", "fire2", "lbfgs", "nve", "nvt"])
def test_k_steps_and_m_steps_are_k_plus_m(kind: str, tmp_path: Path) -> None:
    whole = dynamics_of(kind).run(cloud(), 60)
    with ZarrData(tmp_path / "snapshots.zarr") as sink:
        dynamics_of(kind, hooks=[SnapshotHook(sink, frequency=12)]).run(cloud(), 30)
        frames = sink.read()
    assert frames.num_graphs == 9  # after steps 1, 13 and 25
    newest = newest_of_each(frames)
    for systems in ([0, 1, 2], [1], [2, 0]):
        resumed = dynamics_of(kind).run(newest.index_select(systems), 60 - 25)
        expected = whole.index_select(systems)
        assert not [key for key, _ in resumed if key.startswith("dynamics_")]
        for key in ("positions", "forces", "energy", *(("velocities",) if kind != "lbfgs" else ())):
            assert resumed[key].numpy().tobytes() == expected[key].numpy().tobytes(), f"{key} differs"


def test_a_fused_stage_goes_on(tmp_path: Path) -> None:
    def fused(*hooks: Any) -> Any:
        stage = NVTLangevin(HarmonicTrap(), dt=1.0, temperature=300.0, friction=0.02, n_steps=20) + FIRE(
            HarmonicTrap(), convergence_hook=ConvergenceHook.from_fmax(0.01)
        )
        for hook in hooks:
            stage.register_fused_hook(hook)
        return stage

    whole = fused().run(cloud(), 50)
    for after in (13, 31):  # in the first sub-stage, and in the second
        with ZarrData(tmp_path / f"{after}.zarr") as sink:
            fused(SnapshotHook(sink, frequency=after, stage=DynamicsStage.BEFORE_STEP)).run(cloud(), after + 1)
            newest = newest_of_each(sink.read())
        resumed = fused().run(newest.index_select([2, 1]), 50 - after)
        expected = whole.index_select([2, 1])
        for key in ("positions", "velocities", "forces", "status"):
            assert resumed[key].numpy().tobytes() == expected[key].numpy().tobytes(), f"{key} differs"


def test_the_state_of_another_dynamics_is_refused() -> None:
    sink = HostMemory(100)
    dynamics_of("fire", hooks=[SnapshotHook(sink)]).run(cloud(), 1)
    for kind in ("fire2", "lbfgs", "nve"):
        with pytest.raises(ArgumentError, match="state of another dynamics: dynamics_"):
            dynamics_of(kind).run(sink.read(), 1)
    with pytest.raises(ArgumentError, match="dynamics_atom_state"):
        LBFGS(HarmonicTrap(), memory=3).run(_lbfgs_snapshot(memory=4), 1)


def _lbfgs_snapshot(memory: int) -> Batch:
    sink = HostMemory(100)
    LBFGS(HarmonicTrap(), memory=memory, hooks=[SnapshotHook(sink)]).run(cloud(), 1)
    return sink.read()


def test_snapshots_without_a_state() -> None:
    sink = HostMemory(100)
    dynamics_of("fire", hooks=[SnapshotHook(sink, with_state=False)]).run(cloud(), 1)
    assert not [key for key, _ in sink.read() if key.startswith("dynamics_")]


def test_snapshots_of_nameless_systems_cannot_be_told_apart() -> None:
    batch = cloud()
    batch["system_id"] = torch.full((3, 1), -1)
    with pytest.raises(ArgumentError, match="without a system_id"):
        newest_of_each(batch)
    assert newest_of_each(cloud().index_select(np.array([2, 0, 1])))["system_id"].view(-1).tolist() == [0, 1, 2]
