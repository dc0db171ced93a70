"""Counting what structures are made of, against brute force, and how formulas are written."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase.data import chemical_symbols
from hypothesis import given
from hypothesis import strategies as st

from campaign.analysis.composition import Compositions
from campaign.errors import InputError

structures = st.lists(st.lists(st.sampled_from([1, 6, 8, 29, 79]), max_size=12), max_size=8)


def of(structure_lists: list[list[int]]) -> Compositions:
    return Compositions.of_atoms(
        np.array([len(s) for s in structure_lists], np.int64), np.array([z for s in structure_lists for z in s], np.int64)
    )


@given(structures)
def test_counts_are_those_of_a_counter(lists: list[list[int]]) -> None:
    compositions = of(lists)
    assert len(compositions) == len(lists)
    for i, numbers in enumerate(lists):
        span = slice(compositions.ptr[i], compositions.ptr[i + 1])
        assert dict(zip(compositions.numbers[span].tolist(), compositions.counts[span].tolist(), strict=True)) == Counter(numbers)
        assert compositions.n_atoms[i] == len(numbers)
        if numbers:
            assert compositions.fraction_of(29)[i] == pytest.approx(numbers.count(29) / len(numbers))


@given(structures)
def test_unique_and_take_undo_each_other(lists: list[list[int]]) -> None:
    compositions = of(lists)
    distinct, which = compositions.unique()
    assert len(distinct) == len({tuple(sorted(Counter(numbers).items())) for numbers in lists})
    assert distinct.take(which).formulas == compositions.formulas


@given(structures, structures)
def test_concatenate_is_a_list_plus(first: list[list[int]], second: list[list[int]]) -> None:
    assert Compositions.concatenate([of(first), of(second)]).formulas == of(first + second).formulas


@given(st.lists(st.sampled_from([13, 22, 28]), min_size=1, max_size=9), st.integers(1, 4))
def test_reduced_does_not_see_supercells(numbers: list[int], repeats: int) -> None:
    assert of([numbers * repeats]).reduced().formulas == of([numbers]).reduced().formulas


@pytest.mark.parametrize(
    ("symbols", "formula", "system"),
    [
        ("Cu Cu Cu Au", "Cu3Au", "Au-Cu"),
        ("O O O Ti Ba", "BaTiO3", "Ba-O-Ti"),
        ("O O Li Co", "LiCoO2", "Co-Li-O"),
        ("Cl Na", "NaCl", "Cl-Na"),
        ("H H H H C", "CH4", "C-H"),  # organic: C and H lead
        ("H H O", "H2O", "H-O"),
        ("X Cu", "XCu", "Cu-X"),  # ASE's dummy atom
    ],
)
def test_formulas_are_written_as_chemists_do(symbols: str, formula: str, system: str) -> None:
    compositions = of([[chemical_symbols.index(symbol) for symbol in symbols.split()]])
    assert compositions.formulas == [formula]
    assert compositions.chemical_systems == [system]


def test_atoms_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 atomic numbers for structures of 4 atoms"):
        Compositions.of_atoms(np.array([4]), np.array([1, 1, 1]))
