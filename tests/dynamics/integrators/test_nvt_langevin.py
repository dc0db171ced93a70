"""BAOAB against the canonical distribution, and against itself in other company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from campaign.data import Batch
from campaign.dynamics.fused import FusedStage
from campaign.dynamics.hooks.observables import kinetic_energy_per_system, temperature_per_system
from campaign.dynamics.integrators import NVE, NVTLangevin
from campaign.errors import ArgumentError
from campaign.testing.harmonic import HarmonicTrap, random_cloud
from campaign.testing.sink_contract import bits
from campaign.units import EV_PER_K, FS_TO_ASE_TIME


def langevin(**options: Any) -> NVTLangevin:
    return NVTLangevin(HarmonicTrap(options.pop("k", 1.0)), **{"dt": 1.0, "temperature": 300.0, "friction": 0.05, **options})


def equal_masses(batch: Batch, mass: float) -> Batch:
    batch["atomic_masses"].fill_(mass)
    return batch


def test_temperature_and_its_fluctuations() -> None:
    # 200 systems of 8 atoms at 300 K, as many at 900 K, each sampled 40 times, far enough apart to be independent.
    n, n_atoms, n_samples = 200, 8, 40
    target = torch.tensor([300.0] * n + [900.0] * n, dtype=torch.float64)
    batch = equal_masses(random_cloud([n_atoms] * (2 * n)), 10.0)
    dynamics = langevin(temperature=target, friction=0.1, random_seed=1)
    dynamics.run(batch, 150)
    energies = []
    for _ in range(n_samples):
        dynamics.run(batch, 30)
        energies.append(kinetic_energy_per_system(batch))
    kinetic = torch.stack(energies).numpy()
    freedom = 3 * n_atoms
    for name, columns, kelvin in (("cold", slice(0, n), 300.0), ("hot", slice(n, None), 900.0)):
        sample = kinetic[:, columns].ravel()
        kt = kelvin * EV_PER_K
        mean, variance = 2 * sample.mean() / (freedom * EV_PER_K), sample.var() / (freedom / 2 * kt**2)
        error = kelvin * np.sqrt(2 / (freedom * len(sample)))
        print(f"{name}: {mean:.2f} K for {kelvin} K (one standard error is {error:.2f})")
        print(f"{name}: the variance of the kinetic energy is {variance:.4f} of f/2 (kT)²")
        # BAOAB's kinetic temperature is low by (ω dt)²/4, which is 2.4e-4 here.
        assert abs(mean - kelvin) < 4 * error + 3e-4 * kelvin
        assert abs(variance - 1) < 4 * np.sqrt((2 + 12 / freedom) / len(sample))


@pytest.mark.parametrize("dt_fs", [2.0, 30.0])
def test_positions_are_canonical_whatever_the_step(dt_fs: float) -> None:
    # <x²> = kT/k holds exactly for BAOAB in a harmonic potential, also where ω dt is 0.9.
    mass, k, kelvin, n = 10.0, 1.0, 500.0, 400
    batch = equal_masses(random_cloud([5] * n), mass)
    dynamics = langevin(k=k, dt=dt_fs, temperature=kelvin, friction=0.02, random_seed=3)
    dynamics.run(batch, 300)
    samples = []
    for _ in range(15):
        dynamics.run(batch, 100)
        samples.append(batch["positions"].clone())
    x2 = float((torch.stack(samples) ** 2).mean())
    exact = kelvin * EV_PER_K / k
    error = exact * np.sqrt(2 / (15 * batch.num_nodes * 3))
    print(f"ω dt = {np.sqrt(k / mass) * dt_fs * FS_TO_ASE_TIME:.2f}: <x²> = {x2:.5f} Å², kT/k = {exact:.5f} ± {error:.5f}")
    assert abs(x2 - exact) < 4 * error


def test_free_atoms_lose_their_memory_as_they_should() -> None:
    # Without forces v is an Ornstein–Uhlenbeck process: <v(0)v(t)> = kT/m exp(-γt), exactly.
    batch = equal_masses(random_cloud([10] * 500), 4.0)
    dynamics = langevin(k=0.0, dt=1.0, temperature=400.0, friction=0.03)
    dynamics.run(batch, 200)
    start = batch["velocities"].clone()
    variance = 400.0 * EV_PER_K / 4.0
    scatter = 4 * variance * np.sqrt(2 / start.numel())
    assert abs(float((start**2).mean()) - variance) < scatter
    dynamics.run(batch, 20)
    overlap = float((start * batch["velocities"]).mean())
    print(f"<v(0)v(20 fs)> = {overlap:.6f}, kT/m exp(-0.6) = {variance * np.exp(-0.6):.6f}")
    assert abs(overlap - variance * np.exp(-0.6)) < scatter


def test_zero_temperature_is_friction() -> None:
    batch = random_cloud([3])
    batch["velocities"] = torch.ones(3, 3, dtype=torch.float64)
    dynamics = langevin(k=0.0, temperature=0.0, friction=0.02)
    dynamics.run(batch, 1 + 50)
    assert torch.allclose(batch["velocities"], torch.full((3, 3), np.exp(-1.0), dtype=torch.float64), rtol=1e-13)


def test_zero_friction_is_velocity_verlet() -> None:
    thermal, mechanical = random_cloud([3, 2]), random_cloud([3, 2])
    langevin(friction=0.0).run(thermal, 100)
    NVE(HarmonicTrap(), dt=1.0).run(mechanical, 100)
    assert torch.allclose(thermal["positions"], mechanical["positions"], rtol=0, atol=1e-12)


# Reproducible


def trajectory(batch: Batch, n: int = 40, **options: Any) -> dict[int, bytes]:
    langevin(**options).run(batch, n)
    ids = batch["system_id"].flatten().tolist()
    return {i: bits(batch.index_select([row])["positions"]) + bits(batch.index_select([row])["velocities"]) for row, i in enumerate(ids)}


SIZES = [4, 1, 6, 2]


def test_one_seed_one_trajectory() -> None:
    first = trajectory(random_cloud(SIZES))
    assert trajectory(random_cloud(SIZES)) == first
    other = trajectory(random_cloud(SIZES), random_seed=43)
    assert all(other[i] != first[i] for i in first)


@pytest.mark.parametrize("rows", [[2], [3, 0], [1, 0, 3, 2]])
def test_batch_mates_do_not_matter(rows: list[int]) -> None:
    together = trajectory(random_cloud(SIZES))
    assert trajectory(random_cloud(SIZES).index_select(rows)) == {row: together[row] for row in rows}


def test_nor_when_a_system_came() -> None:
    together = trajectory(random_cloud(SIZES), 40)
    dynamics = langevin()
    batch = random_cloud(SIZES).index_select([3, 0])
    dynamics.run(batch, 15)
    batch = batch.index_select([1])
    batch.append(random_cloud(SIZES).index_select([2]))
    dynamics._sync_state_to_batch(torch.tensor([1]), 1, batch)
    dynamics.run(batch, 25)
    assert bits(batch.index_select([0])["positions"]) + bits(batch.index_select([0])["velocities"]) == together[0]
    dynamics.run(batch, 15)
    assert bits(batch.index_select([1])["positions"]) + bits(batch.index_select([1])["velocities"]) == together[2]


def test_a_system_that_waits_takes_up_where_it_was() -> None:
    together = trajectory(random_cloud([3, 2]), 40)
    batch = random_cloud([3, 2])
    dynamics = langevin()
    batch["status"] = torch.zeros(2, 1, dtype=torch.int64)
    dynamics.run(batch, 10)
    batch["status"][1] = 1
    dynamics.run(batch, 7)
    batch["status"][1] = 0
    dynamics.run(batch, 30)
    assert bits(batch.index_select([1])["positions"]) + bits(batch.index_select([1])["velocities"]) == together[1]


@pytest.mark.parametrize("ids", [None, [[-1], [-1], [-1]]])
def test_systems_without_an_id_differ(ids: list[list[int]] | None) -> None:
    batch = random_cloud([1, 1, 1])
    batch["positions"].fill_(0.1)
    equal_masses(batch, 5.0)
    if ids is None:
        del batch["system_id"]
    else:
        batch["system_id"] = torch.tensor(ids)
    langevin().run(batch, 3)
    assert len({bits(row) for row in batch["positions"]}) == 3


def test_in_a_fused_stage() -> None:
    # Heat for 12 steps, then go on at constant energy; systems enter one after the other and do not see each other.
    def fused() -> FusedStage:
        return langevin(n_steps=12) + NVE(HarmonicTrap(), dt=1.0, n_steps=9)

    def run(rows: list[int], status: list[int]) -> Batch:
        batch = random_cloud(SIZES).index_select(rows)
        batch["status"] = torch.tensor(status).unsqueeze(1)
        return fused().run(batch)

    together = run([0, 1, 2, 3], [0, 1, 0, 1])
    for row, status in enumerate([0, 1, 0, 1]):
        alone = run([row], [status])
        for key in ("positions", "velocities"):
            assert bits(alone[key]) == bits(together.index_select([row])[key])
    total = together["energy"].flatten() + kinetic_energy_per_system(together)
    assert (together["status"] == 2).all()
    assert torch.isfinite(total).all()


# The rest


def test_parameters_for_each_system() -> None:
    many = langevin(dt=torch.tensor([1.0, 0.5]), temperature=torch.tensor([[100.0], [900.0]]), friction=torch.tensor([0.1, 0.2]))
    batch = random_cloud([3, 2])
    many.run(batch, 10)
    for row, (dt, temperature, friction) in enumerate([(1.0, 100.0, 0.1), (0.5, 900.0, 0.2)]):
        alone = random_cloud([3, 2]).index_select([row])
        langevin(dt=dt, temperature=temperature, friction=friction).run(alone, 10)
        # Only the last digits of what float32 tensors hold differ from Python's numbers.
        assert torch.allclose(alone["positions"], batch.index_select([row])["positions"], rtol=1e-5, atol=1e-6)


def test_fixed_components_stay_and_take_no_heat() -> None:
    batch = random_cloud([6] * 50)
    batch["fixed"] = torch.zeros(300, 3, dtype=torch.bool)
    batch["fixed"][::2, 1] = True
    start = batch["positions"].clone()
    dynamics = langevin(friction=0.2, temperature=300.0)
    dynamics.run(batch, 100)
    temperatures = []
    for _ in range(20):
        dynamics.run(batch, 20)
        temperatures.append(temperature_per_system(batch))
    assert torch.equal(batch["positions"] == start, batch["fixed"])
    mean = float(torch.stack(temperatures).mean())
    print(f"{mean:.1f} K over the components that move")
    assert mean == pytest.approx(300.0, rel=0.03)


def test_single_precision() -> None:
    single, double = random_cloud([3, 2], dtype=torch.float32), random_cloud([3, 2])
    for batch in (single, double):
        langevin().run(batch, 20)
    assert single["positions"].dtype == torch.float32
    assert torch.allclose(single["positions"].double(), double["positions"], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dt": 0.0}, "dt is 0.0; it is finite and above 0"),
        ({"temperature": -1.0}, "temperature is -1.0; it is finite and at least 0"),
        ({"friction": float("inf")}, "friction is inf; it is finite and at least 0"),
        ({"random_seed": -1}, "random_seed is -1"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        langevin(**options)


def test_one_temperature_too_many() -> None:
    with pytest.raises(ArgumentError, match="temperature was given for 3 systems, and 2 systems need it"):
        langevin(temperature=torch.tensor([1.0, 2.0, 3.0])).run(random_cloud([1, 1]), 1)
