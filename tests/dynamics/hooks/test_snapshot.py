"""Snapshot hooks: what they write, how often, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.cluster import Icosahedron

from campaign.data import AtomicData, Batch
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.fused import FusedStage
from campaign.dynamics.hooks import ConvergedSnapshotHook, SnapshotHook
from campaign.dynamics.loop import BaseDynamics
from campaign.dynamics.optimizers.fire import FIRE
from campaign.dynamics.sampler import SizeAwareSampler
from campaign.dynamics.sinks import GPUBuffer, HostMemory, ZarrData
from campaign.errors import SinkFullError
from campaign.fields import NEIGHBOR_KEYS
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.models.lennard_jones import LennardJonesModel
from campaign.testing.harmonic import HarmonicTrap, random_cloud
from campaign.testing.sink_contract import assert_same_systems, bits, example_batch, with_neighbor_matrix


def fire(hook: ConvergedSnapshotHook, batch: Batch, *mask: bool) -> None:
    hook(DynamicsContext(batch=batch, converged_mask=torch.tensor(mask)), DynamicsStage.ON_CONVERGE)


def ids(sink: HostMemory | GPUBuffer | ZarrData) -> list[int]:
    return sink.read().system_id.flatten().tolist() if len(sink) else []


class Sink(HostMemory):
    """Notes what it was called with, and whether it was flushed."""

    def __init__(self, capacity: int = 100) -> None:
        super().__init__(capacity)
        self.batches: list[Batch] = []
        self.n_flushes = 0

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        self.batches.append(batch)
        super().write(batch, mask)

    def flush(self) -> None:
        self.n_flushes += 1


class Shrink(BaseDynamics):
    """Brings every atom a tenth closer to the origin in each step."""

    def pre_update(self, batch: Batch) -> None:
        batch["positions"].mul_(0.9)


# SnapshotHook


def test_defaults_are_the_contracts() -> None:
    sink = HostMemory(1)
    assert (SnapshotHook(sink).sink, SnapshotHook(sink).frequency, SnapshotHook(sink).stage) == (sink, 1, DynamicsStage.AFTER_STEP)
    hook = ConvergedSnapshotHook(sink)
    assert (hook.sink, hook.frequency, hook.stage) == (sink, 1, DynamicsStage.ON_CONVERGE)


def test_the_whole_batch_in_one_write_whatever_its_status() -> None:
    sink = Sink()
    batch = example_batch()
    batch["status"] = torch.tensor([[0], [1], [2], [5]])
    SnapshotHook(sink)(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    assert len(sink.batches) == 1
    assert sink.batches[0] is batch, "the hook made a copy"
    assert_same_systems(sink.read(), batch)


def test_every_frequency_steps() -> None:
    sink = Sink()
    dynamics = Shrink(HarmonicTrap(), hooks=[SnapshotHook(sink, frequency=3)], n_steps=8)
    batch = random_cloud([2, 1])
    start = batch["positions"].clone()
    dynamics.run(batch)
    written = sink.read()
    assert ids(sink) == [0, 1] * 3
    for i, n_moves in enumerate((1, 4, 7)):
        assert torch.allclose(written.index_select([2 * i, 2 * i + 1])["positions"], start * 0.9**n_moves, rtol=1e-12)
    assert sink.n_flushes == 1


@pytest.mark.parametrize("stage", [DynamicsStage.BEFORE_STEP, DynamicsStage.AFTER_COMPUTE])
def test_at_another_stage(stage: DynamicsStage) -> None:
    sink = HostMemory(10)
    batch = random_cloud([2])
    batch["energy"] = torch.zeros(1, 1, dtype=torch.float64)
    start = batch["positions"].clone()
    Shrink(HarmonicTrap(), hooks=[SnapshotHook(sink, stage=stage)]).run(batch, 1)
    moved = 1.0 if stage is DynamicsStage.BEFORE_STEP else 0.9
    assert torch.equal(sink.read()["positions"], start * moved)


def test_a_full_sink_ends_the_run_and_keeps_what_it_has() -> None:
    sink = HostMemory(5)
    with pytest.raises(SinkFullError):
        Shrink(HarmonicTrap(), hooks=[SnapshotHook(sink)]).run(random_cloud([2, 1]), 3)
    assert ids(sink) == [0, 1, 0, 1]


# ConvergedSnapshotHook


def test_each_system_once() -> None:
    hook = ConvergedSnapshotHook(HostMemory(100))
    batch = example_batch()
    fire(hook, batch, False, False, True, False)
    fire(hook, batch, True, False, True, False)
    # System 2 moves away from the criteria and meets them again.
    fire(hook, batch, True, False, False, False)
    fire(hook, batch, True, True, True, True)
    fire(hook, batch, True, True, True, True)
    assert ids(hook.sink) == [2, 0, 1, 3]


def test_what_is_written_is_what_the_system_was() -> None:
    hook = ConvergedSnapshotHook(HostMemory(100))
    batch = example_batch()
    fire(hook, batch, False, True, False, True)
    assert_same_systems(hook.sink.read(), example_batch().index_select([1, 3]))


@pytest.mark.parametrize("mask", [None, torch.zeros(4, dtype=torch.bool)])
def test_nothing_converged(mask: torch.Tensor | None) -> None:
    sink = Sink()
    batch = example_batch()
    ConvergedSnapshotHook(sink)(DynamicsContext(batch=batch, converged_mask=mask), DynamicsStage.ON_CONVERGE)
    assert sink.batches == []
    assert_same_systems(batch, example_batch())


def test_masks_of_newer_engines() -> None:
    # They fire ON_CONVERGE in every step, and say which systems the stage works on.
    hook = ConvergedSnapshotHook(HostMemory(100))
    batch = example_batch()
    for converged in ([False] * 4, [True, False, False, False], [True, True, False, False], [False] * 4):
        ctx = DynamicsContext(batch=batch, converged_mask=torch.tensor(converged), active_graph_mask=torch.ones(4, dtype=torch.bool))
        hook(ctx, DynamicsStage.ON_CONVERGE)
    assert ids(hook.sink) == [0, 1]


def test_contexts_without_the_mask_of_newer_engines() -> None:
    class Context:
        batch = example_batch()
        converged_mask = torch.tensor([True, False, False, False])

    hook = ConvergedSnapshotHook(HostMemory(100))
    hook(Context(), DynamicsStage.ON_CONVERGE)  # type: ignore[arg-type]
    assert ids(hook.sink) == [0]


def test_memory_of_what_was_written_moves_with_the_systems() -> None:
    hook = ConvergedSnapshotHook(HostMemory(100))
    batch = example_batch()
    fire(hook, batch, True, False, True, False)
    # Systems leave, change places and come.
    batch = batch.index_select([3, 2, 0])
    batch.append(example_batch([5, 1], first_id=20))
    fire(hook, batch, True, True, True, True, False)
    assert ids(hook.sink) == [0, 2, 3, 20]
    # Through a buffer and back.
    buffer = Batch.empty(num_systems=8, num_nodes=100, num_edges=0, template=batch)
    buffer.put(batch, torch.tensor([False, True, False, True, True]))
    fire(hook, buffer.index_select(slice(None)), True, True, True)
    assert ids(hook.sink) == [0, 2, 3, 20, 21]


def test_a_system_that_comes_into_a_place_is_not_taken_for_the_one_that_left() -> None:
    hook = ConvergedSnapshotHook(HostMemory(100))
    fire(hook, example_batch([2, 3]), True, True)
    fire(hook, example_batch([4, 1], first_id=10), True, False)
    assert ids(hook.sink) == [0, 1, 10]


def test_two_hooks_do_not_share_their_memory() -> None:
    first, second = ConvergedSnapshotHook(HostMemory(100)), ConvergedSnapshotHook(HostMemory(100))
    batch = example_batch()
    fire(first, batch, True, True, False, False)
    fire(second, batch, False, True, True, False)
    fire(first, batch, True, True, True, False)
    assert (ids(first.sink), ids(second.sink)) == ([0, 1, 2], [1, 2])


def test_neighbour_data_is_left_out_and_stays_on_the_live_batch() -> None:
    hook = ConvergedSnapshotHook(HostMemory(100))
    batch = with_neighbor_matrix(example_batch(), 3)
    batch.replace_edges(np.array([1, 0, 1, 0]), {"neighbor_list": torch.tensor([[0, 1], [4, 5]])})
    before = {key: (tensor.data_ptr(), bits(tensor)) for key, tensor in batch}
    fire(hook, batch, True, False, True, True)
    assert not NEIGHBOR_KEYS & {key for key, _ in hook.sink.read()}
    # The only thing new is the hook's own note, which no sink stores.
    after = {key: (tensor.data_ptr(), bits(tensor)) for key, tensor in batch}
    assert {key: after[key] for key in before} == before
    assert [key for key in after if key not in before] == [hook._written_key]
    SnapshotHook(sink := HostMemory(10))(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    assert hook._written_key not in sink.read()


def test_a_full_sink_is_tried_again() -> None:
    sink = HostMemory(2)
    hook = ConvergedSnapshotHook(sink)
    batch = example_batch()
    fire(hook, batch, True, False, False, False)
    with pytest.raises(SinkFullError):
        fire(hook, batch, True, True, True, False)
    assert ids(sink) == [0]
    sink.zero()
    fire(hook, batch, True, True, True, False)
    assert ids(sink) == [1, 2]


def test_neighbour_widths_may_change_between_writes() -> None:
    sink = HostMemory(100)
    hook = ConvergedSnapshotHook(sink)
    batch = with_neighbor_matrix(example_batch(), 2)
    fire(hook, batch, True, False, False, False)
    batch = with_neighbor_matrix(batch, 7)
    fire(hook, batch, True, True, False, False)
    assert ids(sink) == [0, 1]


SINKS = [HostMemory(20), GPUBuffer(20, max_atoms=4, max_edges=0, device="cpu"), ZarrData({}, 20)]


@pytest.mark.parametrize("sink", SINKS, ids=lambda sink: type(sink).__name__)
def test_in_a_run(sink: HostMemory | GPUBuffer | ZarrData) -> None:
    # Atoms shrink towards the origin, so systems converge one after the other and go on meeting the criteria.
    batch = random_cloud([1, 3, 2, 4])
    scale = torch.tensor([1.0, 8.0, 1.0, 8.0], dtype=torch.float64)[batch.batch_idx]
    batch["positions"].mul_(scale.unsqueeze(1))
    hook = ConvergedSnapshotHook(sink)
    criteria = {"criteria": [{"key": "forces", "threshold": 0.1, "reduce_op": "norm", "reduce_dims": -1}]}
    dynamics = Shrink(HarmonicTrap(), hooks=[hook], convergence_hook=criteria)
    dynamics.run(batch, 200)
    with sink:
        written = sink.read()
    assert sorted(written.system_id.flatten().tolist()) == [0, 1, 2, 3]
    assert set(written.system_id.flatten().tolist()[:2]) == {0, 2}
    fmax = torch.linalg.vector_norm(written["forces"], dim=1)
    assert float(fmax.max()) <= 0.1
    # Written at once, and not some steps later, when forces would be a tenth smaller.
    for system in range(4):
        own = fmax[written.batch_idx == system]
        assert float(own.max()) > 0.1 * 0.9 * 0.99


def test_in_a_fused_stage() -> None:
    # Each sub-stage has its own hook; a system is written by each once, when it passes that one's criteria.
    batch = random_cloud([1, 3, 2, 4])
    coarse, fine, every = (HostMemory(1000) for _ in range(3))
    model = HarmonicTrap()
    stages = [
        Shrink(model, hooks=[ConvergedSnapshotHook(sink)], convergence_hook=ConvergenceHook.from_fmax(fmax))
        for sink, fmax in ((coarse, 0.1), (fine, 0.01))
    ]
    fused = stages[0] + stages[1]
    fused.register_fused_hook(SnapshotHook(every, frequency=5))
    fused.run(batch)
    for sink, fmax in ((coarse, 0.1), (fine, 0.01)):
        written = sink.read()
        assert sorted(ids(sink)) == [0, 1, 2, 3]
        for row in range(4):
            largest = float(torch.linalg.vector_norm(written.index_select([row])["forces"], dim=1).max())
            assert 0.9 * fmax * 0.99 < largest <= fmax
    # Whole batches, with whatever status their systems have.
    assert ids(every) == [0, 1, 2, 3] * (every.read().num_graphs // 4)
    assert set(every.read()["status"].flatten().tolist()) >= {0, 1}


def test_with_refill() -> None:
    # Systems come and go through the sampler; the hook and the engine's own sink each get every system once.
    structures = [random_cloud([1 + i % 4], first_id=i).get_data(0) for i in range(23)]
    by_hook, by_engine = HostMemory(100), HostMemory(100)
    sampler = SizeAwareSampler(_Dataset(structures), max_atoms=12, max_batch_size=5)
    stage = Shrink(HarmonicTrap(), hooks=[ConvergedSnapshotHook(by_hook)], convergence_hook=ConvergenceHook.from_fmax(0.01))
    assert FusedStage([(0, stage)], sampler=sampler, sinks=[by_engine], refill_frequency=3).run() is None
    assert sorted(ids(by_engine)) == list(range(23))
    assert sorted(ids(by_hook)) == list(range(23))


class _Dataset:
    """Structures in memory."""

    def __init__(self, structures: list[AtomicData]) -> None:
        self.structures = structures

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, index: int) -> tuple[AtomicData, dict[str, object]]:
        return self.structures[index], {}

    def get_metadata(self, index: int) -> tuple[int, int]:
        return self.structures[index].num_nodes, 0


def test_relaxing_with_a_model_that_needs_neighbours(tmp_path: Path) -> None:
    # Neighbour matrices change their width on the way. The engine's forces are those of the structures that were written.
    generator = np.random.default_rng(5)
    model = LennardJonesModel(rc=4.0, smooth=True)
    structures = [Icosahedron("Ar", shells, 1.55) for shells in (1, 2, 3)] + [Atoms("Ar5", generator.normal(scale=1.2, size=(5, 3)))]
    for i, atoms in enumerate(structures):
        atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
        atoms.info["i"] = i
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])
    batch["system_id"] = torch.arange(4).unsqueeze(1)
    with ZarrData(tmp_path / "converged.zarr") as converged, ZarrData(tmp_path / "all.zarr") as everything:
        hooks = [*model.make_neighbor_hooks(), ConvergedSnapshotHook(converged), SnapshotHook(everything, frequency=10)]
        dynamics = FIRE(model, hooks=hooks, convergence_hook=ConvergenceHook.from_fmax(0.01))
        dynamics.run(batch, 2000)
        written, frames = converged.read(), everything.read()
    assert sorted(ids(converged)) == [0, 1, 2, 3]
    assert not NEIGHBOR_KEYS & {key for key, _ in written}
    assert frames.num_graphs % 4 == 0
    for row in range(4):
        own = written.index_select([row])
        atoms = Atoms("Ar" * own.num_nodes, own["positions"].numpy(), calculator=model.ase_calculator())
        fmax = np.linalg.norm(atoms.get_forces(), axis=1).max()
        print(f"system {int(own['system_id'])}: fmax {fmax:.5f} by ASE, {float(own['forces'].norm(dim=1).max()):.5f} written")
        assert np.allclose(atoms.get_forces(), own["forces"].numpy(), atol=1e-9)
        assert fmax <= 0.01
