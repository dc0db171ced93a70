"""Frames of extended xyz: what ASE reads back is what was written, whatever the text."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read
from hypothesis import given
from hypothesis import strategies as st

from campaign.analysis.export.extxyz import frame_text


def there_and_back(atoms: Atoms) -> Atoms:
    text = frame_text(atoms) * 2
    frames = read(io.StringIO(text), ":", format="extxyz")
    assert len(frames) == 2
    return frames[1]


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**62), 2**62)
lists = st.lists(st.text() | numbers | st.none(), max_size=4)
values = st.booleans() | numbers | st.text() | st.none() | lists | st.dictionaries(st.text(), numbers, max_size=2)
TAKEN = {"pbc", "Lattice", "Properties", "virial", *all_properties}


@given(st.text().filter(str.isprintable), values)
def test_info_comes_back(key: str, value: Any) -> None:
    found = there_and_back(Atoms("Cu", info={key: value})).info
    assert list(found) == [f"info_{key}" if key in TAKEN or key.lower() == "uid" else key or "_"]
    (found_value,) = (plain(one) for one in found.values())
    if isinstance(value, list | int | float) and not isinstance(value, bool):
        # ASE makes arrays of numbers, of one type.
        assert np.array_equal(np.asarray(found_value, dtype=object), np.asarray(value, dtype=object)) or found_value == pytest.approx(value)
    else:
        assert found_value == value


def test_keys_with_control_characters_are_written_out() -> None:
    assert there_and_back(Atoms("Cu", info={"a\nb": 1})).info == {"a\\nb": 1}


LOOKS = ["", " ", "T", "1", "1 2", "nan", "_JSON [1]", "a\nb", 'q"q', "back\\slash", "trailing\\", "a=b", "{x}", "\u2028", "å", "1_0"]


@pytest.mark.parametrize("text", LOOKS)
def test_text_that_looks_like_something_else(text: str) -> None:
    assert there_and_back(Atoms("Cu", info={"key": text})).info == {"key": text}


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 3), min_size=1, max_size=4))
def test_positions_come_back_bit_for_bit(positions: list[tuple[float, float, float]]) -> None:
    atoms = Atoms(f"Au{len(positions)}", positions=positions, cell=np.array(positions[0] * 3).reshape(3, 3), pbc=[True, False, True])
    found = there_and_back(atoms)
    assert np.array_equal(found.positions, atoms.positions) and found.pbc.tolist() == [True, False, True]
    assert np.array_equal(found.cell.array, atoms.cell.array)


def test_everything_that_a_structure_has() -> None:
    atoms = fcc111("Cu", (1, 1, 3), vacuum=5)
    atoms.info = {"energy": "not ours"}
    atoms.set_initial_charges([0.1, 0, -0.1])
    atoms.set_initial_magnetic_moments([1, 2, 3])
    atoms.set_masses([63, 64, 65])
    atoms.set_constraint([FixAtoms([2]), FixCartesian([1], mask=(False, False, True))])
    atoms.calc = SinglePointCalculator(atoms, energy=-1 / 3, forces=np.arange(9.0).reshape(3, 3) / 7, stress=np.arange(6.0) / 9)
    found = there_and_back(atoms)
    assert found.info == {"info_energy": "not ours"}
    assert found.get_potential_energy() == -1 / 3
    assert np.array_equal(found.calc.results["forces"], atoms.calc.results["forces"])
    assert np.array_equal(found.get_stress(), atoms.get_stress())
    assert found.get_tags().tolist() == atoms.get_tags().tolist() and found.get_masses().tolist() == [63, 64, 65]
    assert found.get_initial_charges().tolist() == [0.1, 0, -0.1] and found.get_initial_magnetic_moments().tolist() == [1, 2, 3]
    masks = {int(constraint.index[0]): constraint.mask.tolist() for constraint in found.constraints if constraint.mask.any()}
    assert masks == {1: [False, False, True], 2: [True, True, True]}
