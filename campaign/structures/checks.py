"""Which structures can be relaxed at all; every other one is refused with a reason, before anybody pays for it.

Nothing is repaired here: a structure is taken as it is or not at all.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane, FixScaled, FixSymmetry
from ase.data import chemical_symbols
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial import cKDTree

from campaign.structures.frame import Refusal, RefusalKind
from campaign.structures.symmetry import check_symmetry

OVERLAP_ANG: Final = 0.25
"""Two atoms, periodic images included, that are closer are on one spot; the shortest bond there is, H₂, has 0.74 Å."""

FAR_ANG: Final = 1e7
"""No atom and no cell vector is farther away; beyond, float64 positions lose the digits that forces need."""

FLAT: Final = 1e-4
"""Smallest singular value of the periodic cell vectors, scaled to length 1, below which they are linearly dependent."""

_MANY_IMAGES: Final = 10**8
_CROWD: Final = 16  # so many atoms within 0.25 Å cannot be without two on one spot


def check_structure(atoms: Any, elements: frozenset[int] | None, may_strain: bool = True) -> Refusal | None:
    """Return why an `ase.Atoms` cannot be relaxed with a model that knows `elements` (None: all), or None if it can.

    `may_strain` says whether cells may follow all strains, as those that keep their symmetry must.

    >>> from ase.build import bulk
    >>> check_structure(bulk("Xe", "fcc", a=6.2), frozenset({29, 79})).text
    'the model does not know Xe; it knows Cu, Au. Choose another model or leave the structure out'
    """
    if len(atoms) == 0:
        return Refusal(RefusalKind.NO_ATOMS, "the structure has no atoms; remove it")
    refusal = _check_finite(atoms)
    if refusal is not None:
        return refusal
    refusal = _check_elements(np.asarray(atoms.numbers), elements) or _check_cell(atoms.cell.array, atoms.pbc)
    if refusal is not None:
        return refusal
    _, refusal = fixed_components(atoms)
    if refusal is not None:
        return refusal
    try:
        pair = find_overlap(atoms.positions, atoms.cell.array, atoms.pbc, OVERLAP_ANG)
    except ValueError as error:
        return Refusal(RefusalKind.CELL, str(error))
    if pair is not None:
        first, second, distance_ang = pair
        itself = f"atom {first} is {distance_ang:.3g} Å from its own image"
        seen = itself if first == second else f"atoms {first} and {second} are {distance_ang:.3g} Å apart"
        return Refusal(RefusalKind.OVERLAP, f"{seen}, less than {OVERLAP_ANG} Å; remove one or mend the cell")
    return check_symmetry(atoms, may_strain)


def is_finite(atoms: Any) -> bool:
    """Tell whether all numbers of a structure are finite, so that it can be stored even if it is refused."""
    return all(np.isfinite(values).all() for values in (*_per_atom(atoms).values(), atoms.cell.array))


def _per_atom(atoms: Any) -> dict[str, ndarray[Any, Any]]:
    return {
        "position": atoms.positions,
        "mass": atoms.get_masses(),
        "initial charge": atoms.get_initial_charges(),
        "initial magnetic moment": atoms.get_initial_magnetic_moments(),
    }


def _check_finite(atoms: Any) -> Refusal | None:
    for name, values in _per_atom(atoms).items():
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(atoms), -1).all(axis=1))
        if len(bad):
            return Refusal(RefusalKind.NOT_FINITE, f"{name} of atom {bad[0]} is {np.asarray(values[bad[0]]).tolist()}; give finite numbers")
    if not np.isfinite(atoms.cell.array).all():
        return Refusal(RefusalKind.NOT_FINITE, "the cell has entries that are not finite; give finite numbers")
    far = max(np.abs(atoms.positions).max(), np.abs(atoms.cell.array).max())
    if far > FAR_ANG:
        return Refusal(RefusalKind.NOT_FINITE, f"a coordinate or cell entry is {far:.3g} Å, beyond {FAR_ANG:.0e} Å; mend it")
    light = np.flatnonzero(atoms.get_masses() <= 0)
    if len(light):
        return Refusal(RefusalKind.NOT_FINITE, f"mass of atom {light[0]} is {atoms.get_masses()[light[0]]:g}; masses are positive")
    return None


def _check_elements(numbers: ndarray[Any, Any], elements: frozenset[int] | None) -> Refusal | None:
    outside = np.flatnonzero((numbers < 1) | (numbers >= len(chemical_symbols)))
    if len(outside):
        return Refusal(
            RefusalKind.ELEMENT, f"atom {outside[0]} has atomic number {numbers[outside[0]]}, which is no element; name the element"
        )
    unknown = sorted(set(numbers.tolist()) - elements) if elements is not None else []
    if unknown:
        known = ", ".join(chemical_symbols[number] for number in sorted(elements or ())[:20])
        names = ", ".join(chemical_symbols[number] for number in unknown[:5])
        more = ", …" if len(elements or ()) > 20 else ""
        text = f"the model does not know {names}; it knows {known}{more}. Choose another model or leave the structure out"
        return Refusal(RefusalKind.ELEMENT, text)
    return None


def _check_cell(cell: Float[ndarray, "3 3"], pbc: Bool[ndarray, "3"]) -> Refusal | None:
    vectors = cell[np.asarray(pbc, dtype=bool)]
    lengths = np.linalg.norm(vectors, axis=1)
    if len(vectors) and (lengths.min() == 0 or np.linalg.svd(vectors / lengths[:, None], compute_uv=False)[-1] < FLAT):
        axes = "".join("TF"[not flag] for flag in pbc)
        return Refusal(RefusalKind.CELL, f"the cell has no volume along its periodic directions ({axes}); set the cell, or pbc to false")
    return None


def fixed_components(atoms: Any) -> tuple[Bool[ndarray, "A 3"], Refusal | None]:
    """Return which Cartesian components the constraints hold, or why they cannot be kept.

    FixAtoms and FixCartesian as they are; FixScaled (POSCAR's selective dynamics), FixedPlane and FixedLine where they are along x, y, z.
    FixSymmetry holds none.

    >>> from ase import Atoms
    >>> fixed_components(Atoms("Cu", constraint=FixedPlane(0, (0, 0, 1))))[0].tolist()
    [[False, False, True]]
    """
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixSymmetry):
            continue
        mask = _fixed_mask(constraint, atoms.cell.array)
        index = np.asarray(getattr(constraint, "index", ()), dtype=np.int64)
        if mask is None:
            kept = "FixAtoms, FixCartesian and FixSymmetry can, FixScaled, FixedPlane and FixedLine along x, y, z"
            text = f"constraint {type(constraint).__name__} cannot be kept; {kept}"
            return fixed, Refusal(RefusalKind.CONSTRAINT, text)
        if len(index) and (index.min() < 0 or index.max() >= len(atoms)):
            text = f"constraint {type(constraint).__name__} names atom {index.max()} of {len(atoms)}; mend its indices"
            return fixed, Refusal(RefusalKind.CONSTRAINT, text)
        fixed[index] |= mask
    return fixed, None


def _fixed_mask(constraint: Any, cell: Float[ndarray, "3 3"]) -> Bool[ndarray, "3"] | None:
    if isinstance(constraint, FixAtoms):
        return np.ones(3, dtype=bool)
    if isinstance(constraint, FixCartesian):
        return np.asarray(constraint.mask, dtype=bool)
    if isinstance(constraint, FixScaled):
        mask = np.asarray(constraint.mask, dtype=bool)
        along_axes = not np.any(cell - np.diag(np.diag(cell)))
        return mask if mask.all() or along_axes else None
    if isinstance(constraint, FixedPlane | FixedLine):
        along: Bool[ndarray, "3"] = np.abs(np.asarray(constraint.dir)) > 1 - 1e-12
        if not along.any():
            return None
        return along if isinstance(constraint, FixedPlane) else ~along
    return None


def find_overlap(
    positions: Float[ndarray, "A 3"], cell: Float[ndarray, "3 3"], pbc: Bool[ndarray, "3"], below_ang: float
) -> tuple[int, int, float] | None:
    """Return the two closest atoms and their distance in Å if that is less than `below_ang`, or None.

    Images along the periodic cell vectors count; an atom and its own image are a pair (i, i).

    Raises:
        ValueError: the cell is so flat that the images within `below_ang` are too many to look at.

    >>> find_overlap(np.array([[0.1, 0, 0], [3.9, 0, 0]]), np.eye(3) * 4, np.array([True] * 3), 0.25)[:2]
    (0, 1)
    """
    frame = _frame(cell, pbc)
    inverse = np.linalg.inv(frame)
    # Distance of the planes that bound the cell: a vector v has the component |v·inverse| <= |v| / height along each axis.
    heights = 1 / np.linalg.norm(inverse, axis=0)
    scaled = positions @ inverse
    scaled[:, pbc] -= np.floor(scaled[:, pbc])
    if (heights[pbc] <= 2 * below_ang).any():
        return _overlap_in_flat_cell(scaled, frame, heights, pbc, below_ang)
    return _overlap_by_tree(scaled, frame, heights, pbc, below_ang)


def _frame(cell: Float[ndarray, "3 3"], pbc: Bool[ndarray, "3"]) -> Float[ndarray, "3 3"]:
    """The periodic cell vectors, completed by unit vectors at right angles to them where the structure is not periodic."""
    frame = np.array(cell, dtype=np.float64)
    free = np.flatnonzero(~np.asarray(pbc))
    if len(free):
        periodic = frame[pbc]
        frame[free] = np.eye(3) if len(free) == 3 else np.linalg.svd(periodic)[2][len(periodic) :]
    return frame


def _overlap_by_tree(
    scaled: Float[ndarray, "A 3"], frame: Float[ndarray, "3 3"], heights: Float[ndarray, "3"], pbc: Bool[ndarray, "3"], below_ang: float
) -> tuple[int, int, float] | None:
    """Ask a periodic k-d tree in coordinates along the heights, where no component is longer than the vector itself.

    All heights exceed twice the distance, so rounding the scaled difference gives the nearest image.
    """
    along = scaled * heights
    # Rounding may put an atom onto the far border, which the tree does not take.
    along[:, pbc] = np.minimum(along[:, pbc], np.nextafter(heights[pbc], 0))
    n_near = min(len(scaled), _CROWD)
    if n_near < 2:
        return None
    tree = cKDTree(along, boxsize=np.where(pbc, heights, 0))
    _, near = tree.query(along, k=n_near, p=np.inf, distance_upper_bound=np.nextafter(below_ang, np.inf))
    first, column = np.nonzero(near < len(scaled))
    second = near[first, column]
    first, second = first[first < second], second[first < second]
    if not len(first):
        return None
    difference = scaled[first] - scaled[second]
    difference[:, pbc] -= np.rint(difference[:, pbc])
    distance = np.linalg.norm(difference @ frame, axis=1)
    at = int(np.argmin(distance))
    return (int(first[at]), int(second[at]), float(distance[at])) if distance[at] < below_ang else None


def _overlap_in_flat_cell(
    scaled: Float[ndarray, "A 3"], frame: Float[ndarray, "3 3"], heights: Float[ndarray, "3"], pbc: Bool[ndarray, "3"], below_ang: float
) -> tuple[int, int, float] | None:
    """Look at every pair in every image that could be near: slow, for cells flatter than twice the distance."""
    reach = np.where(pbc, np.ceil(below_ang / heights) + 1, 0).astype(np.int64)
    n_pairs = len(scaled) ** 2 * int(np.prod(2 * reach + 1))
    if n_pairs > _MANY_IMAGES:
        raise ValueError(f"the cell is only {heights[pbc].min():.2g} Å thick along a periodic direction; mend it")
    best: tuple[int, int, float] | None = None
    difference = (scaled[:, None] - scaled[None]) @ frame
    for image in np.ndindex(*(2 * reach + 1)):
        shift = np.asarray(image) - reach
        distance = np.linalg.norm(difference + shift @ frame, axis=2)
        if not shift.any():
            np.fill_diagonal(distance, np.inf)
        first, second = np.unravel_index(int(np.argmin(distance)), distance.shape)
        if distance[first, second] < (below_ang if best is None else best[2]):
            pair = sorted((int(first), int(second)))
            best = (pair[0], pair[1], float(distance[first, second]))
    return best
