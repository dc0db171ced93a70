"""Pointer arithmetic of compressed sparse rows, on plain integers and int64 arrays.

A store holds N systems of different sizes one behind the other. `ptr` has N+1 entries; the atoms of system i are the rows
`ptr[i]:ptr[i+1]` of every atom array. Nothing here knows of files: all of it is checked against brute force in
`tests/properties/test_csr.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from campaign.errors import StoreDamagedError


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring chunks read in one go: rows `start:stop` of the array serve `wanted[first:last]` of a sorted request."""

    start: int
    stop: int
    first: int
    last: int


def pointers(counts: Int64[ndarray, " N"]) -> Int64[ndarray, " N+1"]:
    """Return the pointers of systems with `counts` rows each.

    >>> pointers(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    ptr = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=ptr[1:])
    return ptr


def check_pointers(ptr: Int64[ndarray, " N+1"], n_rows: int, where: str) -> None:
    """Check that `ptr` starts at 0, never falls and ends within the `n_rows` rows that the atom arrays have.

    Raises:
        StoreDamagedError: naming `where` and the first position that does not add up.
    """
    advice = "Pointers start at 0, never fall and end within the arrays; the file was changed or damaged: restore it or drop this store."
    if ptr[0] != 0:
        raise StoreDamagedError(f"{where}[0] is {ptr[0]}. {advice}")
    falls = np.flatnonzero(np.diff(ptr) < 0)
    if len(falls):
        at = int(falls[0])
        raise StoreDamagedError(f"{where} falls from {ptr[at]} to {ptr[at + 1]} at position {at + 1}. {advice}")
    if ptr[-1] > n_rows:
        raise StoreDamagedError(f"{where}[{len(ptr) - 1}] is {ptr[-1]}, but the atom arrays have {n_rows} rows. {advice}")


def atom_rows(ptr: Int64[ndarray, " N+1"], rows: Int64[ndarray, " M"]) -> tuple[Int64[ndarray, " M"], Int64[ndarray, " A"]]:
    """Return how many atoms each of the systems `rows` has, and the atom rows of all of them one behind the other.

    >>> counts, at = atom_rows(np.array([0, 2, 2, 5]), np.array([2, 0]))
    >>> counts.tolist(), at.tolist()
    ([3, 2], [2, 3, 4, 0, 1])
    """
    starts = ptr[rows]
    counts = ptr[rows + 1] - starts
    # Position within the answer, minus where the system begins there, plus where it begins in the store.
    return counts, np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(starts - pointers(counts)[:-1], counts)


def split_by_budget(row_bytes: Int64[ndarray, " N"], budget: int) -> list[tuple[int, int]]:
    """Cut 0..N into the fewest consecutive ranges whose bytes stay within `budget`; a row larger than that stands alone.

    >>> split_by_budget(np.array([4, 4, 9, 1]), 8)
    [(0, 2), (2, 3), (3, 4)]
    """
    ptr = pointers(row_bytes)
    ranges = []
    start = 0
    while start < len(row_bytes):
        stop = int(np.searchsorted(ptr, ptr[start] + budget, side="right")) - 1
        ranges.append((start, max(stop, start + 1)))
        start = ranges[-1][1]
    return ranges


def chunk_runs(wanted: Int64[ndarray, " M"], chunk_rows: int, n_rows: int, max_rows: int) -> Iterator[Run]:
    """Cut a sorted request into runs of neighbouring chunks, so that each chunk is read once and none that nobody asked for.

    A run spans at most `max_rows` rows (at least one chunk), and ends at the end of the array, `n_rows`.

    >>> [(run.start, run.stop) for run in chunk_runs(np.array([1, 9, 10, 39]), 8, 40, 100)]
    [(0, 16), (32, 40)]
    """
    if not len(wanted):
        return
    chunks = wanted // chunk_rows
    breaks = np.flatnonzero(np.diff(chunks) > 1) + 1
    most = max(max_rows // chunk_rows, 1)
    for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(wanted)], strict=True):
        begin = first
        while begin < last:
            end = int(np.searchsorted(chunks[:last], chunks[begin] + most, side="left"))
            yield Run(int(chunks[begin]) * chunk_rows, min((int(chunks[end - 1]) + 1) * chunk_rows, n_rows), begin, end)
            begin = end
