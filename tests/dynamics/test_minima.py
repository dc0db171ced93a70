"""Lennard-Jones clusters reach the minima that are published in the Cambridge Cluster Database (doye.chem.ox.ac.uk/jon/structures/LJ.html).

Units are ε and σ. No pair is beyond the cutoff, since the database has none; of ASE's shift at the cutoff, ε per pair times
4 (rc⁻¹² − rc⁻⁶), some 1e-12 is left.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from relax_structures import relax, to_batch

from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome

RC = 100.0


def random_starts(n_atoms: int, n_starts: int, seed: int) -> list[Atoms]:
    """Return atoms thrown into a ball with room for twice as many."""
    rng = np.random.default_rng(seed)
    radius = (2 * n_atoms / 4 * 0.75) ** (1 / 3) * 1.2
    starts = []
    for _ in range(n_starts):
        direction = rng.normal(size=(n_atoms, 3))
        direction /= np.linalg.norm(direction, axis=1)[:, None]
        starts.append(Atoms(numbers=[18] * n_atoms, positions=direction * radius * rng.random((n_atoms, 1)) ** (1 / 3)))
    return starts


@pytest.mark.parametrize(("n_atoms", "published"), [(7, -16.505384), (13, -44.326801)])
def test_best_of_200_random_starts(n_atoms: int, published: float) -> None:
    model = LennardJonesModel(rc=RC, sigma=1.0, epsilon=1.0)
    relaxed = relax(model, to_batch(random_starts(n_atoms, 200, seed=7)), fmax=1e-5, max_steps=5000, limits={"max_systems": 200})
    energy = relaxed.batch["energy"].view(-1).numpy()
    converged = np.array([outcome is Outcome.CONVERGED for outcome in relaxed.outcomes])
    print(f"LJ{n_atoms}: {energy[converged].min():.6f} ε of {converged.sum()} converged, published {published:.6f} ε")
    assert energy[converged].min() == pytest.approx(published, abs=1e-6)


def test_truncated_octahedron_of_38() -> None:
    crystal = bulk("Ar", "fcc", a=2**0.5 * 2 ** (1 / 6), cubic=True) * (4, 4, 4)
    positions = crystal.positions - crystal.positions.mean(axis=0)
    # Octahedral interstice as the centre: 6 + 8 + 24 atoms make the fcc truncated octahedron.
    centre = positions[np.argmin(np.linalg.norm(positions, axis=1))] + np.array([0.5, 0.0, 0.0]) * 2**0.5 * 2 ** (1 / 6)
    order = np.argsort(np.linalg.norm(positions - centre, axis=1), kind="stable")[:38]
    cluster = Atoms(numbers=[18] * 38, positions=positions[order] + np.random.default_rng(1).normal(scale=0.05, size=(38, 3)))
    relaxed = relax(LennardJonesModel(rc=RC, sigma=1.0, epsilon=1.0), to_batch([cluster]), fmax=1e-5, max_steps=5000)
    energy = float(relaxed.batch["energy"])
    print(f"LJ38: {energy:.6f} ε, published -173.928427 ε")
    assert relaxed.outcomes == [Outcome.CONVERGED]
    assert energy == pytest.approx(-173.928427, abs=2e-6)
    assert torch.isfinite(relaxed.batch["positions"]).all()
