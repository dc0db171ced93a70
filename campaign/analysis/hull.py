"""Formation energies and the lower convex hull of composition space.

The formation energy per atom of a structure is its energy per atom minus the mean, over its atoms, of the energies per atom of the
elements, each taken from the lowest bulk structure of that element *in the same campaign*: no energies from elsewhere are mixed in. The
hull of a chemical system (a set of elements) is the lower boundary of the convex hull of all structures made of those elements in the
space of fractions and formation energy; a structure's energy above it is what it would gain, per atom, by falling apart into the
structures on the hull. Every chemical system is treated by itself, so a campaign over eighty elements is a thousand small hulls and not
one of eighty dimensions.

Hulls are Qhull's (Barber, Dobkin and Huhdanpaa, ACM Trans. Math. Softw. 22, 469 (1996), through scipy) up to six elements; beyond, where
the number of facets explodes, each composition is one linear program, which states the same question.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from campaign.analysis.composition import Compositions, symbol

if TYPE_CHECKING:
    import pandas as pd

    from campaign.analysis.view import StoreView

HULL_WHERE: Final = "outcome == 'converged' and n_periodic == 3"
"""What enters a hull unless told otherwise: a slab or a cluster has a surface, and its energy per atom is no bulk energy."""

ON_HULL_EV: Final = 1e-9
"""A structure no further above the hull than this, per atom, is on it."""

_QHULL_ELEMENTS: Final = 6


@dataclass(frozen=True)
class Hull:
    """Formation energies and distances to the hull of N structures.

    `table` has the index system_id and the columns formula (reduced), elements, n_atoms, energy_per_atom, formation_energy and
    energy_above_hull (eV/atom; NaN where an element has no reference) and on_hull (the lowest structure of a composition that lies on the
    hull).
    `references` gives, for each element symbol, the system whose energy per atom stands for it; `missing` says in words what has none.
    """

    elements: tuple[str, ...]
    table: pd.DataFrame
    compositions: Compositions
    references: dict[str, int]
    missing: tuple[str, ...]

    @property
    def members(self) -> pd.DataFrame:
        """The structures on the hull: by number of elements, chemical system, and fraction of the most electronegative element.

        In a binary system that is the order along the hull, the elements at its ends.
        """
        on_hull = np.flatnonzero(self.table["on_hull"])
        table = self.table.iloc[on_hull]
        if len(self.elements) == 2:
            order = np.argsort(self.fraction_of(self.elements[-1])[on_hull], kind="stable")
        else:
            last = [self.elements.index(max(name.split("-"), key=self.elements.index)) for name in table["elements"]]
            fractions = np.array([self.fraction_of(element)[on_hull] for element in self.elements]).reshape(len(self.elements), -1)
            n_elements = table["elements"].str.count("-").to_numpy()
            order = np.lexsort((fractions[last, np.arange(len(table))], table["elements"].to_numpy(object).astype(str), n_elements))
        return table.iloc[order]

    def fraction_of(self, element: str) -> Float[ndarray, " N"]:
        """Fraction of `element` in each structure of `table`."""
        number = next((z for z in self.compositions.elements if symbol(z) == element), -1)
        return self.compositions.fraction_of(number)


def hull_of(view: StoreView, where: str | None = HULL_WHERE) -> Hull:
    """Return the hull of the structures of a store that satisfy `where`; reads energies and atomic numbers.

    >>> hull = hull_of(campaign.open("runs/cu-au"))                      # doctest: +SKIP
    >>> hull.members[["formula", "formation_energy"]]                 # doctest: +SKIP
    """
    chosen = view if where is None else view.select(where)
    frame = chosen.table[["energy"]].compute()
    return compute_hull(frame.index.to_numpy(np.int64), frame["energy"].to_numpy(np.float64), chosen.compositions())


def compute_hull(system_ids: Int64[ndarray, " N"], energies: Float[ndarray, " N"], compositions: Compositions) -> Hull:
    """Return formation energies and distances to the hull of structures with the given energies in eV.

    Structures without atoms or without a finite energy are left out.

    >>> cu, au, mix = (29,), (79,), (29, 79)
    >>> made_of = Compositions.of_atoms(np.array([1, 1, 2]), np.array([*cu, *au, *mix]))
    >>> hull = compute_hull(np.arange(3), np.array([-3.5, -3.2, -6.9]), made_of)
    >>> round(float(hull.table.formation_energy[2]), 6), hull.references
    (-0.1, {'Cu': 0, 'Au': 1})
    """
    import pandas as pd

    usable = np.flatnonzero(np.isfinite(energies) & (compositions.n_atoms > 0))
    system_ids, energies, compositions = system_ids[usable], energies[usable], compositions.take(usable)
    per_atom = energies / compositions.n_atoms
    references = _references(per_atom, compositions)
    reference_energy = np.full(max(compositions.elements, default=0) + 1, np.nan)
    for number, row in references.items():
        reference_energy[number] = per_atom[row]
    formation = per_atom - compositions.weighted(reference_energy)
    above, on_hull = _above_hull(formation, compositions)
    table = pd.DataFrame(
        {
            "formula": compositions.reduced().formulas,
            "elements": compositions.chemical_systems,
            "n_atoms": compositions.n_atoms,
            "energy_per_atom": per_atom,
            "formation_energy": formation,
            "energy_above_hull": above,
            "on_hull": on_hull,
        },
        index=pd.Index(system_ids, name="system_id"),
    )
    return Hull(
        elements=tuple(symbol(number) for number in compositions.elements),
        table=table,
        compositions=compositions,
        references={symbol(number): int(system_ids[row]) for number, row in references.items()},
        missing=tuple(
            f"{symbol(number)} has no converged bulk structure of its own, so structures that contain it have no formation energy; add "
            f"elemental {symbol(number)} to the inputs."
            for number in compositions.elements
            if number not in references
        ),
    )


def _references(per_atom: Float[ndarray, " N"], compositions: Compositions) -> dict[int, int]:
    """Row of the lowest structure of each element that has one of its own; the first of several equal ones."""
    pure = np.flatnonzero(np.diff(compositions.ptr) == 1)
    numbers = compositions.numbers[compositions.ptr[pure]]
    order = np.lexsort((pure, per_atom[pure], numbers))
    found, first = np.unique(numbers[order], return_index=True)
    lowest = dict(zip(found.tolist(), pure[order][first].tolist(), strict=True))
    return {number: lowest[number] for number in compositions.elements if number in lowest}


def _above_hull(formation: Float[ndarray, " N"], compositions: Compositions) -> tuple[Float[ndarray, " N"], ndarray]:
    # The hull at a composition does not depend on how many structures have it, so all work is per composition and its lowest structure.
    distinct, which = compositions.reduced().unique()
    lowest = np.full(len(distinct), np.inf)
    np.minimum.at(lowest, which, np.where(np.isnan(formation), np.inf, formation))
    hull = _hull_energies(lowest, distinct)
    above = np.maximum(formation - hull[which], 0.0)
    order = np.lexsort((np.arange(len(formation)), formation, which))
    best = np.zeros(len(formation), bool)
    best[order[np.unique(which[order], return_index=True)[1]]] = True
    return above, best & (above <= ON_HULL_EV)


def _hull_energies(lowest: Float[ndarray, " D"], distinct: Compositions) -> Float[ndarray, " D"]:
    """Energy of the hull at each composition; NaN where a formation energy is."""
    systems: dict[frozenset[int], list[int]] = defaultdict(list)
    for at, (start, stop) in enumerate(zip(distinct.ptr[:-1], distinct.ptr[1:], strict=True)):
        if np.isfinite(lowest[at]):
            systems[frozenset(distinct.numbers[start:stop].tolist())].append(at)
    # Only what lies below the elements can be a corner of a hull; the elements themselves are there always, at zero.
    corners = {elements: [at for at in rows if lowest[at] < 0] for elements, rows in systems.items() if len(elements) > 1}
    hull = np.full(len(distinct), np.nan)
    for elements, rows in systems.items():
        order = sorted(elements)
        below = [at for subset in _parts(elements, corners) for at in corners[subset]]
        points = np.array([_fractions(distinct, at, order) for at in below]).reshape(len(below), len(order))
        wanted = np.array([_fractions(distinct, at, order) for at in rows])
        if not below:
            hull[rows] = 0.0
        elif len(order) <= _QHULL_ELEMENTS:
            hull[rows] = _by_qhull(points, lowest[below], wanted)
        else:
            hull[rows] = _by_linear_program(points, lowest[below], wanted)
    return hull


def _parts(elements: frozenset[int], corners: dict[frozenset[int], list[int]]) -> list[frozenset[int]]:
    """The chemical systems within `elements`, itself among them."""
    from itertools import combinations

    if 2 ** len(elements) < len(corners):
        subsets = (frozenset(chosen) for size in range(2, len(elements) + 1) for chosen in combinations(sorted(elements), size))
        return [subset for subset in subsets if subset in corners]
    return [subset for subset in corners if subset <= elements]


def _fractions(distinct: Compositions, at: int, order: list[int]) -> Float[ndarray, " Z"]:
    span = slice(distinct.ptr[at], distinct.ptr[at + 1])
    values = np.zeros(len(order))
    values[np.searchsorted(order, distinct.numbers[span])] = distinct.fractions[span]
    return values


def _by_qhull(points: Float[ndarray, " P Z"], energies: Float[ndarray, " P"], wanted: Float[ndarray, " W Z"]) -> Float[ndarray, " W"]:
    """Lower hull of `points` and the elements, at the compositions `wanted`.

    The last fraction follows from the others and is left out. One point high above the middle gives the body a volume even if nothing but
    two points spans it; it is on no lower facet. The lower boundary of a convex body is the highest of the planes of its lower facets.
    """
    from scipy.spatial import ConvexHull

    scale = float(-energies.min())
    n_elements = points.shape[1]
    x = np.vstack([points, np.eye(n_elements), np.full(n_elements, 1.0 / n_elements)])[:, :-1]
    y = np.concatenate([energies / scale, np.zeros(n_elements), [1.0]])
    # Facets have the equation normal · (x, y) + offset = 0 with the normal pointing outwards; QJ is not used, so no point is moved.
    equations = ConvexHull(np.column_stack([x, y])).equations
    lower = equations[equations[:, -2] < -1e-9]
    planes = -(wanted[:, :-1] @ lower[:, :-2].T + lower[:, -1]) / lower[:, -2]
    return np.asarray(planes.max(axis=1) * scale)


def _by_linear_program(
    points: Float[ndarray, " P Z"], energies: Float[ndarray, " P"], wanted: Float[ndarray, " W Z"]
) -> Float[ndarray, " W"]:
    """The same hull as the cheapest mixture: least sum of w·E over weights w ≥ 0 whose compositions add up to the wanted one."""
    from scipy.optimize import linprog

    mixture = np.vstack([points, np.eye(points.shape[1])]).T
    cost = np.concatenate([energies, np.zeros(points.shape[1])])
    return np.array([linprog(cost, A_eq=mixture, b_eq=target, method="highs").fun for target in wanted])
