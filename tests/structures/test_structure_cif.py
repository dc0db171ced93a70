"""CIF files: every fault that ASE's reader passes over is a refusal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from campaign.structures.cif import iter_cif, parse_formula, split_blocks
from campaign.structures.frame import Frame, RefusalKind

CELL = "_cell_length_a 3.75\n_cell_length_b 3.75\n_cell_length_c 3.75\n_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 90\n"
SITES = "loop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
L12 = "Au1 Au 0 0 0\nCu1 Cu 0 0.5 0.5\nCu2 Cu 0.5 0 0.5\nCu3 Cu 0.5 0.5 0\n"


def read(text: str) -> list[Frame]:
    return list(iter_cif(text.encode("latin-1")))


def only(text: str) -> Frame:
    (frame,) = read(text)
    return frame


def atoms_of(frame: Frame) -> Atoms:
    assert frame.refusal is None and isinstance(frame.atoms, Atoms)
    return frame.atoms


def test_what_ase_writes_is_read() -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.rattle(0.05, seed=1)
    data = io.BytesIO()
    write(data, [atoms, atoms], format="cif")
    frames = list(iter_cif(data.getvalue()))
    assert [frame.index for frame in frames] == [0, 1]
    for frame in frames:
        found = atoms_of(frame)
        difference = found.get_scaled_positions() - atoms.get_scaled_positions()
        assert np.abs(difference - np.rint(difference)).max() < 1e-9 and found.pbc.all()
        assert found.info["spacegroup"] == "P 1"


def test_symmetry_is_applied() -> None:
    text = f"data_x\n{CELL}_symmetry_space_group_name_H-M 'F m -3 m'\n_chemical_formula_sum 'Cu'\n{SITES}Cu1 Cu 0 0 0\n"
    assert len(atoms_of(only(text))) == 4


REFUSED = {
    # what: text, kind, words of the reason
    "partial occupancy": (
        f"data_x\n{CELL}{SITES}_atom_site_occupancy\nAu1 Au 0 0 0 0.5\n",
        RefusalKind.PARTIAL_OCCUPANCY,
        "site 1 has occupancy 0.5",
    ),
    "a shared site": (
        f"data_x\n{CELL}{SITES}_atom_site_occupancy\nAu1 Au 0 0 0 0.7\nCu1 Cu 0 0 0 0.3\n",
        RefusalKind.PARTIAL_OCCUPANCY,
        "occupancy 0.7",
    ),
    "occupancy with an uncertainty": (
        f"data_x\n{CELL}{SITES}_atom_site_occupancy\nAu1 Au 0 0 0 0.95(1)\n",
        RefusalKind.PARTIAL_OCCUPANCY,
        "occupancy 0.95",
    ),
    "a disorder group": (
        f"data_x\n{CELL}{SITES}_atom_site_disorder_group\nAu1 Au 0 0 0 .\nCu1 Cu 0 0 0.5 1\n",
        RefusalKind.PARTIAL_OCCUPANCY,
        "site 2 belongs to disorder group",
    ),
    "two elements on one site": (f"data_x\n{CELL}{SITES}Au1 Au 0 0 0\nCu1 Cu 0 0 0\n", RefusalKind.OVERLAP, "two atoms on one spot"),
    "two elements on one site, said to be full": (
        f"data_x\n{CELL}{SITES}_atom_site_occupancy\nAu1 Au 0 0 0 1\nCu1 Cu 0 0 0 1\n",
        RefusalKind.OVERLAP,
        "two atoms on one spot",
    ),
    "cut before the sites": (f"data_x\n{CELL}", RefusalKind.TRUNCATED, "no atom sites"),
    "cut in the cell": ("data_x\n_cell_length_a 3.75\n_cell_length_b\n", RefusalKind.TRUNCATED, "stops"),
    "cut in the names of columns": (f"data_x\n{CELL}{SITES[:-24]}", RefusalKind.TRUNCATED, "no atom sites"),
    "cut in a row": (f"data_x\n{CELL}{SITES}{L12[:-6]}", RefusalKind.TRUNCATED, "incomplete row"),
    "cut at the end of a row": (
        f"data_x\n{CELL}_chemical_formula_sum 'Cu3 Au'\n{SITES}{L12[:-17]}",
        RefusalKind.TRUNCATED,
        "the sites give Au1 Cu2, _chemical_formula_sum says Au1 Cu3",
    ),
    "cut to half of the formula": (
        f"data_x\n{CELL}_chemical_formula_sum 'Cu2 Au2'\n{SITES}Au1 Au 0 0 0\nCu1 Cu 0 0.5 0.5\n",
        RefusalKind.TRUNCATED,
        "cut off",
    ),
    "a row with too many columns": (f"data_x\n{CELL}{SITES}{L12}Cu4 Cu 0 0 0.2 7\n", RefusalKind.MALFORMED, "leaves data out"),
    "copper that reads as carbon": (f"data_x\n{CELL}{SITES}CU1 CU 0 0 0\n", RefusalKind.MALFORMED, "'CU' could be Cu or C"),
    "an element that is none": (f"data_x\n{CELL}{SITES}Qq1 Qq 0 0 0\n", RefusalKind.MALFORMED, "Qq"),
    "a coordinate that is none": (f"data_x\n{CELL}{SITES}Cu1 Cu 0 0 zero\n", RefusalKind.MALFORMED, "CIF reader stops"),
    "an unknown coordinate": (f"data_x\n{CELL}{SITES}Cu1 Cu 0 0 ?\n", RefusalKind.MALFORMED, "CIF reader stops"),
    "no structure at all": ("data_x\n_publ_author 'N. N.'\n", RefusalKind.MALFORMED, "no data block"),
    "no CIF at all": ("hello\n", RefusalKind.MALFORMED, "no data block"),
    "an open string": (f"data_x\n{CELL}_note\n;\nnever closed\n", RefusalKind.TRUNCATED, "stops"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_a_reason(what: str) -> None:
    text, kind, words = REFUSED[what]
    frame = only(text)
    assert frame.refusal is not None, frame.atoms
    assert frame.refusal.kind is kind, frame.refusal
    assert words in frame.refusal.text


@pytest.mark.parametrize("occupancy", ["1", "1.0", "1.0000", "1.00(2)", ".", "?", "0.9999"])
def test_full_sites_are_full_however_they_are_written(occupancy: str) -> None:
    text = f"data_x\n{CELL}{SITES}_atom_site_occupancy\nAu1 Au 0 0 0 {occupancy}\nCu1 Cu 0.5 0.5 0.5 1.0\n"
    assert str(atoms_of(only(text)).symbols) == "AuCu"


def test_a_broken_block_costs_itself_only_and_blocks_without_a_structure_are_no_frames() -> None:
    good = f"{CELL}{SITES}{L12}"
    text = f"data_global\n_publ_author 'N. N.'\ndata_a\n{good}data_b\n{good}Cu9 Cu 0.1\ndata_c\n{good}"
    frames = read(text)
    assert [frame.refusal is None for frame in frames] == [True, False, True]
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_a_file_cut_at_any_character_is_whole_or_refused() -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.numbers[0] = 79
    data = io.BytesIO()
    write(data, atoms, format="cif")
    whole = data.getvalue()
    end = len(whole.rstrip())
    for cut in range(end - 1):
        for frame in iter_cif(whole[:cut]):
            # What cannot be seen: the occupancy, the last column, loses zeros behind the point.
            complete = cut > whole.rindex(b"1.0000")
            assert frame.refusal is not None or complete, whole[:cut][-60:]


def test_deuterium_keeps_its_mass() -> None:
    atoms = atoms_of(only(f"data_x\n{CELL}_chemical_formula_sum 'D'\n{SITES}D1 D 0 0 0\n"))
    assert atoms.get_masses()[0] == pytest.approx(2.01355)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("'C2 H6 O'", {"C": 2.0, "H": 6.0, "O": 1.0}),
        ("Fe0.95 O", {"Fe": 0.95, "O": 1.0}),
        ("D2 H O", {"H": 3.0, "O": 1.0}),
        ("C2H6O", {}),  # not the form of the standard: no check rather than a wrong one
        ("Qq", {}),
        ("", {}),
    ],
)
def test_parse_formula(text: str, counts: dict[str, float]) -> None:
    assert parse_formula(text) == counts


def test_split_blocks_leaves_strings_alone() -> None:
    text = "# head\ndata_a\n_note\n;\ndata_in_a_string\n;\nDATA_b\n"
    assert split_blocks(text) == ["data_a\n_note\n;\ndata_in_a_string\n;\n", "DATA_b\n"]
