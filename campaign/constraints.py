"""What ASE's constraints hold of a structure, as the fields of a store say it: `fixed` per atom, `symprec` per structure.

fixed     Cartesian components that may not move: FixAtoms, FixCartesian
symprec   tolerance in Å of the space group that is kept: FixSymmetry; 0 where none is
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixSymmetry
from jaxtyping import Bool
from numpy import ndarray

from campaign.errors import MissingDependencyError

__all__ = ["constraints_from_fields", "constraints_from_mask", "import_spglib", "symprec_of"]


def symprec_of(atoms: Atoms) -> float:
    """Return the tolerance in Å of the space group that a FixSymmetry of `atoms` keeps; 0 without one.

    `adjust_positions` and `adjust_cell` mend steps that are not symmetric by themselves; ours follow averaged forces and stress, and are.
    """
    return max((float(constraint.symprec) for constraint in atoms.constraints if isinstance(constraint, FixSymmetry)), default=0.0)


def constraints_from_fields(atoms: Atoms, fixed: Bool[ndarray, "A 3"] | None, symprec: float) -> list[Any]:
    """Return the constraints that hold what the fields say; `atoms` has neither them nor others, and is not changed.

    A structure of which spglib finds no group any more, such as one that has diverged, gets no FixSymmetry. Making one takes seconds for
    supercells with thousands of operations.

    Raises:
        MissingDependencyError: a space group is to be kept and spglib is not installed.

    >>> from ase.build import bulk
    >>> [len(constraint.rotations) for constraint in constraints_from_fields(bulk("Cu"), None, 0.01)]
    [48]
    """
    constraints: list[Any] = [] if fixed is None else list(constraints_from_mask(fixed))
    if symprec > 0:
        import_spglib()
        # It moves what it is given to the nearest symmetric structure, and keeps a copy in whatever file it is written to.
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        try:
            constraints.append(FixSymmetry(bare, symprec=symprec))
        except Exception:  # what spglib and ASE raise where there is no group depends on their versions
            return constraints
    return constraints


def constraints_from_mask(fixed: Bool[ndarray, " A 3"]) -> list[FixAtoms | FixCartesian]:
    """Return constraints that hold the components which are true in `fixed`: one for whole atoms, one for each other pattern.

    >>> constraints_from_mask(np.array([[True, True, True], [False, False, False]]))[0].index.tolist()
    [0]
    """
    constraints: list[FixAtoms | FixCartesian] = []
    for mask in np.unique(fixed, axis=0)[::-1]:
        atoms = np.flatnonzero((fixed == mask).all(axis=1))
        if mask.all():
            constraints.append(FixAtoms(indices=atoms))
        elif mask.any():
            constraints.append(FixCartesian(atoms, mask=mask))
    return constraints


def import_spglib() -> Any:
    """Return spglib.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import spglib
    except ImportError as error:
        raise MissingDependencyError(
            "space groups, which relax.fix_symmetry and the FixSymmetry of an input keep, are found by spglib, which is not installed. "
            "Run: pip install 'relax-campaign[analysis]'"
        ) from error
    return spglib
