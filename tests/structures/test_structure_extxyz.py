"""Frames of xyz files: a broken frame costs itself and no other."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st

from campaign.structures.extxyz import MAX_LINE, iter_extxyz
from campaign.structures.frame import Frame, RefusalKind

GOOD = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 name={name}\nCu 0 0 0\nAu 2 2 2\n'


def frames(text: str) -> list[Frame]:
    return list(iter_extxyz(io.StringIO(text)))


def good(name: str) -> str:
    return GOOD.replace("{name}", name)


BROKEN = {
    # what is wrong: text, kind, words of the reason
    "a number that is none": ("2\n\nCu 0 0 0\nAu 2 oops 2\n", RefusalKind.MALFORMED, "could not convert"),
    "an unknown element": ("1\n\nQq 0 0 0\n", RefusalKind.MALFORMED, "Qq"),
    "a count that is none": ("two\n\nCu 0 0 0\nAu 2 2 2\n", RefusalKind.MALFORMED, "starts with its number of atoms"),
    "a negative count": ("-2\n\nCu 0 0 0\nAu 2 2 2\n", RefusalKind.MALFORMED, "'-2'"),
    "a count that is too large": ("3\n\nCu 0 0 0\nAu 2 2 2\n", RefusalKind.TRUNCATED, "says 3 atoms, 2 lines follow"),
    "a count that is too small": ("1\n\nCu 0 0 0\nAu 2 2 2\n", RefusalKind.MALFORMED, "says 1 atoms, 2 lines follow"),
    "a missing column": ("2\n\nCu 0 0 0\nAu 2 2\n", RefusalKind.MALFORMED, "Error"),
    "a surplus column": ("2\nProperties=species:S:1:pos:R:3\nCu 0 0 0\nAu 2 2 2 7\n", RefusalKind.MALFORMED, "line 8 has 5 columns"),
    "a lattice of eight": ('1\nLattice="1 0 0 0 1 0 0 0"\nCu 0 0 0\n', RefusalKind.MALFORMED, "Lattice"),
    "unknown type in Properties": ("1\nProperties=species:X:1:pos:R:3\nCu 0 0 0\n", RefusalKind.MALFORMED, "Unknown property type"),
    "bad pbc": ('1\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T T"\nCu 0 0 0\n', RefusalKind.MALFORMED, "frame at line 5"),
    "no atoms": ("0\n\n", RefusalKind.NO_ATOMS, "no atoms"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_frames_around_a_broken_one_survive(what: str) -> None:
    text, kind, words = BROKEN[what]
    found = frames(good("first") + text + good("last"))
    assert [frame.index for frame in found] == [0, 1, 2]
    assert [frame.refusal is None for frame in found] == [True, False, True]
    assert found[1].refusal is not None and found[1].refusal.kind is kind
    assert words in found[1].refusal.text and found[1].atoms is None
    assert found[0].atoms is not None and found[0].atoms.info == {"name": "first"}
    assert found[2].atoms is not None and found[2].atoms.info == {"name": "last"}


@given(st.lists(st.sampled_from(["good", *BROKEN]), max_size=8))
def test_every_frame_gives_one_row_whatever_is_broken(parts: list[str]) -> None:
    found = frames("".join(good(str(number)) if part == "good" else BROKEN[part][0] for number, part in enumerate(parts)))
    # Two heads that are no counts, one behind the other, cannot be told from one frame with rubbish behind it.
    heads = {"a count that is none", "a negative count"}
    expected = [part for at, part in enumerate(parts) if part not in heads or at == 0 or parts[at - 1] not in heads]
    assert [frame.refusal is None for frame in found] == [part == "good" for part in expected]


def test_a_file_cut_anywhere_keeps_the_frames_before_the_cut() -> None:
    text = good("first") + good("second")
    whole = len(good("first"))
    for cut in range(whole, len(text) - 1):
        found = frames(text[:cut])
        assert found[0].refusal is None
        assert len(found) == 1 + (cut > whole)
        # Only the digits of the very last number can be lost without a trace.
        assert all(frame.refusal is not None for frame in found[1:]) or cut >= len(text) - 2


def test_what_ase_writes_is_read_with_all_its_columns() -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.set_tags([1, 2, 3, 4])
    atoms.set_initial_charges([0.5, 0, 0, -0.5])
    atoms.set_constraint(FixAtoms([1, 2]))
    atoms.info = {"key": "a b", "numbers": np.array([1.0, 2.0])}
    text = io.StringIO()
    write(text, [atoms, atoms], format="extxyz", columns=["symbols", "positions", "tags", "initial_charges", "move_mask"])
    for frame in frames(text.getvalue()):
        assert frame.atoms is not None
        assert frame.atoms.get_tags().tolist() == [1, 2, 3, 4]
        assert frame.atoms.get_initial_charges().tolist() == [0.5, 0, 0, -0.5]
        assert frame.atoms.constraints[0].index.tolist() == [1, 2]
        assert frame.atoms.info["key"] == "a b" and frame.atoms.info["numbers"].tolist() == [1, 2]
        assert np.allclose(frame.atoms.cell.array, atoms.cell.array)


def test_plain_xyz_with_more_columns_and_blank_lines_between_frames() -> None:
    found = frames("1\n7\nCu 0 0 0 0.5 0.5\n\n\n1\n\nAu 0 0 0\n")
    assert [str(frame.atoms.symbols) for frame in found if isinstance(frame.atoms, Atoms)] == ["Cu", "Au"]


def test_windows_line_ends_and_vec_lines() -> None:
    (frame,) = iter_extxyz(io.TextIOWrapper(io.BytesIO(b"1\r\n\r\nCu 0 0 0\r\nVEC1 4 0 0\r\nVEC2 0 4 0\r\nVEC3 0 0 4\r\n")))
    assert frame.atoms is not None and frame.atoms.pbc.all() and frame.atoms.cell.volume == pytest.approx(64)


def test_a_line_without_an_end_is_not_read_into_memory() -> None:
    with pytest.raises(ValueError, match="longer than"):
        frames("x" * (MAX_LINE + 1))


def test_a_truncated_gzip_file_keeps_the_frames_before() -> None:
    packed = gzip.compress(("".join(good(str(number)) for number in range(2000))).encode())
    with io.TextIOWrapper(gzip.open(io.BytesIO(packed[: len(packed) // 2]))) as text:
        reader = iter_extxyz(text)
        assert next(reader).refusal is None
        with pytest.raises(EOFError):
            for _ in reader:
                pass
