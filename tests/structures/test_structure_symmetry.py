"""FixSymmetry on inputs: which formats carry it, and what of it cannot be kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixSymmetry
from ase.io import write
from small_campaign import SPEC

from campaign.fields import decode_error
from campaign.ingest import run_ingest
from campaign.spec import parse_spec
from campaign.store import StoreReader
from campaign.structures.checks import check_structure
from campaign.structures.files import iter_frames
from campaign.structures.frame import RefusalKind
from campaign.structures.paths import InputFile

# spglib and ASE's use of it tell of what spglib will do in its next version.
pytestmark = pytest.mark.filterwarnings("ignore:.*OLD_ERROR_HANDLING.*:DeprecationWarning")


def kept(atoms: Atoms, **options: object) -> Atoms:
    atoms.set_constraint(FixSymmetry(atoms, **options))
    return atoms


def structures() -> list[Atoms]:
    slab = kept(fcc111("Cu", (1, 1, 3), vacuum=5.0))
    slab.set_constraint([FixAtoms([0]), *slab.constraints])
    slab.info = {}
    return [bulk("Cu", cubic=True), kept(bulk("CuAu", "rocksalt", a=5.0), symprec=0.02, adjust_cell=False), slab]


@pytest.mark.parametrize(("name", "carries"), [("a.db", True), ("a.json", True), ("a.traj", True), ("a.extxyz", False)])
def test_what_a_format_carries_is_read_into_the_inputs(name: str, carries: bool, tmp_path: Path) -> None:
    write(tmp_path / name, structures())
    report = run_ingest(parse_spec(SPEC.replace("{paths}", f'"{name}"'), tmp_path))
    inputs = StoreReader.open(report.paths.inputs)
    assert report.n_rejected == 0
    assert inputs.read_system("symprec")[:, 0].tolist() == ([0.0, 0.02, 0.01] if carries else [0.0] * 3)
    assert inputs.read_atoms("fixed")[1].all(axis=1).tolist() == [False] * 6 + [True, False, False]
    # An inputs.zarr is an input too, and nothing in it moves.
    frames = list(iter_frames(InputFile(str(report.paths.inputs), "inputs.zarr")))
    assert [[type(one).__name__ for one in frame.atoms.constraints] for frame in frames if frame.atoms is not None] == [
        [],
        ["FixSymmetry"] if carries else [],
        ["FixAtoms", "FixSymmetry"] if carries else ["FixAtoms"],
    ]
    assert np.array_equal(np.concatenate([frame.atoms.positions for frame in frames if frame.atoms]), inputs.read_atoms("positions")[1])


def moved() -> Atoms:
    atoms = kept(bulk("Cu", cubic=True))
    atoms.positions[0] += 0.3
    return atoms


def twice() -> Atoms:
    atoms = kept(bulk("Cu"))
    atoms.set_constraint([*atoms.constraints, FixSymmetry(atoms, symprec=0.1)])
    return atoms


@pytest.mark.parametrize(
    ("atoms", "text"),
    [
        (moved(), "its FixSymmetry keeps 192 operations, 6 are found in its positions with symprec = 0.01 Å; make the constraint anew"),
        (twice(), "it has 2 FixSymmetry constraints; one can be kept. Remove the others"),
    ],
)
def test_what_cannot_be_kept_is_refused(atoms: Atoms, text: str) -> None:
    refusal = check_structure(atoms, None)
    assert refusal is not None and refusal.kind is RefusalKind.CONSTRAINT
    assert refusal.text.startswith(text)


def test_a_symmetric_strain_after_the_constraint_is_fine() -> None:
    atoms = kept(bulk("Cu", cubic=True))
    atoms.set_cell(atoms.cell.array * 1.05, scale_atoms=True)
    assert check_structure(atoms, None) is None


def test_a_mask_of_strains_refuses_them(tmp_path: Path) -> None:
    write(tmp_path / "a.db", structures())
    text = SPEC.replace("{paths}", '"a.db"').replace('cell = "full"', 'cell = "full"\nstrain_mask = [true, true, false, true, true, true]')
    report = run_ingest(parse_spec(text, tmp_path))
    inputs = StoreReader.open(report.paths.inputs)
    assert dict(report.reasons) == {"unsupported constraint": 2}
    assert "FixSymmetry and relax.strain_mask exclude each other" in decode_error(inputs.read_system("error")[1].tobytes())
    assert (inputs.read_system("symprec") == 0).all()
