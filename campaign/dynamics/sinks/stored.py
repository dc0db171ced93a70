"""What all sinks do before they store anything: which systems, is there room, are these the same fields as before."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor

from campaign.data import Batch
from campaign.errors import ArgumentError, FieldError, SinkFullError
from campaign.fields import Level

__all__ = ["MATRIX_KEYS", "Row", "Rows", "check_capacity", "check_room", "check_rows", "rows_of", "selected_systems", "transient_keys"]

MATRIX_KEYS: Final = frozenset({"neighbor_matrix", "num_neighbors", "neighbor_matrix_shifts"})
"""Neighbour data whose width changes whenever the list is rebuilt."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one row of a field is."""

    level: Level
    dtype: torch.dtype
    trailing: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.trailing)} per {self.level}"


Rows = dict[str, Row]
"""Fields of a sink by name."""


def check_capacity(capacity: int) -> int:
    """Return `capacity` if it is one.

    Raises:
        ArgumentError: it is no whole number of 1 or more.
    """
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise ArgumentError(f"the capacity of a sink is {capacity!r}; it is a whole number of systems, at least 1. Give one.")
    return capacity


def selected_systems(batch: Batch, mask: Bool[Tensor, " N"] | None) -> Int64[ndarray, " M"]:
    """Return the positions of the systems that `mask` selects, in order; of all without a mask.

    Raises:
        ArgumentError: the mask does not have exactly one entry per system.

    >>> batch = Batch.from_arrays([1, 1, 1], {"positions": torch.zeros(3, 3)}, {})
    >>> selected_systems(batch, torch.tensor([True, False, True])).tolist()
    [0, 2]
    """
    n_systems = batch.num_graphs
    if mask is None:
        return np.arange(n_systems)
    mask = torch.as_tensor(mask)
    if tuple(mask.shape) != (n_systems,):
        raise ArgumentError(
            f"a mask of shape {tuple(mask.shape)} was given for a batch of {n_systems} systems; it must have shape ({n_systems},). "
            "Nothing was written."
        )
    return np.flatnonzero(mask.to(device="cpu", dtype=torch.bool).numpy())


def check_room(where: str, n_new: int, n_stored: int, capacity: int) -> None:
    """Check that `n_new` systems fit.

    Raises:
        SinkFullError: they do not.
    """
    if n_stored + n_new > capacity:
        raise SinkFullError(
            f"{where} holds {n_stored} of {capacity} systems and {n_new} more do not fit; nothing was written. "
            "Read and zero it, or make it larger."
        )


def transient_keys(batch: Batch) -> frozenset[str]:
    """Return the keys that no sink stores: those that begin with an underscore."""
    return frozenset(key for key, _ in batch if key.startswith("_"))


def rows_of(batch: Batch, left_out: Collection[str]) -> Rows:
    """Return the fields of a batch except those in `left_out`."""
    return {key: _row(batch.level_of(key), tensor) for key, tensor in batch if key not in left_out}


def _row(level: Level, tensor: Tensor) -> Row:
    return Row(level, tensor.dtype, tuple(tensor.shape[1:]))


def check_rows(where: str, stored: Rows, written: Rows) -> None:
    """Check that what is written has exactly the fields that are stored.

    Raises:
        FieldError: naming each field that is missing, new or different.
    """
    if stored == written:
        return
    seen = [f"{name!r} is missing" for name in stored if name not in written]
    seen += [f"{name!r} is new" for name in written if name not in stored]
    for name, row in stored.items():
        if written.get(name, row) != row:
            seen.append(f"{name!r} is {written[name]} where {row} is stored")
    raise FieldError(
        f"a batch with other fields was written to {where}: {'; '.join(seen)}. Nothing was written. "
        "Give every batch the same fields, or use another sink."
    )
