"""Whole systems in memory, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.fields import Field, Level


@dataclass(frozen=True)
class Systems:
    """Whole systems, as `map_systems` hands them out: atom fields of system i are the rows `atoms_ptr[i]:atoms_ptr[i+1]`.

    >>> systems = Systems(np.array([0, 2, 3]), {"forces": np.ones((3, 3))}, frozenset({"forces"}))
    >>> [row["forces"].shape for row in systems]
    [(2, 3), (1, 3)]
    """

    atoms_ptr: Int64[ndarray, " N+1"]
    values: Mapping[str, NDArray[Any]]
    atom_fields: frozenset[str]

    def __len__(self) -> int:
        return len(self.atoms_ptr) - 1

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.values[name]

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        for i in range(len(self)):
            span = slice(self.atoms_ptr[i], self.atoms_ptr[i + 1])
            yield {name: values[span] if name in self.atom_fields else values[i] for name, values in self.values.items()}


def systems_of(n_atoms: Int64[ndarray, " N"], values: Mapping[str, NDArray[Any]], fields: Mapping[str, Field]) -> Systems:
    """Return systems of so many atoms with the values of some fields."""
    ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_atoms)])
    return Systems(ptr, values, frozenset(name for name in values if fields[name].level is Level.ATOM))
