"""Bursts: the same bits as step by step, whatever the potential, the optimizer, the cell and the length of a burst."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from relax_structures import assert_same_bits, lj_clusters, one_of_each, relax, to_batch

from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.sampler import BatchSampler
from campaign.hooks import DynamicsStage, HookContext
from campaign.models.base import BaseModelMixin
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.models.morse import MorseModel
from campaign.neighbors.search import LARGE_SYSTEM
from campaign.outcomes import Outcome


class Listener:
    """A hook that does nothing; where it listens, steps are done one by one."""

    frequency = 1
    stage = DynamicsStage.AFTER_STEP

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        pass


def argon(rattle: float = 0.1) -> list[Atoms]:
    """Return clusters and crystals, cells smaller than the cutoff and skewed ones among them."""
    crystals = [bulk("Ar", "fcc", a=1.55, cubic=True) * (n, n, n) for n in (1, 2, 3)] + [bulk("Ar", "fcc", a=1.6) * (2, 1, 3)]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(rattle, seed=seed)
    return [*lj_clusters([2, 7, 13, 38, 55], rattle=rattle), *crystals, Atoms("Ar")]


POTENTIALS: dict[str, tuple[Callable[[], BaseModelMixin], Callable[[], list[Atoms]]]] = {
    "lj": (lambda: LennardJonesModel(rc=3.0), argon),
    "smooth lj": (lambda: LennardJonesModel(rc=3.0, ro=2.0, smooth=True), argon),
    "morse": (lambda: MorseModel(rho0=5.0), argon),
    "emt": (EMTModel, one_of_each),
}


@pytest.mark.parametrize("cell", ["fixed", "full", "isotropic", "fixed_volume"])
@pytest.mark.parametrize("optimizer", ["fire", "fire2", "lbfgs"])
@pytest.mark.parametrize("potential", POTENTIALS)
def test_same_bits_as_step_by_step(potential: str, optimizer: str, cell: str) -> None:
    make, structures = POTENTIALS[potential]
    batch = to_batch(structures())
    how = {"optimizer": optimizer, "cell": cell, "fmax": 1e-3, "max_steps": 120}
    one_by_one = relax(make(), batch, hooks=[Listener()], **how)  # type: ignore[arg-type]
    at_once = relax(make(), batch, **how)  # type: ignore[arg-type]
    assert one_by_one.statistics.seconds["steps"] == 0.0
    assert at_once.statistics.seconds["optimizer"] == 0.0
    assert Outcome.CONVERGED in at_once.outcomes
    for system in range(batch.num_graphs):
        assert_same_bits(one_by_one.system(system), at_once.system(system))


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_the_length_of_a_burst_changes_nothing(every: int) -> None:
    batch = to_batch(argon())
    free, given = relax(LennardJonesModel(), batch), relax(LennardJonesModel(), batch, refill_every=every, limits={"max_systems": 3})
    for system in range(batch.num_graphs):
        assert_same_bits(free.system(system), given.system(system))


def test_lists_too_wide_are_made_by_the_host() -> None:
    """A gas that collapses has rows ever wider."""
    rng = np.random.default_rng(0)
    batch = to_batch([Atoms("Ar40", positions=rng.uniform(0, 12.0, (40, 3))) for _ in range(4)] + lj_clusters([55]))
    how = {"fmax": 1e-2, "max_steps": 2000}
    one_by_one = relax(LennardJonesModel(rc=4.0), batch, hooks=[Listener()], **how)  # type: ignore[arg-type]
    at_once = relax(LennardJonesModel(rc=4.0), batch, **how)  # type: ignore[arg-type]
    for system in range(batch.num_graphs):
        assert_same_bits(one_by_one.system(system), at_once.system(system))


def test_cells_much_smaller_than_the_cutoff_do_without_near_lists() -> None:
    """Images four cells away and further have no number in a near list; one structure of the batch has none so far away."""
    small = bulk("Ar", "fcc", a=1.55) * (1, 1, 2)
    small.rattle(0.05, seed=1)
    batch = to_batch([small, *lj_clusters([13])])
    how = {"fmax": 1e-3, "max_steps": 200, "cell": "full"}
    one_by_one = relax(LennardJonesModel(rc=6.0), batch, hooks=[Listener()], **how)  # type: ignore[arg-type]
    at_once = relax(LennardJonesModel(rc=6.0), batch, **how)  # type: ignore[arg-type]
    assert at_once.statistics.seconds["optimizer"] == 0.0
    for system in range(batch.num_graphs):
        assert_same_bits(one_by_one.system(system), at_once.system(system))


def test_lists_of_large_systems_are_made_by_the_host() -> None:
    crystal = bulk("Ar", "fcc", a=1.55, cubic=True) * (7, 7, 8)
    crystal.rattle(0.15, seed=0)
    assert len(crystal) >= LARGE_SYSTEM
    batch = to_batch([*lj_clusters([13, 38]), crystal])
    how = {"fmax": 1e-3, "max_steps": 40}
    one_by_one = relax(LennardJonesModel(), batch, hooks=[Listener()], **how)  # type: ignore[arg-type]
    at_once = relax(LennardJonesModel(), batch, **how)  # type: ignore[arg-type]
    assert at_once.statistics.n_batch_steps > 2
    for system in range(batch.num_graphs):
        assert_same_bits(one_by_one.system(system), at_once.system(system))


def test_stops_between_bursts_and_goes_on_with_the_same_bits() -> None:
    batch = to_batch(argon())
    whole = relax(LennardJonesModel(), batch)
    sink = HostMemory(capacity=100)
    settings = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=300, refill_every=2)
    relaxation = Relaxation(LennardJonesModel(), settings, BatchSampler(batch), [sink])
    n_stops = 0
    while relaxation.batch is not None or n_stops == 0:
        asked = iter([False, False, True])
        relaxation.run(lambda: next(asked))  # noqa: B023
        n_stops += 1
    assert n_stops > 5
    found = sink.read()
    found = found.index_select(torch.argsort(found["system_id"].view(-1)))
    for system in range(batch.num_graphs):
        assert_same_bits(whole.system(system), dict(iter(found.index_select([system]))))


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_system_whose_cell_has_no_end_fails_alone(is_flat: bool) -> None:
    structures = argon()
    batch = to_batch([*structures, bulk("Ar", "fcc", a=1.55, cubic=True)])
    if is_flat:
        batch["cell"][-1, 2] = batch["cell"][-1, 0]
    else:
        batch["cell"][-1] *= 1e-102  # a volume that is not zero, and a density that no float holds
    found = relax(LennardJonesModel(), batch)
    alone = relax(LennardJonesModel(), to_batch(structures))
    assert found.outcomes[-1] is Outcome.FAILED
    for system in range(len(structures)):
        assert_same_bits(found.system(system), alone.system(system))


def test_float32_is_done_step_by_step() -> None:
    model = LennardJonesModel(dtype=torch.float32)
    found = relax(model, to_batch(argon()))
    assert found.statistics.seconds["steps"] == 0.0
    assert Outcome.CONVERGED in found.outcomes


class Scarce(LennardJonesModel):
    """Has scratch space for so many atoms, and says so in the words of this or that library."""

    def __init__(self, most_atoms: int, error: Exception) -> None:
        super().__init__()
        self.most_atoms, self.error = most_atoms, error

    def scratch_for(self, n_atoms: int, width: int, device: torch.device) -> torch.Tensor:
        if n_atoms > self.most_atoms:
            raise self.error
        return super().scratch_for(n_atoms, width, device)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8.0 GiB"),
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("Failed to allocate 80000 bytes on device 'cpu'"),  # Warp
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000 bytes"),  # torch
    ],
    ids=["numpy", "torch", "warp", "torch's allocator"],
)
def test_a_burst_out_of_memory_is_no_ones_fault(error: Exception) -> None:
    batch = to_batch(lj_clusters([7, 13, 9, 13, 20, 8, 13, 30]))
    clean, scarce = relax(LennardJonesModel(), batch), relax(Scarce(40, error), batch)
    seconds = scarce.statistics.seconds
    assert seconds["optimizer"] > 0.0 < seconds["steps"], "a step finds out that the batch is too large; bursts go on with a smaller one"
    assert scarce.relaxation.memory.n_failures > 0
    assert scarce.statistics.n_admitted == scarce.statistics.n_left == batch.num_graphs
    for system in range(batch.num_graphs):
        assert_same_bits(clean.system(system), scarce.system(system))


def test_a_burst_on_a_broken_device_raises() -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        relax(Scarce(40, RuntimeError("CUDA error: device-side assert triggered")), to_batch(lj_clusters([13, 13, 30])))
