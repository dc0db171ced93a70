"""Pointer arithmetic, against Python lists of rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from campaign.data.pointers import (
    concatenate_ptr,
    consecutive_runs,
    gather_rows,
    mask_fitting,
    ptr_from_lengths,
    row_owners,
    select_rows,
)

LENGTHS = st.lists(st.integers(0, 5), max_size=8).map(lambda lengths: np.array(lengths, dtype=np.int64))


def rows_of(ptr: np.ndarray) -> list[list[int]]:
    """The rows of each segment, the slow way."""
    return [list(range(start, stop)) for start, stop in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True)]


@given(LENGTHS)
def test_a_pointer_is_the_running_sum_of_lengths(lengths: np.ndarray) -> None:
    ptr = ptr_from_lengths(lengths)
    assert ptr.tolist() == [sum(lengths[:n].tolist()) for n in range(len(lengths) + 1)]
    assert ptr.dtype == np.int64


@given(LENGTHS)
def test_each_row_knows_its_segment(lengths: np.ndarray) -> None:
    owners = [segment for segment, rows in enumerate(rows_of(ptr_from_lengths(lengths))) for _ in rows]
    assert row_owners(lengths).tolist() == owners


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_ranges_are_put_one_after_the_other(ranges: list[tuple[int, int]]) -> None:
    starts, lengths = np.array(ranges, dtype=np.int64).reshape(-1, 2).T
    assert gather_rows(starts, lengths).tolist() == [row for start, length in ranges for row in range(start, start + length)]


@given(LENGTHS, st.data())
def test_selecting_is_taking_segments_from_a_list(lengths: np.ndarray, data: st.DataObject) -> None:
    segments = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=10)) if len(lengths) else []
    ptr = ptr_from_lengths(lengths)
    new_ptr, gather = select_rows(ptr, np.array(segments, dtype=np.int64))
    expected = [rows_of(ptr)[segment] for segment in segments]
    assert gather.tolist() == [row for rows in expected for row in rows]
    assert [len(rows) for rows in rows_of(new_ptr)] == [len(rows) for rows in expected]


@given(LENGTHS, LENGTHS)
def test_concatenating_is_adding_lists(first: np.ndarray, second: np.ndarray) -> None:
    both = concatenate_ptr(ptr_from_lengths(first), ptr_from_lengths(second))
    assert both.tolist() == ptr_from_lengths(np.concatenate([first, second])).tolist()


@given(st.lists(st.integers(0, 12), max_size=20))
def test_runs_make_up_what_they_came_from(segments: list[int]) -> None:
    runs = consecutive_runs(np.array(segments, dtype=np.int64))
    assert [segment for start, stop in runs for segment in range(start, stop)] == segments
    # As long as can be: no run goes on where the one before ends.
    assert all(before[1] != after[0] for before, after in pairwise(runs))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6)), max_size=10),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 6),
)
def test_what_fits_is_put_in_one_by_one_until_one_does_not(
    systems: list[tuple[bool, int, int]], free_atoms: int, free_edges: int, free_systems: int
) -> None:
    mask = np.array([wanted for wanted, _, _ in systems], dtype=bool)
    n_atoms, n_edges = np.array([(a, e) for _, a, e in systems], dtype=np.int64).reshape(-1, 2).T
    expected, room, is_full = [], [free_systems, free_atoms, free_edges], False
    for wanted, atoms, edges in systems:
        needed = [1, atoms, edges]
        is_full |= wanted and any(n > r for n, r in zip(needed, room, strict=True))
        expected.append(wanted and not is_full)
        if expected[-1]:
            room = [r - n for n, r in zip(needed, room, strict=True)]
    assert mask_fitting(mask, [(1, free_systems), (n_atoms, free_atoms), (n_edges, free_edges)]).tolist() == expected
