"""Lennard-Jones: what the formula says by hand. Agreement with ASE and the contract are in test_analytic.py."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from campaign.errors import SpecError
from campaign.models.lennard_jones import LennardJonesModel
from campaign.testing.model_contract import evaluate


@pytest.mark.parametrize(("epsilon", "sigma"), [(1.0, 1.0), (0.0103, 3.4)])
def test_minimum_is_at_two_to_the_sixth(epsilon: float, sigma: float) -> None:
    pair = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 2 ** (1 / 6) * sigma]])
    (own,) = evaluate(LennardJonesModel(epsilon, sigma, rc=100 * sigma), [pair])
    print(f"depth {own['energy'][0]} eV, -{epsilon} eV by hand")
    assert own["energy"][0] == pytest.approx(-epsilon, rel=1e-11)
    assert np.abs(own["forces"]).max() < 1e-13


def test_energy_is_zero_at_sigma_apart_from_the_shift() -> None:
    (own,) = evaluate(LennardJonesModel(rc=3.0), [Atoms("Ar2", positions=[[0, 0, 0], [1, 0, 0]])])
    assert own["energy"][0] == pytest.approx(-4 * (3.0**-12 - 3.0**-6), abs=1e-15)
    assert own["forces"][0].tolist() == [-24.0, 0.0, 0.0]


def test_energy_goes_to_zero_at_the_cutoff_and_stays_there() -> None:
    pairs = [Atoms("Ar2", positions=[[0, 0, 0], [r, 0, 0]]) for r in (3.0 - 1e-9, 3.0 + 1e-9, 4.0)]
    below, above, far = evaluate(LennardJonesModel(), pairs, skin_ang=2.0)
    assert abs(below["energy"][0]) < 1e-10
    assert above["energy"][0] == far["energy"][0] == 0.0
    assert below["forces"][0, 0] > 0.01
    assert not above["forces"].any()


def test_smooth_cutoff_takes_force_to_zero_too() -> None:
    pairs = [Atoms("Ar2", positions=[[0, 0, 0], [r, 0, 0]]) for r in (2.5 - 1e-6, 2.5 + 1e-6)]
    for own in evaluate(LennardJonesModel(rc=2.5, ro=2.0, smooth=True), pairs, skin_ang=1.0):
        assert abs(own["energy"][0]) < 1e-9
        assert np.abs(own["forces"]).max() < 1e-4


def test_known_clusters_have_their_published_energies() -> None:
    # Regular bodies scaled to their best size; the icosahedron of 13 is the published minimum, -44.326801 (Cambridge Cluster Database).
    from ase.cluster import Icosahedron

    icosahedron = Icosahedron("Ar", 2)
    model = LennardJonesModel(rc=1000.0)
    inner = np.linalg.norm(icosahedron.positions - icosahedron.positions.mean(axis=0), axis=1)
    shapes = []
    for size in np.linspace(1.05, 1.12, 1401):
        shape = icosahedron.copy()
        shape.positions *= size / np.sort(inner)[1]
        shapes.append(shape)
    best = min(float(own["energy"][0]) for own in evaluate(model, shapes))
    print(f"LJ13: {best:.6f} ε, published -44.326801 ε")
    assert best == pytest.approx(-44.326801, abs=2e-6)


@pytest.mark.parametrize("options", [{"epsilon": 0}, {"sigma": -1.0}, {"rc": float("inf")}, {"rc": 2.0, "ro": 2.0}, {"smooth": "yes"}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=r"lj was given .* positive, .* Mend"):
        LennardJonesModel(**options)
