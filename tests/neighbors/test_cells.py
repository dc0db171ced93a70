"""Dual vectors, reach and state of periodic cells."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from neighbor_structures import SKEWED

from campaign.neighbors.alchemiops import complete_basis
from campaign.neighbors.cells import ENDLESS, NOT_FINITE, Cells, measure_cells

CPU = torch.device("cpu")


def measured(cell: object, pbc: object, radius: float = 4.0) -> Cells:
    return measure_cells(torch.tensor(np.array(cell))[None], torch.tensor(np.array(pbc))[None], 1, radius, CPU)


@pytest.mark.parametrize("pbc", list(product([True, False], repeat=3)))
def test_duals_are_the_pseudo_inverse_of_the_periodic_vectors(pbc: tuple[bool, ...]) -> None:
    cells = measured(SKEWED, pbc)
    vectors = np.where(np.array(pbc)[:, None], SKEWED, 0.0)
    np.testing.assert_allclose(cells.duals[0].numpy(), np.linalg.pinv(vectors).T, atol=1e-12)
    np.testing.assert_allclose(cells.reach[0].numpy(), 4.0 * np.linalg.norm(cells.duals[0].numpy(), axis=1), atol=1e-12)
    assert cells.is_periodic == any(pbc)


def test_no_cell_is_no_periodicity() -> None:
    cells = measure_cells(None, None, 3, 4.0, CPU)
    assert not cells.is_periodic and cells.reach.shape == (3, 3) and not cells.reach.any()


@pytest.mark.parametrize(
    ("cell", "pbc", "state"),
    [
        (np.diag([3.0, 3.0, 0.0]), [True, True, False], 0),  # the zero vector is not periodic
        (np.diag([3.0, 3.0, 0.0]), [True, True, True], ENDLESS),
        (np.zeros((3, 3)), [False, True, False], ENDLESS),
        ([[3.0, 0, 0], [3.0, 1e-12, 0], [0, 0, 3.0]], [True, True, True], ENDLESS),
        (np.diag([1e-5, 1e-5, 1e-5]), [True, True, True], ENDLESS),
        (np.diag([3.0, np.nan, 3.0]), [True, True, True], NOT_FINITE),
        (np.diag([3.0, 3.0, np.inf]), [True, True, True], NOT_FINITE),
        (-np.array(SKEWED), [True, True, True], 0),  # left-handed
    ],
)
def test_states(cell: object, pbc: list[bool], state: int) -> None:
    assert measured(cell, pbc).state.tolist() == [state]


@pytest.mark.parametrize("pbc", list(product([True, False], repeat=3)))
def test_a_completed_basis_keeps_periodic_vectors_and_adds_perpendicular_ones(pbc: tuple[bool, ...]) -> None:
    periodic = np.array(pbc)
    basis = complete_basis(np.array(SKEWED), periodic)
    assert np.array_equal(basis[periodic], np.array(SKEWED)[periodic])
    added = basis[~periodic]
    np.testing.assert_allclose(added @ added.T, np.eye(len(added)), atol=1e-12)
    np.testing.assert_allclose(added @ basis[periodic].T, 0.0, atol=1e-12)
