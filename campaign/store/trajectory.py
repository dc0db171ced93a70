"""Which frames of `trajectory.zarr` belong to which input: a pointer per system, as `atoms_ptr` is one per atom's system.

Frames are sorted by `system_id`, then step. `meta/frames_ptr` has one entry more than there are inputs; the frames of input i are the rows
`frames_ptr[i]:frames_ptr[i+1]`, none for an input without a trajectory.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from campaign.errors import StoreDamagedError
from campaign.fields import Level
from campaign.store.consolidation_plan import choose_chunking
from campaign.store.csr import check_pointers
from campaign.store.layout import ArraySpec
from campaign.store.reader import StoreReader
from campaign.store.targets import Target, describe

FRAMES_PTR: Final = "meta/frames_ptr"


def frames_ptr_array(n_inputs: int) -> ArraySpec:
    """Return the array that holds the pointers."""
    return ArraySpec(FRAMES_PTR, Level.SYSTEM, "int64", (), *choose_chunking(n_inputs, 0).rows(Level.SYSTEM))


def frames_ptr(system_ids: Int64[ndarray, " F"], n_inputs: int) -> Int64[ndarray, " N+1"]:
    """Return the pointers of frames whose `system_ids` are sorted.

    >>> frames_ptr(np.array([1, 1, 3]), 4).tolist()
    [0, 0, 2, 2, 3]
    """
    found: Int64[ndarray, " N+1"] = np.searchsorted(system_ids, np.arange(n_inputs + 1))
    return found


def read_frames_ptr(target: Target) -> Int64[ndarray, " N+1"]:
    """Return the pointers of a `trajectory.zarr`: `StoreReader.read(slice(*ptr[i : i + 2]))` are the frames of input i.

    Raises:
        StoreNotFoundError: no store is there.
        StoreDamagedError: it has no such pointers, or they do not fit its frames.
    """
    reader = StoreReader.open(target)
    where = f"{describe(target)}/{FRAMES_PTR}"
    n_rows = reader.array(FRAMES_PTR).shape[0]
    if not n_rows:
        raise StoreDamagedError(f"{where} is empty. Make the trajectories again: remove them, then `campaign consolidate`.")
    ptr = reader.read_block(FRAMES_PTR, 0, n_rows)
    check_pointers(ptr, reader.n_systems, where)
    return ptr
