"""Structures for model tests: molecules, clusters, slabs and bulk cells down to a few bohr, random but always the same.

All are made so that no two atoms, images included, come closer than a given distance, since sums of huge terms say nothing about formulas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.cluster import Octahedron

PBC = [(bool(code & 1), bool(code & 2), bool(code & 4)) for code in range(8)]


def random_cell(rng: np.random.Generator, length: float) -> np.ndarray:
    """A cell with vectors of about this length, angles from 60 to 120 degrees, left-handed half of the time."""
    while True:
        cell = length * (np.eye(3) + rng.uniform(-0.45, 0.45, (3, 3)))
        unit = cell / np.linalg.norm(cell, axis=1, keepdims=True)
        if abs(np.linalg.det(unit)) > 0.5:
            return cell if rng.random() < 0.5 else cell[[1, 0, 2]]


def random_structure(rng: np.random.Generator, elements: Sequence[str], n_atoms: int, nearest: float, pbc: tuple[bool, ...]) -> Atoms:
    """Atoms at random, no two closer than `nearest` Å, unwrapped, in a cell of a little over 2 nearest³ an atom."""
    length = 1.1 * nearest * (2.0 * n_atoms) ** (1 / 3)
    while True:
        cell = random_cell(rng, length)
        positions = _insert(rng, n_atoms, nearest, cell, pbc)
        if positions is not None:
            # Outside of the cell as often as inside.
            positions += rng.integers(-2, 3, (n_atoms, 3)) * np.array(pbc) @ cell
            return Atoms(rng.choice(elements, n_atoms), positions=positions, cell=cell, pbc=pbc)
        length *= 1.02


def _insert(rng: np.random.Generator, n_atoms: int, nearest: float, cell: np.ndarray, pbc: tuple[bool, ...]) -> np.ndarray | None:
    images = np.array(list(np.ndindex(5, 5, 5))) - 2
    images = images[(images[:, ~np.array(pbc)] == 0).all(axis=1)] @ cell
    if len(images) > 1 and np.sort(np.linalg.norm(images, axis=1))[1] < nearest:
        return None
    positions = np.zeros((0, 3))
    for _ in range(60 * n_atoms):
        new = rng.random(3) @ cell
        if (np.linalg.norm(positions[:, None] + images - new, axis=2) > nearest).all():
            positions = np.vstack([positions, new])
            if len(positions) == n_atoms:
                return positions
    return None


def rattled(atoms: Atoms, rng: np.random.Generator, by: float = 0.1) -> Atoms:
    atoms.positions += rng.normal(0, by, atoms.positions.shape)
    return atoms


def pair_structures(scale: float, seed: int = 0) -> list[Atoms]:
    """For potentials with one kind of atom whose minimum is near `scale` Å: clusters, all pbc combinations, cells below the cutoff."""
    rng = np.random.default_rng(seed)
    cluster = Octahedron("Cu", 3)
    cluster.positions *= scale / 2.55
    structures = [
        rattled(cluster, rng, 0.03 * scale),
        Atoms("Ar"),
        Atoms("Ar2", positions=[[0, 0, 0], [0, 0, scale]]),
        # A molecule in a cell that is not periodic has a volume and yet no stress.
        Atoms("Ar3", positions=rng.normal(size=(3, 3)) * scale, cell=np.eye(3) * 9 * scale),
        Atoms("Ar", cell=np.eye(3) * 1.05 * scale, pbc=True),
    ]
    structures += [random_structure(rng, ["Ar"], n, 0.92 * scale, pbc) for n, pbc in zip((2, 7, 4, 9, 3, 8, 5, 6), PBC, strict=True)]
    structures += [random_structure(rng, ["Ar"], n, 0.92 * scale, (True, True, True)) for n in (1, 2, 13)]
    return structures


def emt_structures(elements: Sequence[str], seed: int = 0) -> list[Atoms]:
    """Alloys, molecules on and off surfaces, isolated atoms, and random mixtures of all elements under all pbc combinations."""
    rng = np.random.default_rng(seed)
    alloy = bulk("Cu", cubic=True) * (2, 2, 2)
    alloy.numbers = rng.choice([29, 79], len(alloy))
    slab = fcc111("Pt", (2, 2, 3), vacuum=6)
    slab.pbc = (True, True, False)
    slab += Atoms("CO", positions=slab.positions[-1] + [[0, 0, 1.9], [0, 0, 3.05]])
    structures = [
        rattled(alloy, rng),
        Atoms("Au"),
        rattled(slab, rng, 0.05),
        rattled(Octahedron("Ag", 4, 1), rng),
        Atoms("N2", positions=[[0, 0, 0], [0, 0, 9.0]]),
        *(rattled(molecule(name), rng, 0.03) for name in ("CH3CH2OH", "NH3", "CO2")),
        *(rattled(bulk(metal), rng) for metal in ("Al", "Ni", "Pd", "Ag", "Pt", "Au")),
        # Neighbours at the very end of the cutoff function, on both sides of it.
        Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 5.85]]),
        Atoms("CuAu", positions=[[0, 0, 0], [5.88, 0, 0]]),
    ]
    structures += [random_structure(rng, elements, n, 1.4, pbc) for n, pbc in zip((6, 9, 4, 11, 3, 8, 5, 12), PBC, strict=True)]
    return structures


def crystals(names: Sequence[str], seed: int = 0) -> list[Atoms]:
    """Elemental crystals of the dcdft collection, rattled."""
    from ase.collections import dcdft

    rng = np.random.default_rng(seed)
    return [rattled(dcdft[name].copy(), rng, 0.03) for name in names]
