"""Files, databases and stores → frames: every format, nothing that can run code, and no file that stops the others."""

from __future__ import annotations

import gzip
import inspect
import os
import pickle
import re
import sqlite3
from importlib import import_module
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import write
from ase.io.formats import ioformats
from ase.io.trajectory import Trajectory

from campaign.structures.files import READABLE_FORMATS, claims_file, iter_frames
from campaign.structures.frame import Frame, RefusalKind
from campaign.structures.paths import InputFile

HOSTILE = "qu'o\"te new\nline %20?#@2 [1] Körper"


def read(path: Path, problem: str | None = None) -> list[Frame]:
    return list(iter_frames(InputFile(str(path), path.name, problem)))


def crystals(n: int = 3) -> list[Atoms]:
    frames = []
    for number in range(n):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        atoms.rattle(0.05, seed=number)
        frames.append(atoms)
    return frames


def assert_equal(found: list[Frame], expected: list[Atoms], digits_ang: float = 1e-6) -> None:
    assert [frame.index for frame in found] == list(range(len(expected)))
    for frame, atoms in zip(found, expected, strict=True):
        assert frame.refusal is None and frame.atoms is not None
        assert frame.atoms.numbers.tolist() == atoms.numbers.tolist() and frame.atoms.pbc.tolist() == atoms.pbc.tolist()
        difference = frame.atoms.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
        assert np.abs((difference - np.rint(difference)) @ atoms.cell.array).max() < digits_ang


@pytest.mark.parametrize(
    ("name", "format_", "n_frames"),
    [
        ("a.extxyz", "extxyz", 3),
        ("a.xyz", "extxyz", 3),
        ("a.cif", "cif", 3),
        ("a.traj", "traj", 3),
        ("a.db", "db", 3),
        ("a.json", "json", 3),
        ("POSCAR", "vasp", 1),
        ("CONTCAR_7", "vasp", 1),
        ("a.poscar", "vasp", 1),
        ("XDATCAR", "vasp-xdatcar", 3),
        ("a.xsf", "xsf", 3),
        ("a.gen", "gen", 1),
        ("a.vasp", "vasp", 1),
        ("a.pwi", "espresso-in", 1),
        ("a.extxyz.gz", "extxyz", 3),
        ("a.cif.bz2", "cif", 3),
        ("POSCAR.xz", "vasp", 1),
    ],
)
def test_formats_by_name(tmp_path: Path, name: str, format_: str, n_frames: int) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    expected = crystals(n_frames)
    options = {"pseudopotentials": {"Cu": "Cu.upf"}} if format_ == "espresso-in" else {}
    if format_ in {"db", "json"}:
        # ASE takes a file name with @ apart, so databases are written elsewhere and moved.
        write(tmp_path / name, expected, format=format_)
        (tmp_path / name).rename(folder / name)
    elif format_ == "traj":
        with Trajectory(folder / name, "w") as trajectory:
            for atoms in expected:
                trajectory.write(atoms)
    else:
        write(tmp_path / name, expected if n_frames > 1 else expected[0], format=format_, **options)
        (tmp_path / name).rename(folder / name)
    assert claims_file(folder / name)
    assert_equal(read(folder / name), expected, 2e-5 if format_ in {"xsf", "gen"} else 1e-6)


def test_a_molecule_in_a_format_that_ase_reads_only(tmp_path: Path) -> None:
    write(tmp_path / "a.pdb", molecule("H2O"))
    (frame,) = read(tmp_path / "a.pdb")
    assert frame.atoms is not None and str(frame.atoms.symbols) == "OH2" and not frame.atoms.pbc.any()


def test_what_an_ase_database_holds_survives(tmp_path: Path) -> None:
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.set_tags([0, 1, 2, 3])
    atoms.set_constraint(FixAtoms([0]))
    for name in ("a.db", "a.json"):
        with ase.db.connect(tmp_path / name) as database:
            database.write(atoms, group="x", value=1.5, data={"list": [1, 2]})
            database.write(atoms, group="y")
            del database[1]
            database.write(atoms, group="z")
        frames = read(tmp_path / name)
        assert [(frame.index, frame.atoms.info["group"]) for frame in frames if frame.atoms is not None] == [(0, "y"), (1, "z")]
        assert frames[0].atoms is not None and frames[0].atoms.get_tags().tolist() == [0, 1, 2, 3]
        assert frames[0].atoms.constraints[0].index.tolist() == [0] and "unique_id" in frames[0].atoms.info


def test_a_damaged_row_of_a_database_costs_itself_only(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "a.db") as database:
        for atoms in crystals():
            database.write(atoms)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE systems SET positions = ? WHERE id = 2", (b"short",))
    connection.close()
    frames = read(tmp_path / "a.db")
    assert [frame.refusal is None for frame in frames] == [True, False, True]
    assert frames[1].refusal is not None and "record cannot be read" in frames[1].refusal.text


def test_a_database_is_opened_for_reading_only(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE things (id INTEGER)")
    connection.close()
    before = (tmp_path / "other.db").read_bytes()
    (frame,) = read(tmp_path / "other.db")
    assert frame.refusal is not None and frame.refusal.kind is RefusalKind.FORMAT and "no table `systems`" in frame.refusal.text
    assert (tmp_path / "other.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


def test_a_trajectory_that_was_cut_keeps_its_frames_or_says_why(tmp_path: Path) -> None:
    with Trajectory(tmp_path / "a.traj", "w") as trajectory:
        for atoms in crystals():
            trajectory.write(atoms)
    whole = (tmp_path / "a.traj").read_bytes()
    for cut in (1, 10, len(whole) // 2, len(whole) - 5):
        (tmp_path / "cut.traj").write_bytes(whole[:cut])
        frames = read(tmp_path / "cut.traj")
        assert frames and any(frame.refusal is not None for frame in frames)


class Trap:
    """Something that writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return os.system, (f"touch '{self.file}'",)


@pytest.mark.parametrize(
    "name", ["a.pckl", "a.pkl", "a.pickle", "a.pt", "a.npy", "a.traj", "a.extxyz", "a.db", "a.json", "a.cif", "POSCAR", "a"]
)
def test_nothing_unpickles(tmp_path: Path, name: str) -> None:
    fired = tmp_path / "fired"
    (tmp_path / name).write_bytes(pickle.dumps(Trap(fired)))
    frames = read(tmp_path / name)
    assert frames[0].refusal is not None and not fired.exists()


def test_pickles_are_refused_by_name_with_what_to_write_instead(tmp_path: Path) -> None:
    (tmp_path / "a.pckl").write_bytes(b"x")
    (frame,) = read(tmp_path / "a.pckl")
    assert frame.refusal is not None and frame.refusal.kind is RefusalKind.FORMAT
    assert re.search(r"\.pckl files can run code.*write extxyz", frame.refusal.text)


def test_no_readable_format_has_code_that_could_run_what_a_file_says() -> None:
    assert {"bundletrajectory", "castep-cell", "gpw", "mysql", "postgresql", "py"}.isdisjoint(READABLE_FORMATS)
    for name in READABLE_FORMATS:
        module = import_module(ioformats[name].module_name)
        source = inspect.getsource(module)
        # ase.io.trajectory can convert old pickles, but its reader does not; the test above tries it.
        hits = re.findall(r"\bpickle\.|(?<![\w.])eval\(|(?<![\w.])exec\(|os\.system|subprocess|allow_pickle=True", source)
        # A calculator may look for its program; readers use none but those that only remember.
        reader = inspect.getsource(inspect.unwrap(ioformats[name]._readfunc()))
        hits += [hit for hit in re.findall(r"ase\.calculators\.(\w+)", reader) if hit not in {"singlepoint", "calculator"}]
        assert not hits, (name, hits)


def test_files_that_hold_nothing_or_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.extxyz").touch()
    (tmp_path / "blank.extxyz").write_text("\n\n")
    (tmp_path / "text.extxyz").write_text("hello\n")
    (tmp_path / "unknown.abc").write_text("hello\n")
    os.mkfifo(tmp_path / "pipe.extxyz")
    (tmp_path / "loop.extxyz").symlink_to("loop.extxyz")
    (tmp_path / "gone.extxyz").symlink_to("nowhere")
    (tmp_path / "packed.extxyz.gz").write_bytes(gzip.compress(b"1\n\nCu 0 0 0\n" * 1000)[:30])
    (tmp_path / "folder.cif").mkdir()
    expected = {
        "empty.extxyz": (RefusalKind.EMPTY_FILE, "is empty"),
        "blank.extxyz": (RefusalKind.EMPTY_FILE, "holds no structure"),
        "text.extxyz": (RefusalKind.MALFORMED, "starts with its number of atoms"),
        "unknown.abc": (RefusalKind.FORMAT, "is not read"),
        "pipe.extxyz": (RefusalKind.UNREADABLE, "no regular file"),
        "loop.extxyz": (RefusalKind.UNREADABLE, "symbolic links"),
        "gone.extxyz": (RefusalKind.UNREADABLE, "No such file"),
        "packed.extxyz.gz": (RefusalKind.UNREADABLE, "Compressed file ended"),
        "folder.cif": (RefusalKind.UNREADABLE, "no regular file"),
    }
    for name, (kind, words) in expected.items():
        frame = read(tmp_path / name)[-1]
        assert frame.refusal is not None, name
        assert frame.refusal.kind is kind and words in frame.refusal.text, (name, frame.refusal)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text("x")
    (tmp_path / "a.cif").chmod(0)
    (frame,) = read(tmp_path / "a.cif")
    assert frame.refusal is not None and "Permission denied" in frame.refusal.text


def test_a_folder_that_could_not_be_listed_is_one_refusal(tmp_path: Path) -> None:
    (frame,) = read(tmp_path, problem="Permission denied")
    assert frame.refusal is not None and "the folder cannot be listed: Permission denied" in frame.refusal.text


def test_frames_around_the_fault_of_a_format_that_ase_reads_survive_where_its_reader_can_skip(tmp_path: Path) -> None:
    head = "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 4\n0 4\n0 4\nITEM: ATOMS id type element x y z\n"
    text = "".join(head + f"1 1 Cu 0 0 {step}\n" for step in (0, 1, "x", 3))
    (tmp_path / "dump").write_text(text)
    frames = read(tmp_path / "dump")
    assert [(frame.index, frame.refusal is None) for frame in frames] == [(0, True), (1, True), (2, False), (3, True)]
    assert frames[2].refusal is not None and "ASE's reader stops with ValueError" in frames[2].refusal.text


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("a.xyz", True),
        ("A.CIF", True),
        ("x.cif.gz", True),
        ("POSCAR_1", True),
        ("x.vasp.POSCAR", True),
        ("README.md", False),
        ("slurm-1.out", False),
        ("run.log", False),
        ("notes.txt", False),
        ("calc.pckl", False),
        ("settings.json", False),  # looked into, and not there
        ("noextension", False),
    ],
)
def test_claims_file(name: str, claimed: bool) -> None:
    assert claims_file(Path("nowhere") / name) is claimed
