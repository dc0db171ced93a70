"""Velocity Verlet against ASE, against what it must conserve, and against itself in other company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.cluster import Icosahedron
from ase.md.verlet import VelocityVerlet

from campaign.data import AtomicData, Batch
from campaign.dynamics.hooks import EnergyDrift, LoggingHook, total_energy_per_system
from campaign.dynamics.hooks.observables import kinetic_energy_per_system
from campaign.dynamics.integrators import NVE
from campaign.errors import ArgumentError, BatchKeyError
from campaign.hooks import DynamicsContext
from campaign.models.lennard_jones import LennardJonesModel
from campaign.testing.harmonic import HarmonicTrap, random_cloud
from campaign.testing.sink_contract import bits
from campaign.units import EV_PER_K


class AseTrap(Calculator):
    """The harmonic trap, written again for ASE."""

    implemented_properties = ("energy", "forces")

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions
        self.results = {"energy": 0.5 * self.k * np.sum(x * x), "forces": -self.k * x}


def moving(batch: Batch, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = batch["positions"].shape
    batch["velocities"] = (0.2 * torch.randn(shape, dtype=torch.float64, generator=generator)).to(batch["positions"].dtype)
    return batch


def total_energy(batch: Batch) -> torch.Tensor:
    return batch["energy"].flatten() + kinetic_energy_per_system(batch)


def moves(dynamics: NVE, batch: Batch, n: int) -> Batch:
    """Do `n` moves of a batch that is new to the dynamics; the first step only evaluates."""
    return dynamics.run(batch, n + (0 if hasattr(dynamics, "_state") else 1))


def test_step_by_step_like_ase() -> None:
    batch = moving(random_cloud([4, 1, 3]))
    # (positions, velocities, masses) of each system for ASE, whose velocities are in the same unit.
    twins = []
    for i in range(3):
        own = batch.index_select([i])
        atoms = Atoms(positions=own["positions"].numpy(), masses=own["atomic_masses"].numpy(), numbers=[1] * own.num_nodes)
        atoms.set_velocities(own["velocities"].numpy())
        atoms.calc = AseTrap(k=0.7)
        twins.append((atoms, VelocityVerlet(atoms, timestep=2.0 * units.fs)))
    dynamics = NVE(HarmonicTrap(k=0.7), dt=2.0)
    moves(dynamics, batch, 0)
    worst = 0.0
    for _ in range(100):
        moves(dynamics, batch, 1)
        for _, verlet in twins:
            verlet.run(1)
        theirs = np.concatenate([atoms.positions for atoms, _ in twins])
        their_velocities = np.concatenate([atoms.get_velocities() for atoms, _ in twins])
        worst = max(worst, np.abs(batch["positions"].numpy() - theirs).max(), np.abs(batch["velocities"].numpy() - their_velocities).max())
    print(f"largest difference from ASE over 100 steps: {worst:.1e}")
    assert worst < 1e-12


def test_the_oscillator_in_closed_form() -> None:
    # One atom on a spring: x(t) = x0 cos(ωt), up to the error of the step, which is second order.
    errors = []
    for dt in (1.0, 0.5):
        batch = random_cloud([1])
        batch["positions"] = torch.tensor([[0.5, 0.0, 0.0]], dtype=torch.float64)
        mass, n = float(batch["atomic_masses"][0]), round(60 / dt)
        moves(NVE(HarmonicTrap(k=2.0), dt=dt), batch, n)
        exact = 0.5 * np.cos(np.sqrt(2.0 / mass) * 60.0 * units.fs)
        errors.append(abs(float(batch["positions"][0, 0]) - exact))
    print(f"error at 60 fs: {errors[0]:.2e} with 1 fs, {errors[1]:.2e} with 0.5 fs")
    assert errors[0] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_time_can_be_reversed() -> None:
    batch = moving(random_cloud([5, 2]))
    start = batch["positions"].clone()
    dynamics = NVE(HarmonicTrap(), dt=3.0)
    moves(dynamics, batch, 200)
    batch["velocities"].neg_()
    moves(dynamics, batch, 200)
    assert float((batch["positions"] - start).abs().max()) < 1e-12


def argon(seed: int = 0) -> tuple[LennardJonesModel, Batch]:
    """A cluster, a crystal, a film and a dimer, at 30 K."""
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    film = crystal * (2, 1, 1)
    film.center(vacuum=9.0, axis=2)
    film.pbc = (True, True, False)
    structures = [Icosahedron("Ar", 2, 3.8 * np.sqrt(2)), crystal * (2, 2, 2), film, Atoms("Ar2", [[0, 0, 0], [0, 0, 3.9]])]
    generator = np.random.default_rng(seed)
    for atoms in structures:
        atoms.set_velocities(generator.normal(scale=np.sqrt(30 * EV_PER_K / 39.95), size=(len(atoms), 3)))
    model = LennardJonesModel(epsilon=0.0104, sigma=3.4, rc=8.5, smooth=True)
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])
    batch["velocities"] = torch.from_numpy(np.concatenate([atoms.get_velocities() for atoms in structures]))
    return model, batch


def test_energy_is_conserved() -> None:
    fluctuations = []
    for dt, n in ((8.0, 300), (4.0, 600)):
        model, batch = argon()
        dynamics = NVE(model, dt=dt, hooks=model.make_neighbor_hooks())
        moves(dynamics, batch, 0)
        energies = [total_energy(batch)]
        momentum = (batch["atomic_masses"].unsqueeze(1) * batch["velocities"]).sum(dim=0)
        for _ in range(n):
            moves(dynamics, batch, 1)
            energies.append(total_energy(batch))
        per_atom = (torch.stack(energies) / batch.num_nodes_per_graph).numpy()
        half = len(per_atom) // 2
        drift = np.abs(per_atom[half:].mean(axis=0) - per_atom[:half].mean(axis=0))
        fluctuations.append(np.abs(per_atom - per_atom[0]).max(axis=0))
        print(f"dt = {dt} fs, {n * dt / 1000} ps, eV/atom: drift {drift}, largest change {fluctuations[-1]}")
        kinetic = 1.5 * 30 * EV_PER_K
        assert np.all(drift < 1e-4 * kinetic)
        assert np.all(fluctuations[-1] < 2e-3 * kinetic)
        moved = (batch["atomic_masses"].unsqueeze(1) * batch["velocities"]).sum(dim=0) - momentum
        assert float(moved.abs().max()) < 1e-10
    ratio = fluctuations[0] / fluctuations[1]
    print(f"half the time step makes the change smaller by {ratio}")
    assert np.all((ratio > 3.8) & (ratio < 4.2))


def test_the_drift_is_reported() -> None:
    # In a log, as the slope of a straight line through all total energies: next to nothing, and what numpy says it is.
    rows: list[dict[str, float]] = []
    model, batch = argon()
    scalars = {"total_energy": lambda ctx: total_energy_per_system(ctx.batch), "drift": EnergyDrift(dt=8.0)}
    hook = LoggingHook("custom", writer_fn=lambda step, new: rows.extend(new), custom_scalars=scalars)
    NVE(model, dt=8.0, hooks=[*model.make_neighbor_hooks(), hook]).run(batch, 251)
    kinetic = 1.5 * 30 * EV_PER_K
    for system, n_atoms in enumerate(batch.num_nodes_list):
        own = [row for row in rows if row["graph_idx"] == system]
        assert own[0]["drift"] == 0.0
        per_atom = np.array([row["total_energy"] for row in own]) / n_atoms
        slope = np.polyfit(np.arange(251) * 8e-3, per_atom - per_atom[0], 1)[0]
        print(f"{n_atoms} atoms: {own[-1]['drift']:.2e} eV/atom/ps, numpy {slope:.2e}")
        assert own[-1]["drift"] == pytest.approx(slope, rel=1e-6, abs=1e-15)
        assert abs(slope) < 1e-4 * kinetic, "over 2 ps"


def test_a_drift_that_is_there_is_found() -> None:
    # Friction without heat: the energy falls as the drift says. Systems come and go, each with a slope of its own.
    drift, slopes = EnergyDrift(dt=2.0), torch.tensor([0.5, -2.0, 0.0, 7.0], dtype=torch.float64)
    batch = random_cloud([3, 1, 2, 5])
    batch["velocities"] = torch.zeros_like(batch["positions"])
    for step in range(30):
        if step == 12:
            batch = batch.index_select([3, 1, 2])
        batch["energy"] = (batch.num_nodes_per_graph * slopes[batch["system_id"].view(-1)] * step * 2e-3).view(-1, 1) - 40.0
        found = drift(DynamicsContext(batch=batch, step_count=step))
    assert torch.allclose(found, slopes[[3, 1, 2]], rtol=1e-9, atol=1e-12)
    del batch["system_id"]
    with pytest.raises(ArgumentError, match="have changed and have no system_id"):
        drift(DynamicsContext(batch=batch.index_select([0]), step_count=30))


def test_systems_do_not_see_their_batch_mates() -> None:
    sizes = [4, 1, 6, 2]
    together = moves(NVE(HarmonicTrap(), dt=1.5), moving(random_cloud(sizes)), 30)
    start = moving(random_cloud(sizes))
    for rows in ([2], [3, 0], [0, 1, 2]):
        alone = moves(NVE(HarmonicTrap(), dt=1.5), start.index_select(rows), 30)
        for key in ("positions", "velocities"):
            assert bits(alone[key]) == bits(together.index_select(rows)[key])


def test_a_poisoned_system_leaves_the_others_alone() -> None:
    clean, poisoned = moving(random_cloud([3, 2, 4])), moving(random_cloud([3, 2, 4]))
    poisoned["positions"][4] = float("nan")
    for batch in (clean, poisoned):
        moves(NVE(HarmonicTrap(), dt=1.0), batch, 10)
    for key in ("positions", "velocities"):
        assert bits(clean.index_select([0, 2])[key]) == bits(poisoned.index_select([0, 2])[key])


def test_one_time_step_for_each_system() -> None:
    batch = moves(NVE(HarmonicTrap(), dt=torch.tensor([1.0, 0.25])), moving(random_cloud([3, 2])), 20)
    for i, dt in enumerate((1.0, 0.25)):
        alone = moves(NVE(HarmonicTrap(), dt=dt), moving(random_cloud([3, 2])).index_select([i]), 20)
        assert bits(alone["positions"]) == bits(batch.index_select([i])["positions"])


def test_the_first_step_only_evaluates() -> None:
    # Forces that came with the structures may be anything.
    batch = moving(random_cloud([3]))
    batch["forces"] = torch.full_like(batch["positions"], 1e6)
    before = {key: batch[key].clone() for key in ("positions", "velocities")}
    dynamics = NVE(HarmonicTrap(), dt=1.0)
    dynamics.run(batch, 1)
    assert all(torch.equal(batch[key], value) for key, value in before.items())
    assert torch.equal(batch["forces"], -batch["positions"])
    dynamics.run(batch, 1)
    assert not (batch["positions"] == before["positions"]).any()


def test_a_batch_without_velocities_starts_at_rest() -> None:
    batch = moves(NVE(HarmonicTrap(), dt=1.0), random_cloud([2]), 0)
    assert not batch["velocities"].any()


def test_fixed_components_stay() -> None:
    batch = moving(random_cloud([3, 2]))
    batch["fixed"] = torch.rand((5, 3), generator=torch.Generator().manual_seed(1)) < 0.4
    start = batch["positions"].clone()
    moves(NVE(HarmonicTrap(), dt=2.0), batch, 15)
    assert torch.equal(batch["positions"] == start, batch["fixed"])
    assert torch.equal(batch["velocities"] == 0, batch["fixed"])


def test_systems_that_have_left_stay() -> None:
    batch = moving(random_cloud([3, 2, 1]))
    batch["status"] = torch.tensor([[0], [1], [0]])
    start = batch.clone()
    moves(NVE(HarmonicTrap(), dt=2.0), batch, 5)
    for key in ("positions", "velocities"):
        same = (batch[key] == start[key]).all(dim=1)
        assert same.tolist() == (batch.batch_idx == 1).tolist()


def test_systems_come_and_go() -> None:
    # The way of the engine: those that remain keep their state, newcomers are evaluated before they move.
    dynamics = NVE(HarmonicTrap(), dt=1.0)
    batch = moves(dynamics, moving(random_cloud([3, 2])), 4)
    changed = batch.index_select([1])
    changed.append(moving(random_cloud([4], first_id=9)))
    start = changed["positions"].clone()
    dynamics._sync_state_to_batch(torch.tensor([1]), 1, changed)
    dynamics.run(changed, 1)
    moved = (changed["positions"] != start).all(dim=1)
    assert moved.tolist() == [True] * 2 + [False] * 4
    dynamics.run(changed, 1)
    assert (changed["positions"] != start).all()


def test_one_step_for_each_system_cannot_serve_newcomers() -> None:
    dynamics = NVE(HarmonicTrap(), dt=torch.tensor([1.0, 0.5]))
    batch = moves(dynamics, moving(random_cloud([3, 2])), 1)
    batch.append(moving(random_cloud([4], first_id=9)))
    with pytest.raises(ArgumentError, match=r"dt was given for 2 systems, and 1 systems need it"):
        dynamics._sync_state_to_batch(torch.tensor([0, 1]), 1, batch)


def test_single_precision() -> None:
    single = moves(NVE(HarmonicTrap(), dt=1.0), moving(random_cloud([3, 2], dtype=torch.float32)), 50)
    double = moves(NVE(HarmonicTrap(), dt=1.0), moving(random_cloud([3, 2])), 50)
    assert single["positions"].dtype == torch.float32
    assert float((single["positions"] - double["positions"]).abs().max()) < 2e-6


@pytest.mark.parametrize("dt", [0.0, -1.0, float("nan"), torch.tensor([1.0, 0.0])])
def test_the_time_step_is_positive(dt: Any) -> None:
    with pytest.raises(ArgumentError, match=r"dt is .*; it is finite and above 0, for every system"):
        NVE(HarmonicTrap(), dt=dt)


def test_masses_are_needed() -> None:
    batch = random_cloud([2])
    del batch["atomic_masses"]
    with pytest.raises(BatchKeyError, match="no key 'atomic_masses'"):
        NVE(HarmonicTrap(), dt=1.0).run(batch, 2)
