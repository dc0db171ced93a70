"""The structures that are relaxed. Sizes follow a golden-ratio sequence: any number of first structures has about the mix of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.cluster import Icosahedron

from sides.exchange import Structures

ARGON: Final = {"epsilon": 0.0104, "sigma": 3.4, "rc": 3 * 3.4}
RATTLE_ANG: Final = {"argon": 0.1 * ARGON["sigma"], "alloy": 0.1}

# Contact distance of a pair in its minimum; a lattice constant of fcc is √2 times that.
_LATTICE_ARGON_ANG = 2 ** (1 / 6) * 2**0.5 * ARGON["sigma"]
_ALLOY_REPEATS = ((1, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 3), (2, 3, 3), (3, 3, 3), (3, 3, 4), (3, 4, 4), (4, 4, 4))
_LATTICE_ANG = {"Cu": 3.59, "Au": 4.06}


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of structures with its potential."""

    what: str
    potential: str
    options: dict[str, float]
    make: Callable[[int, np.random.Generator], Atoms]
    """The i-th structure."""

    def structures(self, count: int) -> Structures:
        """Return the first `count` structures; structure i is the same whatever `count` is."""
        made = [self.make(i, np.random.default_rng([7, i])) for i in range(count)]
        return Structures(
            n_atoms=np.array([len(atoms) for atoms in made]),
            numbers=np.concatenate([atoms.numbers for atoms in made]),
            positions=np.concatenate([atoms.positions for atoms in made]),
            cell=np.array([atoms.cell.array for atoms in made]),
            pbc=np.array([atoms.pbc for atoms in made]),
        )


def _share(i: int) -> float:
    return (0.5 + i * (5**0.5 - 1) / 2) % 1


def _icosahedron() -> Any:
    positions = Icosahedron("Ar", 3, latticeconstant=_LATTICE_ARGON_ANG).positions
    return positions[np.argsort(np.linalg.norm(positions - positions.mean(0), axis=1).round(6), kind="stable")]


_SITES = _icosahedron()


def argon_cluster(i: int, rng: np.random.Generator) -> Atoms:
    """Return the innermost 13 to 55 atoms of an icosahedron, rattled."""
    n_atoms = 13 + int(43 * _share(i))
    return Atoms(numbers=[18] * n_atoms, positions=_SITES[:n_atoms] + rng.normal(scale=RATTLE_ANG["argon"], size=(n_atoms, 3)))


def argon_crystal(i: int, rng: np.random.Generator) -> Atoms:
    """Return an fcc crystal of 32 or 108 atoms, rattled."""
    atoms = bulk("Ar", "fcc", a=_LATTICE_ARGON_ANG, cubic=True) * ((2, 2, 2), (3, 3, 3))[i % 2]
    atoms.positions += rng.normal(scale=RATTLE_ANG["argon"], size=(len(atoms), 3))
    return atoms


def copper_gold(i: int, rng: np.random.Generator) -> Atoms:
    """Return an fcc solid solution of 8 to 256 atoms and random composition, rattled, at the lattice constant of the mean."""
    repeats = _ALLOY_REPEATS[int(len(_ALLOY_REPEATS) * _share(i))]
    n_atoms = 4 * int(np.prod(repeats))
    is_gold = rng.permutation(n_atoms) < rng.integers(0, n_atoms + 1)
    lattice = _LATTICE_ANG["Cu"] + (_LATTICE_ANG["Au"] - _LATTICE_ANG["Cu"]) * is_gold.mean()
    atoms = bulk("Cu", "fcc", a=lattice, cubic=True) * repeats
    atoms.numbers[is_gold] = 79
    atoms.positions += rng.normal(scale=RATTLE_ANG["alloy"], size=(n_atoms, 3))
    return atoms


def heavy_tailed(i: int, rng: np.random.Generator) -> Atoms:
    """Return 1 to 500 atoms of an argon crystal, hardly rattled; one in ten is a cloud of atoms instead, which takes 20 times the steps."""
    if i % 10 == 3:
        positions = _cloud(60 + int(81 * _share(i)), rng)
    else:
        n_atoms = round(500 ** _share(i))
        positions = _nearest_sites(n_atoms, rng) + rng.normal(scale=0.01 * ARGON["sigma"], size=(n_atoms, 3))
    return Atoms(numbers=[18] * len(positions), positions=positions)


def _nearest_sites(n_atoms: int, rng: np.random.Generator) -> Any:
    """Return the sites of a crystal that are nearest to a point."""
    sites = bulk("Ar", "fcc", a=_LATTICE_ARGON_ANG, cubic=True) * (8, 8, 8)
    point = sites.cell.sum(0) / 2 + rng.uniform(size=3) * _LATTICE_ARGON_ANG
    return sites.positions[np.argsort(np.linalg.norm(sites.positions - point, axis=1))[:n_atoms]]


def _cloud(n_atoms: int, rng: np.random.Generator) -> Any:
    """Return atoms at random in a sphere, a tenth as dense as sigma^-3, none closer than 0.9 sigma to another."""
    radius = (30 * n_atoms / (4 * np.pi)) ** (1 / 3) * ARGON["sigma"]
    positions = np.empty((0, 3))
    while len(positions) < n_atoms:
        one = rng.uniform(-radius, radius, size=3)
        if np.linalg.norm(one) < radius and (np.linalg.norm(positions - one, axis=1) > 0.9 * ARGON["sigma"]).all():
            positions = np.vstack([positions, one])
    return positions


WORKLOADS: Final = {
    "A": Workload("LJ argon clusters of 13–55 atoms", "lj", ARGON, argon_cluster),
    "B": Workload("periodic LJ argon, 32 and 108 atoms", "lj", ARGON, argon_crystal),
    "C": Workload("EMT Cu–Au supercells of 8–256 atoms", "emt", {}, copper_gold),
    "D": Workload("LJ argon of 1–500 atoms, a tenth of them with 20 times the steps", "lj", ARGON, heavy_tailed),
    "H": Workload("those of B, with hooks and without", "lj", ARGON, argon_crystal),
}
