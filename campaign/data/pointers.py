"""Pointer arithmetic of concatenated segments (CSR): everything here maps integers to integers and knows nothing of tensors.

A pointer of N segments has N+1 entries; segment n is rows `ptr[n]` to `ptr[n + 1]`. The arrays live on the host, since shapes have to
be known there anyway; `segments.py` carries them to a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

__all__ = ["concatenate_ptr", "consecutive_runs", "gather_rows", "mask_fitting", "ptr_from_lengths", "row_owners", "select_rows"]


def ptr_from_lengths(lengths: Int64[ndarray, " N"]) -> Int64[ndarray, " N+1"]:
    """Return the pointer of segments with these lengths.

    >>> ptr_from_lengths(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    ptr = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ptr[1:])
    return ptr


def row_owners(lengths: Int64[ndarray, " N"]) -> Int64[ndarray, " A"]:
    """Return the segment that each row belongs to.

    >>> row_owners(np.array([2, 0, 3])).tolist()
    [0, 0, 2, 2, 2]
    """
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)


def gather_rows(starts: Int64[ndarray, " M"], lengths: Int64[ndarray, " M"]) -> Int64[ndarray, " A"]:
    """Return the rows of ranges that begin at `starts` and have these lengths, one range after the other.

    >>> gather_rows(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ptr = ptr_from_lengths(lengths)
    rows: Int64[ndarray, " A"] = np.arange(ptr[-1], dtype=np.int64) + np.repeat(starts - ptr[:-1], lengths)
    return rows


def select_rows(ptr: Int64[ndarray, " N+1"], segments: Int64[ndarray, " M"]) -> tuple[Int64[ndarray, " M+1"], Int64[ndarray, " A2"]]:
    """Return the new pointer and the rows to gather for some segments, in the order given; a segment may come more than once.

    >>> new_ptr, rows = select_rows(np.array([0, 2, 2, 5]), np.array([2, 0]))
    >>> new_ptr.tolist(), rows.tolist()
    ([0, 3, 5], [2, 3, 4, 0, 1])
    """
    starts = ptr[segments]
    lengths = ptr[segments + 1] - starts
    return ptr_from_lengths(lengths), gather_rows(starts, lengths)


def consecutive_runs(segments: Int64[ndarray, " M"]) -> list[tuple[int, int]]:
    """Return the half-open ranges that make up `segments`, in its order, each as long as can be.

    >>> consecutive_runs(np.array([3, 4, 5, 1, 2, 9]))
    [(3, 6), (1, 3), (9, 10)]
    """
    breaks = np.flatnonzero(np.diff(segments) != 1) + 1
    edges = [0, *breaks.tolist(), len(segments)]
    return [(int(segments[a]), int(segments[b - 1]) + 1) for a, b in pairwise(edges)] if len(segments) else []


def concatenate_ptr(first: Int64[ndarray, " N+1"], second: Int64[ndarray, " M+1"]) -> Int64[ndarray, " N+M+1"]:
    """Return the pointer of the segments of `first` followed by those of `second`.

    >>> concatenate_ptr(np.array([0, 2]), np.array([0, 1, 4])).tolist()
    [0, 2, 3, 6]
    """
    return np.concatenate([first, second[1:] + first[-1]])


def mask_fitting(mask: Bool[ndarray, " N"], demands: Sequence[tuple[Int64[ndarray, " N"] | int, int]]) -> Bool[ndarray, " N"]:
    """Return which of the masked segments fit when they are put one after the other into what is free.

    `demands` has a pair for each level: how many rows a segment needs (an array, or one number for all) and how many are free. A segment
    that does not fit stops all after it: order is kept, so nothing overtakes.

    >>> mask_fitting(np.array([True, False, True, True]), [(np.array([3, 9, 2, 1]), 5), (1, 9)]).tolist()
    [True, False, True, False]
    """
    fits = mask.copy()
    for needed, free in demands:
        # Cumulated over all masked ones, so that a segment is out as soon as one before it is.
        fits &= np.cumsum(np.where(mask, needed, 0)) <= free
    return fits
