"""Formation energies and hulls against closed forms, and against a linear program that asks the same question another way."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.analysis.composition import Compositions
from campaign.analysis.hull import Hull, _by_linear_program, _by_qhull, compute_hull

CU, AU, AG, NI = 29, 79, 47, 28


def hull_from(*entries: tuple[list[int], float]) -> Hull:
    """Hull of (atomic numbers, energy per atom)."""
    numbers = [entry[0] for entry in entries]
    compositions = Compositions.of_atoms(np.array([len(n) for n in numbers]), np.array([z for n in numbers for z in n]))
    energies = np.array([energy * len(n) for n, energy in entries])
    return compute_hull(np.arange(len(entries)) * 10, energies, compositions)


def test_a_binary_hull_by_hand() -> None:
    hull = hull_from(
        ([CU], 1.0),
        ([AU], 3.0),
        ([CU, CU, CU, AU], 1.3),  # -0.2 eV/atom: a corner
        ([CU, AU], 1.9),  # -0.1: above the line from Cu3Au to Au, which is at -0.2 * 2/3
        ([CU, AU, AU, AU], 2.6),  # +0.1
        ([CU, CU], 1.05),  # another copper, 0.05 above the reference
    )
    table = hull.table
    assert hull.references == {"Cu": 0, "Au": 10}
    assert hull.elements == ("Cu", "Au")
    np.testing.assert_allclose(table["formation_energy"], [0, 0, -0.2, -0.1, 0.1, 0.05], atol=1e-12)
    np.testing.assert_allclose(table["energy_above_hull"], [0, 0, 0, -0.1 + 0.4 / 3, 0.1 + 0.2 / 3, 0.05], atol=1e-12)
    assert table["on_hull"].tolist() == [True, True, True, False, False, False]
    assert hull.members["formula"].tolist() == ["Cu", "Cu3Au", "Au"]  # along the hull
    np.testing.assert_allclose(hull.fraction_of("Au"), [0, 1, 0.25, 0.5, 0.75, 0])


def test_nothing_below_the_elements_leaves_the_line_between_them() -> None:
    hull = hull_from(([CU], -1.0), ([AU], -1.0), ([CU, AU], -0.9))
    np.testing.assert_allclose(hull.table["energy_above_hull"], [0, 0, 0.1], atol=1e-12)


def test_of_equal_structures_one_stands_on_the_hull() -> None:
    hull = hull_from(([CU], -1.0), ([AU], -1.0), ([CU, AU], -1.2), ([AU, CU, AU, CU], -1.2))
    assert hull.table["on_hull"].tolist() == [True, True, True, False]
    np.testing.assert_allclose(hull.table["energy_above_hull"], 0, atol=1e-12)


def test_an_element_without_a_bulk_structure_is_named() -> None:
    hull = hull_from(([CU], -1.0), ([CU, AU], -1.5), ([CU, AG], -1.5), ([AG], -1.0))
    assert len(hull.missing) == 1
    assert "Au has no converged bulk structure of its own" in hull.missing[0]
    assert "add elemental Au to the inputs" in hull.missing[0]
    np.testing.assert_allclose(hull.table["formation_energy"], [0, np.nan, -0.5, 0], atol=1e-12)
    assert hull.table["on_hull"].tolist() == [True, False, True, True]


def test_a_ternary_knows_its_binaries() -> None:
    hull = hull_from(
        ([CU], 0.0),
        ([AU], 0.0),
        ([AG], 0.0),
        ([CU, AU], -0.3),  # lies on an edge of the triangle, and under part of its face
        ([CU, AU, AG], -0.1),  # (CuAu + Ag) gives 2/3 * -0.3
        ([CU, AU, AG, AG], -0.2),  # 2/4 * -0.3: below it, a corner
    )
    # CuAuAg on the face of CuAu (weight 1/3) and CuAuAg2 (weight 2/3).
    on_face = -0.3 / 3 - 0.2 * 2 / 3
    np.testing.assert_allclose(hull.table["energy_above_hull"], [0, 0, 0, 0, -0.1 - on_face, 0], atol=1e-12)
    assert hull.table["on_hull"].tolist() == [True, True, True, True, False, True]
    assert hull.members["formula"].tolist() == ["Ag", "Au", "Cu", "CuAu", "CuAg2Au"]  # elements, binaries, ternaries


def test_what_has_no_energy_or_no_atoms_is_left_out() -> None:
    compositions = Compositions.of_atoms(np.array([1, 0, 1]), np.array([CU, AU]))
    hull = compute_hull(np.array([4, 5, 6]), np.array([-1.0, 0.0, np.nan]), compositions)
    assert hull.table.index.tolist() == [4]


def test_an_empty_campaign_has_an_empty_hull() -> None:
    hull = compute_hull(np.zeros(0, np.int64), np.zeros(0), Compositions.of_atoms(np.zeros(0, np.int64), np.zeros(0, np.int64)))
    assert len(hull.table) == 0
    assert hull.elements == ()
    assert hull.missing == ()


@settings(deadline=None)
@given(st.data())
def test_qhull_and_the_linear_program_agree(data: st.DataObject) -> None:
    n_elements = data.draw(st.integers(2, 5), label="elements")
    counts = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=n_elements, max_size=n_elements), min_size=1, max_size=12))
    points = np.array([row for row in counts if sum(row)] or [[1] * n_elements], float)
    points /= points.sum(axis=1, keepdims=True)
    energies = -np.array(data.draw(st.lists(st.floats(1e-6, 2.0), min_size=len(points), max_size=len(points))))
    wanted = np.vstack([points, np.full(n_elements, 1 / n_elements)])
    np.testing.assert_allclose(_by_qhull(points, energies, wanted), _by_linear_program(points, energies, wanted), atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.lists(st.sampled_from([CU, AU, AG, NI]), min_size=1, max_size=6), st.floats(-5, 5)), max_size=20))
def test_what_is_true_of_every_hull(entries: list[tuple[list[int], float]]) -> None:
    elements = [([z], 0.5 * i) for i, z in enumerate((CU, AU, AG, NI))]
    hull = hull_from(*elements, *entries)
    table = hull.table
    assert (table["energy_above_hull"] >= 0).all()
    assert not hull.missing
    # No structure lies below the hull, those on it are at zero, and each element has exactly one on it.
    assert (table.loc[table["on_hull"], "energy_above_hull"] <= 1e-9).all()
    pure = table[table["on_hull"] & ~table["elements"].str.contains("-")]
    assert sorted(pure["elements"]) == ["Ag", "Au", "Cu", "Ni"]


def test_more_elements_than_qhull_can_take() -> None:
    numbers = [22, 23, 24, 26, 27, 28, 29, 30]
    hull = hull_from(*(([z], 0.0) for z in numbers), (numbers, -0.4), (numbers[:2], -0.2))
    # One eighth-mixture against the binary it contains: -0.4 is lower than 2/8 * -0.2.
    assert hull.table["on_hull"].tolist() == [True] * 10
    np.testing.assert_allclose(hull.table["energy_above_hull"], 0, atol=1e-9)
