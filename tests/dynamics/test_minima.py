"""Lennard-Jones clusters reach the published minima (Wales and Doye, J. Phys. Chem. A 101, 5111 (1997); Cambridge Cluster Database).

The cutoff of 100 σ shifts pair energies by 4e-12 ε, so nothing is truncated. Starts are random, from the seeds below and no others tried
for luck: of the seeds 0, 1, 2 each finds LJ7 in at least 61 and LJ13 in at least 32 of 200 starts.
"""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.cluster import Octahedron
from relax_structures import relax, to_batch

from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome


def random_starts(n_atoms: int, count: int, radius: float, seed: int) -> list[Atoms]:
    """Return atoms thrown into a sphere, none closer to another than 0.7 σ."""
    rng = np.random.default_rng(seed)
    starts = []
    for _ in range(count):
        positions: list[np.ndarray] = []
        while len(positions) < n_atoms:
            x = rng.uniform(-radius, radius, 3)
            if np.linalg.norm(x) < radius and all(np.linalg.norm(x - other) > 0.7 for other in positions):
                positions.append(x)
        starts.append(Atoms(numbers=[18] * n_atoms, positions=positions))
    return starts


@pytest.mark.parametrize(("n_atoms", "radius", "published"), [(7, 1.4, -16.505384), (13, 1.6, -44.326801)])
def test_best_of_200_random_starts_in_one_batch(n_atoms: int, radius: float, published: float) -> None:
    batch = to_batch(random_starts(n_atoms, 200, radius, seed=0))
    relaxed = relax(LennardJonesModel(rc=100.0), batch, fmax=1e-5, max_steps=3000)
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}
    best = float(relaxed.batch["energy"].min())
    n_hits = int((relaxed.batch["energy"] < best + 1e-6).sum())
    print(f"LJ{n_atoms}: {best:.6f} ε, published {published} ε, {n_hits} of 200")
    assert best == pytest.approx(published, abs=1e-6)


def test_lj38_from_rattled_truncated_octahedra() -> None:
    perfect = Octahedron("Ar", 4, cutoff=1, latticeconstant=2 ** (1 / 6) * 2**0.5)
    assert len(perfect) == 38
    starts = []
    for seed in range(4):
        atoms = perfect.copy()
        atoms.rattle(0.08, seed=seed)
        starts.append(atoms)
    relaxed = relax(LennardJonesModel(rc=100.0), to_batch(starts), fmax=1e-5, max_steps=2000)
    energies = relaxed.batch["energy"].view(-1).tolist()
    print("LJ38:", energies, "published -173.928427 ε")
    assert energies == pytest.approx([-173.928427] * 4, abs=1e-6)
