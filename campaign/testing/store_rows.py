"""Made-up rows for stores: any fields, any sizes, all from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.fields import Field, Level


def made_up_columns(fields: Sequence[Field], n_atoms: Int64[ndarray, " N"], seed: int) -> dict[str, NDArray[Any]]:
    """Return a column of random values for each field, for systems of `n_atoms` atoms.

    >>> from campaign.fields import FIELDS
    >>> made_up_columns([FIELDS["forces"]], np.array([2, 3]), 0)["forces"].shape
    (5, 3)
    """
    random = np.random.default_rng(seed)
    rows = {Level.SYSTEM: len(n_atoms), Level.ATOM: int(np.sum(n_atoms))}
    return {field.name: _values(field, rows[field.level], random) for field in fields}


def _values(field: Field, n_rows: int, random: np.random.Generator) -> NDArray[Any]:
    shape = (n_rows, *field.trailing)
    if field.dtype == "string":
        return np.array([f"Å {random.integers(10**6)} 'quoted'" for _ in range(n_rows)], dtype=object)
    if field.dtype == "bool":
        return random.random(shape) < 0.5
    if field.dtype.startswith("float"):
        return random.normal(size=shape).astype(field.dtype)
    return random.integers(0, 100, shape).astype(field.dtype)


def slice_columns(
    fields: Sequence[Field], n_atoms: Int64[ndarray, " N"], columns: dict[str, NDArray[Any]], start: int, stop: int
) -> tuple[Int64[ndarray, " M"], dict[str, NDArray[Any]]]:
    """Return sizes and columns of the systems `start:stop`, by the slowest and plainest way."""
    first, last = int(n_atoms[:start].sum()), int(n_atoms[:stop].sum())
    part = {
        field.name: columns[field.name][start:stop] if field.level is Level.SYSTEM else columns[field.name][first:last] for field in fields
    }
    return n_atoms[start:stop], part
