"""Structures that neighbour lists have gone wrong on, here or elsewhere: one table for all tests of this room."""

from __future__ import annotations

from itertools import product

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule

_RNG = np.random.default_rng(20260801)


def _random(n_atoms: int, cell: object, pbc: object, spread: float = 1.0) -> Atoms:
    """Atoms at random in, or with `spread` > 1 around, a cell."""
    fractional = (_RNG.random((n_atoms, 3)) - 0.5) * spread + 0.5
    full = np.array(Atoms(cell=cell).cell.complete())
    return Atoms(f"Ar{n_atoms}", positions=fractional @ full, cell=cell, pbc=pbc)


SKEWED = [[4.0, 0, 0], [3.7, 1.2, 0], [-3.1, 2.9, 1.6]]
"""Angles of 18° and less between vectors: the nearest image is not among the 27 nearest cells."""

STRUCTURES: dict[str, Atoms] = {
    # all eight combinations, with a cell that is smaller than the cutoff along two directions
    **{
        f"pbc {''.join('TF'[not p] for p in pbc)}": _random(7, [[3.1, 0.2, 0.0], [0.4, 4.2, -0.3], [0.1, 0.5, 9.0]], pbc)
        for pbc in product([True, False], repeat=3)
    },
    # the same with atoms up to five cells away from the cell
    **{
        f"unwrapped pbc {''.join('TF'[not p] for p in pbc)}": _random(
            6, [[3.1, 0.2, 0.0], [0.4, 4.2, -0.3], [0.1, 0.5, 9.0]], pbc, spread=10.0
        )
        for pbc in product([True, False], repeat=3)
    },
    # one atom in the smallest crystal there is: all neighbours are its own images
    "one atom, primitive cell": bulk("Cu"),
    # hundreds of images of a cell much smaller than the cutoff
    "tiny cell": _random(2, [[1.3, 0, 0], [0.2, 1.1, 0], [0, 0.3, 1.2]], True),
    "skewed": _random(5, SKEWED, True),
    "skewed and unwrapped": _random(5, SKEWED, True, spread=30.0),
    "skewed slab": _random(5, SKEWED, [True, True, False]),
    "skewed wire": _random(5, SKEWED, [False, True, False], spread=4.0),
    # vectors in another order span a left-handed cell
    "left-handed": _random(5, [[0, 4.0, 0.3], [3.5, 0, 0], [0, 0.2, 5.0]], True),
    # a cell is given, but nothing is periodic; some atoms are outside of it
    "molecule in a cell": _random(8, [5.0, 5.0, 5.0], False, spread=2.0),
    # no cell at all
    "molecule": molecule("C6H6"),
    # a slab as ASE makes it without vacuum: the third vector is zero
    "slab without a third vector": fcc111("Au", (2, 2, 3)),
    # a wire of which the other two vectors are zero
    "wire without other vectors": Atoms(
        "Au3", positions=[[0, 0, 0], [0.3, 1.1, 0.9], [9.0, 0.2, 1.8]], cell=[0, 0, 2.7], pbc=[False, False, True]
    ),
    # 10^4 Å: cells for a cell list would be countless, and in float32 distances wrong by 10^-3 Å
    "huge box": Atoms("Ar4", positions=[[1, 1, 1], [9999.5, 1, 1], [5000, 5000, 5000], [5000, 5000, 5002.5]], cell=[1e4] * 3, pbc=True),
    "huge distances": Atoms("Ar3", positions=[[0, 0, 0], [1e4, 0, 0], [1e4, 0, 3.0]]),
    # the pair at distance 0 is a pair; an atom with itself is not
    "two atoms on one spot": Atoms("Ar3", positions=[[1, 1, 1], [1, 1, 1], [2, 1, 1]], cell=[3.0, 3.0, 3.0], pbc=True),
    "two atoms on one spot, molecule": Atoms("Ar2", positions=[[0.5, 0, 0], [0.5, 0, 0]]),
    # two atoms that are images of each other
    "two atoms on one spot, a cell apart": Atoms("Ar2", positions=[[0, 0, 0], [9.0, 0, -3.0]], cell=[3.0, 3.0, 3.0], pbc=True),
    "one atom": Atoms("Ar", positions=[[3.0, 2.0, 1.0]]),
    "no neighbours": Atoms("Ar2", positions=[[0, 0, 0], [50.0, 0, 0]]),
    # on the faces of the cell, where wrapping decides by the last bit
    "on the faces": Atoms(
        "Ar4", positions=[[0, 0, 0], [4.0, 0, 0], [0, 4.0, 4.0], [-1e-17, 4.0 - 1e-16, 2.0]], cell=[4.0, 4.0, 4.0], pbc=True
    ),
    "rattled bulk": bulk("Cu", cubic=True) * (2, 2, 2),
    "rattled slab": fcc111("Au", (3, 3, 2), vacuum=6.0),
}
STRUCTURES["rattled bulk"].rattle(0.1, seed=3)
STRUCTURES["rattled slab"].rattle(0.1, seed=4)
