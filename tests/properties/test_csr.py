"""Pointer arithmetic against the slowest way to do it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.errors import StoreDamagedError
from campaign.store.csr import atom_rows, check_pointers, chunk_runs, pointers, split_by_budget

counts = st.lists(st.integers(0, 7), max_size=30)


@settings(deadline=None)
@given(counts)
def test_pointers_are_running_sums(n_atoms: list[int]) -> None:
    ptr = pointers(np.array(n_atoms, dtype=np.int64))
    assert ptr.dtype == np.int64
    assert ptr.tolist() == [sum(n_atoms[:end]) for end in range(len(n_atoms) + 1)]
    check_pointers(ptr, sum(n_atoms), "meta/atoms_ptr")


@settings(deadline=None)
@given(counts.filter(bool), st.data())
def test_atom_rows_list_the_atoms_of_each_system_in_the_order_asked(n_atoms: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(n_atoms) - 1), max_size=20))
    found_counts, found = atom_rows(pointers(np.array(n_atoms)), np.array(rows, dtype=np.int64))
    expected = [list(range(sum(n_atoms[:row]), sum(n_atoms[: row + 1]))) for row in rows]
    assert found_counts.tolist() == [len(part) for part in expected]
    assert found.tolist() == [atom for part in expected for atom in part]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 100))
def test_ranges_by_budget_cover_all_rows_and_cannot_be_longer(row_bytes: list[int], budget: int) -> None:
    ranges = split_by_budget(np.array(row_bytes, dtype=np.int64), budget)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(len(row_bytes)))
    for start, stop in ranges:
        assert sum(row_bytes[start:stop]) <= budget or stop == start + 1
        if stop < len(row_bytes):
            assert sum(row_bytes[start : stop + 1]) > budget


@settings(deadline=None)
@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), max_size=30))),
    st.integers(1, 9),
    st.integers(1, 40),
)
def test_runs_read_each_wanted_chunk_once_and_no_other(request_: tuple[int, list[int]], chunk_rows: int, max_rows: int) -> None:
    n_rows, rows = request_
    wanted = np.sort(np.array(rows, dtype=np.int64))
    runs = list(chunk_runs(wanted, chunk_rows, n_rows, max_rows))
    assert [position for run in runs for position in range(run.first, run.last)] == list(range(len(wanted)))
    read = [chunk for run in runs for chunk in range(run.start // chunk_rows, -(-run.stop // chunk_rows))]
    assert read == sorted({row // chunk_rows for row in rows})
    for run in runs:
        assert run.start % chunk_rows == 0
        assert run.stop == n_rows or run.stop % chunk_rows == 0
        assert run.stop - run.start <= max(max_rows, chunk_rows)
        inside = wanted[run.first : run.last]
        assert np.all((inside >= run.start) & (inside < run.stop))


@pytest.mark.parametrize(
    ("ptr", "n_rows", "seen"),
    [
        ([1, 2], 2, r"atoms_ptr\[0\] is 1"),
        ([0, 3, 2], 3, "falls from 3 to 2 at position 2"),
        ([0, 4], 3, r"atoms_ptr\[1\] is 4, but the atom arrays have 3 rows"),
    ],
)
def test_pointers_that_do_not_add_up_are_named(ptr: list[int], n_rows: int, seen: str) -> None:
    with pytest.raises(StoreDamagedError, match=seen):
        check_pointers(np.array(ptr), n_rows, "meta/atoms_ptr")
