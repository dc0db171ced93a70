"""What structures are made of: elements and counts per structure, formulas, chemical systems.

Counts are kept sparse (most structures have a few of a hundred elements) and one behind the other, as everywhere: entry `ptr[i]:ptr[i+1]`
of `numbers` and `counts` belongs to structure i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int, Int64
from numpy import ndarray

from campaign.errors import InputError

# Pauling's electronegativities (CRC Handbook of Chemistry and Physics, 97th edition) by atomic number, 0 where there is none. They only
# order the symbols of a formula: Cu3Au, BaTiO3, LiCoO2 and not AuCu3, TiBaO3, CoLiO2.
# fmt: off
_ELECTRONEGATIVITY: Final = np.array([
    0, 2.20, 0, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, 0, 0.93, 1.31, 1.61, 1.90, 2.19, 2.58, 3.16, 0,
    0.82, 1.00, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.90, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3.00,
    0.82, 0.95, 1.22, 1.33, 1.60, 2.16, 1.90, 2.20, 2.28, 2.20, 1.93, 1.69, 1.78, 1.96, 2.05, 2.10, 2.66, 2.60,
    0.79, 0.89, 1.10, 1.12, 1.13, 1.14, 1.13, 1.17, 1.20, 1.20, 1.10, 1.22, 1.23, 1.24, 1.25, 1.10, 1.27,
    1.30, 1.50, 2.36, 1.90, 2.20, 2.20, 2.28, 2.54, 2.00, 1.62, 2.33, 2.02, 2.00, 2.20, 2.20,
    0.70, 0.90, 1.10, 1.30, 1.50, 1.38, 1.36, 1.28, 1.30, 1.28, 1.30, 1.30, 1.30, 1.30, 1.30, 1.30,
])
# fmt: on
_HYDROGEN, _CARBON = 1, 6


@dataclass(frozen=True)
class Compositions:
    """Elements and counts of N structures; atomic numbers rise within a structure."""

    ptr: Int64[ndarray, " N+1"]
    numbers: Int64[ndarray, " C"]
    counts: Int64[ndarray, " C"]

    @classmethod
    def of_atoms(cls, n_atoms: Int[ndarray, " N"], atomic_numbers: Int[ndarray, " A"]) -> Compositions:
        """Count the atoms of structures that lie one behind the other.

        Raises:
            InputError: the counts do not add up to the atoms, or an atomic number is negative.

        >>> Compositions.of_atoms(np.array([4, 1]), np.array([29, 29, 79, 29, 79])).formulas
        ['Cu3Au', 'Au']
        """
        n_atoms, atomic_numbers = np.asarray(n_atoms, np.int64), np.asarray(atomic_numbers, np.int64)
        if n_atoms.sum() != len(atomic_numbers) or (atomic_numbers < 0).any():
            raise InputError(
                f"{len(atomic_numbers)} atomic numbers for structures of {n_atoms.sum()} atoms: there must be one for each atom, 0 or "
                "more. Give the atoms of all structures one behind the other."
            )
        base = int(atomic_numbers.max(initial=0)) + 1
        keys, counts = np.unique(np.repeat(np.arange(len(n_atoms)), n_atoms) * base + atomic_numbers, return_counts=True)
        rows, numbers = np.divmod(keys, base)
        return cls(np.searchsorted(rows, np.arange(len(n_atoms) + 1)), numbers, counts.astype(np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[Compositions]) -> Compositions:
        """Return the structures of all parts in order."""
        sizes = [np.zeros(1, np.int64), *(np.diff(part.ptr) for part in parts)]
        return cls(
            np.cumsum(np.concatenate(sizes)),
            np.concatenate([np.zeros(0, np.int64), *(part.numbers for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)]),
        )

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @cached_property
    def rows(self) -> Int64[ndarray, " C"]:
        """Structure of each entry."""
        return np.repeat(np.arange(len(self)), np.diff(self.ptr))

    @cached_property
    def n_atoms(self) -> Int64[ndarray, " N"]:
        """Atoms of each structure."""
        return np.bincount(self.rows, self.counts, len(self)).astype(np.int64)

    @cached_property
    def fractions(self) -> Float[ndarray, " C"]:
        """Part of the atoms of its structure that each entry is."""
        return np.asarray(self.counts / self.n_atoms[self.rows])

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, from the least to the most electronegative element."""
        return tuple(_ordered(np.unique(self.numbers)))

    def fraction_of(self, number: int) -> Float[ndarray, " N"]:
        """Part of each structure's atoms that are of one element."""
        here = self.numbers == number
        return np.bincount(self.rows[here], self.fractions[here], len(self))

    def weighted(self, values: Float[ndarray, " Z"]) -> Float[ndarray, " N"]:
        """Mean over the atoms of each structure of a value per element, which is indexed by atomic number."""
        return np.bincount(self.rows, self.fractions * values[self.numbers], len(self))

    def reduced(self) -> Compositions:
        """Return counts divided by their greatest common divisor: Cu6Au2 becomes Cu3Au."""
        divisors = np.zeros(len(self), np.int64)
        np.gcd.at(divisors, self.rows, self.counts)
        return Compositions(self.ptr, self.numbers, self.counts // np.maximum(divisors, 1)[self.rows])

    def unique(self) -> tuple[Compositions, Int64[ndarray, " N"]]:
        """Return the different compositions, and which of them each structure has."""
        width = max(int(np.diff(self.ptr).max(initial=0)), 1)
        columns = np.arange(len(self.numbers)) - self.ptr[self.rows]
        table = np.zeros((len(self), 2, width), np.int64)
        table[self.rows, 0, columns] = self.numbers
        table[self.rows, 1, columns] = self.counts
        # Equal rows are equal bytes, and sorting those is several times faster than sorting column by column.
        raw = table.reshape(len(self), 2 * width).view(np.dtype((np.void, 16 * width))).ravel()
        _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
        return self.take(first), inverse

    def take(self, rows: Int64[ndarray, " M"]) -> Compositions:
        """Return some of the structures, in the order of `rows`."""
        sizes = np.diff(self.ptr)[rows]
        ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        at = np.arange(ptr[-1]) + np.repeat(self.ptr[rows] - ptr[:-1], sizes)
        return Compositions(ptr, self.numbers[at], self.counts[at])

    @property
    def formulas(self) -> list[str]:
        """Formula of each structure, from the least to the most electronegative element; organic ones begin with C and H."""
        distinct, which = self.unique()
        texts = []
        for start, stop in zip(distinct.ptr[:-1], distinct.ptr[1:], strict=True):
            count = dict(zip(distinct.numbers[start:stop].tolist(), distinct.counts[start:stop].tolist(), strict=True))
            texts.append("".join(f"{symbol(z)}{count[z] if count[z] > 1 else ''}" for z in _ordered(list(count))))
        return [texts[at] for at in which.tolist()]

    @property
    def chemical_systems(self) -> list[str]:
        """Symbols of each structure in alphabetical order, joined by `-`."""
        distinct, which = self.unique()
        texts = [
            "-".join(sorted(symbol(int(z)) for z in distinct.numbers[a:b]))
            for a, b in zip(distinct.ptr[:-1], distinct.ptr[1:], strict=True)
        ]
        return [texts[at] for at in which.tolist()]


def symbol(number: int) -> str:
    """Symbol of an element; X and its number where the periodic table ends.

    >>> symbol(79)
    'Au'
    """
    return str(chemical_symbols[number]) if number < len(chemical_symbols) else f"X{number}"


def _ordered(numbers: Sequence[int] | Int64[ndarray, " Z"]) -> list[int]:
    values = [int(number) for number in numbers]
    organic = {_HYDROGEN, _CARBON} <= set(values)

    def place(number: int) -> tuple[int, float, int]:
        rank = {_CARBON: 0, _HYDROGEN: 1}.get(number, 2) if organic else 2
        value = float(_ELECTRONEGATIVITY[number]) if number < len(_ELECTRONEGATIVITY) else 0.0
        return rank, value, number

    return sorted(values, key=place)
