"""Cutting a list of systems into blocks, each of which one Dask task reads: never through the middle of a structure. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

BLOCK_ATOMS: Final = 2**20
"""Atoms of a block unless one structure has more: positions and forces of a block are 24 MB each."""

BLOCK_SYSTEMS: Final = 2**16


def plan_blocks(n_atoms: Int64[ndarray, " N"], max_atoms: int = BLOCK_ATOMS, max_systems: int = BLOCK_SYSTEMS) -> Int64[ndarray, " B+1"]:
    """Return where blocks begin, and N: block b holds the systems `ptr[b]:ptr[b+1]`.

    A block is as long as both limits allow, and never empty, so a structure larger than `max_atoms` stands alone. Without systems there is
    one empty block, since Dask knows no collection without any.

    >>> plan_blocks(np.array([4, 4, 9, 1]), max_atoms=8).tolist()
    [0, 2, 3, 4]
    """
    ends = np.cumsum(n_atoms)
    ptr = [0]
    while ptr[-1] < len(n_atoms):
        start = ptr[-1]
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + max_atoms, side="right"))
        ptr.append(min(max(stop, start + 1), start + max_systems, len(n_atoms)))
    return np.array(ptr if len(ptr) > 1 else [0, 0], np.int64)
