"""Lists of pairs (i, j, S) from elsewhere, and ours in the same form."""

from __future__ import annotations

from collections import Counter

import numpy as np
from ase import Atoms

from campaign.data import Batch
from campaign.neighbors import NeighborRows

Pairs = Counter[tuple[int, int, int, int, int]]

EDGE_ANG = 1e-7
"""Pairs this close to the cutoff may be in a list or not."""


def distances(pairs: np.ndarray, atoms: Atoms) -> np.ndarray:
    """Distance of each pair."""
    first, second, shifts = pairs[:, 0], pairs[:, 1], pairs[:, 2:]
    return np.linalg.norm(atoms.positions[second] + shifts @ atoms.cell.array - atoms.positions[first], axis=1)


def counted(pairs: np.ndarray) -> Pairs:
    """The multiset of pairs."""
    return Counter(map(tuple, pairs.tolist()))


def images(atoms: Atoms, cutoff: float) -> np.ndarray:
    """All pairs below the cutoff by trying every image that could be: slow and obvious."""
    periodic = np.array(atoms.pbc)
    vectors = np.where(periodic[:, None], atoms.cell.array, 0.0)
    duals = np.linalg.pinv(vectors).T
    difference = atoms.positions[None, :, :] - atoms.positions[:, None, :]
    nearest = -np.round(difference @ duals.T).astype(int)
    reach = np.where(periodic, np.ceil(cutoff * np.linalg.norm(duals, axis=1)).astype(int) + 1, 0)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    found = []
    for i in range(len(atoms)):
        for j in range(len(atoms)):
            shifts = nearest[i, j] + offsets
            length = np.linalg.norm(difference[i, j] + shifts @ vectors, axis=1)
            keep = (length < cutoff) & ((i != j) | shifts.any(axis=1))
            found.extend((i, j, *shift) for shift in shifts[keep].tolist())
    return np.array(found, dtype=int).reshape(-1, 5)


def of_system(rows: NeighborRows, batch: Batch, system: int) -> np.ndarray:
    """Our pairs of one system, counted from its own first atom, in the order of the rows."""
    start, stop = (int(p) for p in batch.atom_segments.ptr[system : system + 2])
    found = []
    for i in range(start, stop):
        n = int(rows.counts[i])
        neighbors, shifts = rows.matrix[i, :n].tolist(), rows.all_shifts[i, :n].tolist()
        found.extend((i - start, j - start, *shift) for j, shift in zip(neighbors, shifts, strict=True))
    return np.array(found, dtype=int).reshape(-1, 5)


def assert_same_pairs(ours: np.ndarray, theirs: np.ndarray, atoms: Atoms, cutoff: float) -> None:
    """Both are the same multiset of pairs, whatever they say about pairs at the cutoff."""

    def inside(pairs: np.ndarray) -> Pairs:
        return counted(pairs[distances(pairs, atoms) < cutoff - EDGE_ANG])

    missing, extra = inside(theirs) - inside(ours), inside(ours) - inside(theirs)
    assert not missing and not extra, f"missing {dict(missing)}, extra {dict(extra)}"
    assert (distances(ours, atoms) < cutoff + EDGE_ANG).all()
