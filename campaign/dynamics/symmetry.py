"""Space groups that a relaxation keeps: found once per structure, then forces and stress are averaged over their operations at each step.

What an optimizer follows is linear in forces and stress, so with averaged ones a structure never leaves its group, and converged is where
the averaged ones vanish, as with ASE's FixSymmetry. The forces and the stress that are stored stay as the model gave them.

A group may have thousands of operations (those of a lattice times the cells of a supercell), and each permutes the atoms; none of that is
kept. With orbits of atoms, h_j for an operation that takes the root r of an orbit to its atom j, and S for the mean rotation of the
operations that leave r where it is, the average over the whole group is

    f_r = S Σ_j R(h_j)ᵀ f_j / |orbit|,    f_j = R(h_j) f_r.

So each atom needs the number of its root and one matrix: R(h_j), or S/|orbit| where it is a root itself. The stress of a system needs the
9 × 9 matrix of the mean of R ⊗ R. A strain that is invariant under R commutes with it, so none of these change while the cell relaxes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from campaign.constraints import import_spglib
from campaign.data import Batch
from campaign.data.warp_interop import launch, precision_of
from campaign.dynamics.symmetry_kernel import symmetrise_kernel

__all__ = [
    "SYMMETRY_KEYS",
    "SYMMETRY_TOLERANCE_ANG",
    "Orbits",
    "find_orbits",
    "follow_symmetry",
    "followed_keys",
    "keep_symmetry",
    "symmetrise",
    "symmetry_arguments",
]

SYMMETRY_TOLERANCE_ANG: Final = 1e-5
"""How far atoms may be from where an operation takes them, unless a FixSymmetry says so; what is farther off keeps a smaller group."""

ROOT, MATRIX, PROJECTOR = "_orbit_root", "_orbit_matrix", "_strain_projector"
FORCES, STRESS = "_followed_forces", "_followed_stress"
SYMMETRY_KEYS: Final = frozenset({ROOT, MATRIX, PROJECTOR, FORCES, STRESS})
"""Keys of a batch in which systems keep their symmetry; the last two while they are in flight."""

_VACUUM_ANG: Final = 20.0


@dataclass(frozen=True, slots=True)
class Orbits:
    """How to average over the group of one structure; see above."""

    n_operations: int
    root: Int[ndarray, " A"]
    matrix: Float[ndarray, "A 3 3"]
    projector: Float[ndarray, "9 9"]


def find_orbits(
    numbers: Int[ndarray, " A"],
    positions: Float[ndarray, "A 3"],
    cell: Float[ndarray, "3 3"],
    pbc: Bool[ndarray, "3"],
    fixed: Bool[ndarray, "A 3"],
    symprec: float = SYMMETRY_TOLERANCE_ANG,
) -> Orbits:
    """Return the orbits of a structure under the operations of its space group that also keep its fixed components and periodic directions.

    Where it is not periodic, it is looked at in a box with vacuum: of a molecule or wire only those operations are found that keep
    that box, which has edges along the axes.

    Raises:
        MissingDependencyError: spglib is not installed.
    """
    n = len(numbers)
    frame = _frame(positions, cell, pbc)
    trivial = Orbits(1, np.arange(n), np.broadcast_to(np.eye(3), (n, 3, 3)).copy(), np.eye(9))
    if n == 0 or np.linalg.matrix_rank(frame) < 3:
        return trivial
    fractional = positions @ np.linalg.inv(frame)
    # Atoms that are fixed in different ways are atoms of different kinds.
    kinds = np.unique(np.column_stack([numbers, fixed]), axis=0, return_inverse=True)[1].reshape(n)
    found = _operations(frame, fractional, kinds, symprec)
    if found is None:
        return trivial
    turns, shifts = found
    rotations = _nearest_rotations(frame.T @ turns @ np.linalg.inv(frame.T))
    basis = np.linalg.qr(frame[pbc].T)[0]
    kept = np.ones(len(rotations), dtype=bool)
    for tensor in (basis @ basis.T, *(np.diag(pattern.astype(float)) for pattern in np.unique(fixed, axis=0))):
        kept &= np.abs(rotations @ tensor - tensor @ rotations).max(axis=(1, 2)) < 1e-6
    turns, shifts, rotations = turns[kept], shifts[kept], rotations[kept]

    root = np.full(n, -1)
    matrix = np.empty((n, 3, 3))
    for first in range(n):
        if root[first] >= 0:
            continue
        images = turns @ fractional[first] + shifts
        alike = np.flatnonzero(kinds == kinds[first])
        apart = images[:, None] - fractional[alike]
        apart -= np.round(apart)
        reached = alike[np.argmin(np.linalg.norm(apart @ frame, axis=2), axis=1)]
        orbit, operation = np.unique(reached, return_index=True)
        root[orbit] = first
        matrix[orbit] = rotations[operation]
        matrix[first] = rotations[reached == first].mean(axis=0) / len(orbit)
    distinct = np.unique(turns, axis=0, return_index=True)[1]
    projector = np.mean([np.kron(rotations[k], rotations[k]) for k in distinct], axis=0)
    return Orbits(len(rotations), root, matrix, projector)


def _operations(
    frame: Float[ndarray, "3 3"], fractional: Float[ndarray, "A 3"], kinds: Int[ndarray, " A"], symprec: float
) -> tuple[Float[ndarray, "M 3 3"], Float[ndarray, "M 3"]] | None:
    """Return rotations and translations on fractional coordinates; None where spglib finds no group, as with atoms in one place."""
    spglib = import_spglib()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about how its next version says that there is none
        try:
            found = spglib.get_symmetry((frame, fractional, kinds), symprec=symprec)
        except Exception:  # which it raises then depends on its version
            return None
    return None if found is None else (np.asarray(found["rotations"], dtype=np.float64), np.asarray(found["translations"]))


def keep_symmetry(batch: Batch, everyone: bool) -> None:
    """Give a batch the keys by which systems keep the symmetry that they have now: those whose `symprec` says so, or all of them.

    Systems that keep none have the root 0, as those have that are appended to such a batch without these keys.

    Raises:
        MissingDependencyError: spglib is not installed.
    """
    n, lengths = batch.num_graphs, batch.atom_segments.lengths
    own = batch["symprec"].view(-1).cpu().numpy().astype(np.float64) if "symprec" in batch else np.zeros(n)
    symprec = np.where(own > 0, own, SYMMETRY_TOLERANCE_ANG if everyone else 0.0)
    if not symprec.any():
        return
    values = {key: batch[key].cpu().numpy() for key in ("atomic_numbers", "positions", "cell", "pbc", "fixed")}
    ends = np.cumsum(lengths)
    root = np.zeros(batch.num_nodes, dtype=np.int32)
    matrix, projector = np.zeros((batch.num_nodes, 3, 3)), np.zeros((n, 9, 9))
    for row in np.flatnonzero(symprec):
        atoms = slice(ends[row] - lengths[row], ends[row])
        orbits = find_orbits(
            values["atomic_numbers"][atoms].reshape(-1),
            values["positions"][atoms].astype(np.float64),
            values["cell"][row].astype(np.float64),
            values["pbc"][row],
            values["fixed"][atoms],
            float(symprec[row]),
        )
        root[atoms], matrix[atoms], projector[row] = orbits.root + 1, orbits.matrix, orbits.projector
    real = {"dtype": batch["positions"].dtype, "device": batch.device}
    batch.add_key(ROOT, torch.as_tensor(root, device=batch.device).view(-1, 1), "atom", overwrite=True)
    batch.add_key(MATRIX, torch.as_tensor(matrix, **real), "atom", overwrite=True)
    batch.add_key(PROJECTOR, torch.as_tensor(projector, **real), "system", overwrite=True)


def follow_symmetry(batch: Batch) -> None:
    """Make what optimizers follow in a batch that has changed; the keys of one in which nobody keeps symmetry are taken away."""
    if ROOT not in batch:
        return
    if not batch[ROOT].any():
        for key in SYMMETRY_KEYS:
            if key in batch:
                del batch[key]
        return
    batch.add_key(FORCES, torch.zeros_like(batch["forces"]), "atom", overwrite=True)
    batch.add_key(STRESS, torch.zeros_like(batch["stress"]), "system", overwrite=True)
    symmetrise(batch)


def followed_keys(batch: Batch) -> tuple[str, str]:
    """Return the keys of the forces and the stress that optimizers follow: the averaged ones where symmetry is kept."""
    return (FORCES, STRESS) if FORCES in batch else ("forces", "stress")


def symmetrise(batch: Batch) -> None:
    """Average forces and stress anew, if systems of the batch keep their symmetry."""
    if FORCES in batch:
        kernel = symmetrise_kernel(precision_of(batch["positions"].dtype))
        launch(kernel, batch.num_graphs, [batch.batch_ptr, *symmetry_arguments(batch)], batch.device)


def symmetry_arguments(batch: Batch) -> list[Tensor]:
    """Return the arguments of `average_function` after `ptr`, for a batch in which somebody keeps symmetry."""
    return [batch[key] for key in (ROOT, MATRIX, PROJECTOR, "forces", "stress", FORCES, STRESS)]


def _frame(positions: Float[ndarray, "A 3"], cell: Float[ndarray, "3 3"], pbc: Bool[ndarray, "3"]) -> Float[ndarray, "3 3"]:
    """Return the periodic cell vectors, completed by vectors at right angles to them that are longer than the structure."""
    frame = np.array(cell, dtype=np.float64)
    free = np.flatnonzero(~pbc)
    if len(free):
        beside = np.eye(3) if len(free) == 3 else np.linalg.svd(frame[pbc])[2][3 - len(free) :]
        extent = np.ptp(positions @ beside.T, axis=0).max(initial=0.0)
        frame[free] = beside * (extent + _VACUUM_ANG)
    return frame


def _nearest_rotations(near: Float[ndarray, "M 3 3"]) -> Float[ndarray, "M 3 3"]:
    """Return the orthogonal matrices nearest to some that are so up to the tolerance."""
    left, _, right = np.linalg.svd(near)
    return np.asarray(left @ right)
