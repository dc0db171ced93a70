"""Whether the space group that a FixSymmetry of an input keeps can be kept: the structure must have it.

ASE's FixSymmetry holds operations of the structure it was made for. A relaxation finds them again, by spglib and with the same tolerance,
so a structure that was moved out of its group in between would silently keep a smaller one.
"""

from __future__ import annotations

import warnings
from typing import Any

from ase.constraints import FixSymmetry

from campaign.constraints import import_spglib
from campaign.structures.frame import Refusal, RefusalKind


def check_symmetry(atoms: Any, may_strain: bool = True) -> Refusal | None:
    """Return why the FixSymmetry of an `ase.Atoms` cannot be kept, or None if it can or there is none.

    `may_strain` says whether the cell may follow whatever strain its group leaves it.

    >>> from ase.build import bulk
    >>> atoms = bulk("Cu", cubic=True)
    >>> atoms.set_constraint(FixSymmetry(atoms))
    >>> atoms.positions[0] += 0.3
    >>> check_symmetry(atoms).text
    'its FixSymmetry keeps 192 operations, 6 are found in its positions with symprec = 0.01 Å; make the constraint anew, or remove it'
    """
    constraints = [constraint for constraint in atoms.constraints if isinstance(constraint, FixSymmetry)]
    if not constraints:
        return None
    if len(constraints) > 1:
        text = f"it has {len(constraints)} FixSymmetry constraints; one can be kept. Remove the others"
        return Refusal(RefusalKind.CONSTRAINT, text)
    if not may_strain:
        text = "constraint FixSymmetry and relax.strain_mask exclude each other: a cell may have to strain what is masked; leave one out"
        return Refusal(RefusalKind.CONSTRAINT, text)
    (constraint,) = constraints
    symprec = float(constraint.symprec)
    if not symprec > 0:
        return Refusal(RefusalKind.CONSTRAINT, f"its FixSymmetry has symprec = {symprec:g} Å; it must be above 0. Make it anew")
    wanted, found = len(constraint.rotations), _n_operations(atoms, symprec)
    if found == wanted:
        return None
    seen = f"its FixSymmetry keeps {wanted} operations, {found} are found in its positions with symprec = {symprec:g} Å"
    return Refusal(RefusalKind.CONSTRAINT, f"{seen}; make the constraint anew, or remove it")


def _n_operations(atoms: Any, symprec: float) -> int:
    """Return how many operations spglib finds, looking at the structure as ASE's constraint did: as a crystal."""
    spglib = import_spglib()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about how its next version says that there is none
        try:
            found = spglib.get_symmetry((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec)
        except Exception:  # which it raises then depends on its version
            found = None
    return 0 if found is None else len(found["rotations"])
