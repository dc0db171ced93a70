"""Frames of any file, database or store that holds structures.

Extended xyz, CIF, trajectories, ASE databases and our own stores are read frame by frame, so that what is broken costs itself only; the
other formats go through ASE's readers, where what comes before the fault survives. The list of formats is written down: nothing that
unpickles, runs a program or talks to a server is on it, and formats that plug-ins add to ASE are not either.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import sqlite3
import stat
import urllib.parse
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final

import ase.io
from ase import Atoms
from ase.db.row import AtomsRow
from ase.db.sqlite import SQLite3Database
from ase.io.formats import UnknownFileTypeError, extension2format, filetype, ioformats
from ase.io.jsonio import decode
from ase.io.trajectory import TrajectoryReader

from campaign.errors import CampaignError
from campaign.structures.cif import iter_cif
from campaign.structures.extxyz import iter_extxyz
from campaign.structures.frame import Frame, RefusalKind, describe_error, refused
from campaign.structures.paths import InputFile

# fmt: off
READABLE_FORMATS: Final = frozenset({
    "abinit-in", "abinit-out", "aims", "aims-output", "castep-castep", "castep-geom", "castep-md",
    "castep-phonon", "cfg", "cif", "cjson", "cp2k-restart", "crystal", "cube", "dftb", "dlp-history", "dlp4",
    "dmol-arc", "dmol-car", "dmol-incoor", "eon", "espresso-in", "espresso-out", "extxyz", "gaussian-in",
    "gaussian-out", "gen", "gpaw-out", "gpumd", "gromacs", "gromos", "json", "jsv", "lammps-data", "lammps-dump-text",
    "magres", "mol", "mustem", "nomad-json", "nwchem-in", "nwchem-out", "octopus-in", "onetep-in", "onetep-out",
    "orca-output", "proteindatabank", "qbox", "res", "rmc6f", "runnerdata", "sdf", "siesta-xv", "struct", "struct_out",
    "sys", "traj", "turbomole", "turbomole-gradient", "v-sim", "vasp", "vasp-out", "vasp-xdatcar", "vasp-xml", "xsd",
    "xsf", "xtd", "xyz", "db",
})
# fmt: on
"""ASE's names of the formats that are read: text, JSON, SQLite and ASE's ulm, none of which can hold code.

castep-cell is not among them because its reader looks for a CASTEP to run.
"""

_COMPRESSIONS: Final[dict[str, Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_PICKLES: Final = frozenset({".pckl", ".pickle", ".pkl", ".joblib", ".pt", ".npy", ".npz"})
_OWN_READERS: Final = frozenset({"extxyz", "xyz", "cif", "traj", "db", "json", "aselmdb"})
# In a folder these names are far more often something else; a file so named is read when an entry names it or a glob matches it.
_VAGUE: Final = frozenset(
    {"34", "arc", "ascii", "com", "con", "config", "dat", "data", "geom", "in", "inp", "json", "log", "md", "out", "phonon", "restart"}
)
_ASE_JSON: Final = re.compile(rb'\s*\{\s*"[0-9]+"\s*:')
_BROKEN_FILE: Final = (OSError, EOFError, zlib.error, lzma.LZMAError)


def claims_file(path: Path) -> bool:
    """Tell whether a file found in a folder looks like one that holds structures, by its name (and, for JSON, its first bytes).

    >>> claims_file(Path("a/POSCAR_1")), claims_file(Path("notes.md")), claims_file(Path("x.cif.gz"))
    (True, False, True)
    """
    bare = path.with_suffix("") if path.suffix in _COMPRESSIONS else path
    extension = bare.suffix.lower().removeprefix(".")
    if extension == "json" and path == bare:
        return _begins_like_ase_json(path)
    if extension in _OWN_READERS:
        return True
    # Without an extension of its own a format has its name for one, as in POSCAR-like files `x.vasp`.
    name = extension2format[extension].name if extension in extension2format else extension
    return (name in READABLE_FORMATS and extension not in _VAGUE) or _has_special_name(bare.name)


def iter_frames(file: InputFile) -> Iterator[Frame]:
    """Yield the frames of a file; at least one, which is a refusal where nothing can be read. Never raises for what a file holds.

    >>> [frame.refusal.kind.value for frame in iter_frames(InputFile("nowhere.cif", "nowhere.cif"))]
    ['unreadable file']
    """
    index = -1
    try:
        with warnings.catch_warnings():
            # Readers warn of what they guess. What matters of it is checked here; and the loop below must not leak the setting.
            warnings.simplefilter("ignore")
            frames = _open_frames(file)
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frame = next(frames, None)
            if frame is None:
                break
            index = frame.index
            yield frame
    except _BROKEN_FILE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else describe_error(error)
        yield refused(index + 1, RefusalKind.UNREADABLE, f"cannot be read: {reason}; check the file and its permissions")
        return
    except CampaignError as error:
        yield refused(index + 1, RefusalKind.UNREADABLE, describe_error(error, 180))
        return
    except Exception as error:  # ASE's readers raise anything at all on malformed text
        yield refused(index + 1, RefusalKind.MALFORMED, f"cannot be read from here on: {describe_error(error)}; mend the file")
        return
    if index < 0:
        yield refused(0, RefusalKind.EMPTY_FILE, "the file holds no structure; remove it or mend it")


def _open_frames(file: InputFile) -> Iterator[Frame]:
    if file.problem is not None:
        return iter([refused(0, RefusalKind.UNREADABLE, f"the folder cannot be listed: {file.problem}; check its permissions")])
    if "://" in file.path or (Path(file.path) / "zarr.json").is_file():
        from campaign.structures.stores import iter_store  # brings zarr, which most campaigns do not read from

        return iter_store(file.path)
    path = Path(file.path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would wait for ever.
        return iter([refused(0, RefusalKind.UNREADABLE, "is no regular file; give a file, a folder or a store")])
    if status.st_size == 0:
        return iter([refused(0, RefusalKind.EMPTY_FILE, "the file is empty; remove it or write it again")])
    if path.suffix.lower() in _PICKLES:
        text = f"{path.suffix} files can run code when they are read; write extxyz, CIF or an ASE database instead"
        return iter([refused(0, RefusalKind.FORMAT, text)])
    return _dispatch(path)


def _dispatch(path: Path) -> Iterator[Frame]:
    name = _detect_format(path)
    if name == "aselmdb":
        return _iter_lmdb(path)
    if name not in READABLE_FORMATS:
        seen = f"format {name!r} is not read" if name else "the format is not recognised"
        return iter([refused(0, RefusalKind.FORMAT, f"{seen}; give extxyz, CIF, POSCAR, an ASE trajectory or database")])
    if name in {"extxyz", "xyz"}:
        return _iter_text(path)
    if name == "cif":
        with _open_binary(path) as handle:
            return iter_cif(handle.read())
    if name == "traj":
        return _iter_trajectory(path)
    if name == "db":
        return _iter_sqlite(path)
    if name == "json":
        return _iter_json(path)
    return _iter_ase(path, name)


def _detect_format(path: Path) -> str:
    bare = path.with_suffix("") if path.suffix in _COMPRESSIONS else path
    extension = bare.suffix.lower().removeprefix(".")
    # A few whole names mean something else than their extension says, such as GPUMD's xyz.in or POSCAR.xyz.
    if extension in _OWN_READERS and not _has_special_name(bare.name):
        return extension
    try:
        return filetype(str(path.absolute()))
    except UnknownFileTypeError:
        return ""


def _has_special_name(name: str) -> bool:
    return any(ioformats[format_].match_name(name) for format_ in READABLE_FORMATS if ioformats[format_].globs)


def _begins_like_ase_json(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return _ASE_JSON.match(handle.read(200)) is not None
    except OSError:
        return False


def _open_binary(path: Path) -> IO[bytes]:
    opener = _COMPRESSIONS.get(path.suffix.lower())
    return opener(path, "rb") if opener else path.open("rb")


def _iter_text(path: Path) -> Iterator[Frame]:
    with _open_binary(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace") as text:
        yield from iter_extxyz(text)


def _iter_ase(path: Path, name: str) -> Iterator[Frame]:
    try:
        images = list(_ase_images(path, name, ":"))
    except Exception:  # any of ASE's readers, any error
        # Most readers return all frames or none. Asked for one frame, some get as far as that one, or skip what is before it.
        yield from _iter_ase_one_by_one(path, name)
        return
    for index, atoms in enumerate(images):
        yield Frame(index, atoms)


def _iter_ase_one_by_one(path: Path, name: str) -> Iterator[Frame]:
    index, failures = 0, 0
    while failures < 2:
        try:
            atoms = next(_ase_images(path, name, index), None)
        except Exception as error:
            if isinstance(error, IndexError) or isinstance(error.__cause__, StopIteration):
                return
            failures += 1
            if failures == 1:
                yield refused(index, RefusalKind.MALFORMED, f"ASE's reader stops with {describe_error(error)}; mend the file")
        else:
            if atoms is None:
                return
            failures = 0
            yield Frame(index, atoms)
        index += 1


def _ase_images(path: Path, name: str, index: str | int) -> Iterator[Atoms]:
    # ASE takes a text with @ apart; a Path it leaves alone only when told so.
    images = ase.io.iread(str(path.absolute()), index=index, format=name, parallel=False, do_not_split_by_at_sign=True)
    return iter(images)


def _iter_trajectory(path: Path) -> Iterator[Frame]:
    with TrajectoryReader(str(path)) as trajectory:
        for index in range(len(trajectory)):
            yield _guarded(index, trajectory.__getitem__, index)


def _iter_sqlite(path: Path) -> Iterator[Frame]:
    database = _ReadOnlySqlite(str(path.absolute()), serial=True, use_lock_file=False)
    with closing(database.connect_read_only()) as connection:
        if not connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE type='table' AND name='systems'").fetchone()[0]:
            yield refused(0, RefusalKind.FORMAT, "the SQLite file has no table `systems`, so it is no ASE database; write it with ase.db")
            return
        ids = [row[0] for row in connection.execute("SELECT id FROM systems ORDER BY id")]
    with database:
        for index, id_ in enumerate(ids):
            yield _guarded(index, _row_of_sqlite, database, id_)


class _ReadOnlySqlite(SQLite3Database):
    """ASE's SQLite backend on a file opened for reading: ASE's own creates its tables in any SQLite file it is given."""

    def connect_read_only(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{urllib.parse.quote(os.fsencode(str(self.filename)))}?mode=ro", uri=True)

    def _connect(self) -> sqlite3.Connection:
        return self.connect_read_only()


def _iter_json(path: Path) -> Iterator[Frame]:
    with _open_binary(path) as handle:
        document = decode(handle.read().decode("utf-8"))
    ids = sorted(key for key in document if isinstance(key, int)) if isinstance(document, dict) else []
    if not ids:
        yield refused(0, RefusalKind.FORMAT, "the JSON file is no ASE database: it has no numbered records; write it with ase.db")
    for index, id_ in enumerate(ids):
        yield _guarded(index, _row_of_json, document, id_)


def _iter_lmdb(path: Path) -> Iterator[Frame]:
    try:
        import lmdb
    except ImportError:
        text = "reading aselmdb needs the package ase-db-backends: pip install ase-db-backends"
        yield refused(0, RefusalKind.FORMAT, text)
        return
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment, environment.begin() as transaction:
        ids = sorted(int(key) for key in transaction.cursor().iternext(values=False) if key.isdigit())
        for index, id_ in enumerate(ids):
            yield _guarded(index, _row_of_lmdb, transaction, id_)


def _row_of_sqlite(database: SQLite3Database, id_: int) -> Atoms:
    return _from_row(database.get(id=id_))


def _row_of_json(rows: dict[int, dict[str, Any]], id_: int) -> Atoms:
    return _from_row(AtomsRow({**rows[id_], "id": id_}))


def _row_of_lmdb(transaction: Any, id_: int) -> Atoms:
    # Format of ase-db-backends: a zlib-compressed JSON object under the decimal id.
    row = decode(zlib.decompress(transaction.get(str(id_).encode())).decode())
    return _from_row(AtomsRow({**row, "id": id_}))


def _from_row(row: AtomsRow) -> Atoms:
    atoms: Atoms = row.toatoms()
    atoms.info = {**row.key_value_pairs, **row.data}
    if "unique_id" in row:
        atoms.info.setdefault("unique_id", row["unique_id"])
    return atoms


def _guarded(index: int, read: Callable[..., Atoms], *arguments: Any) -> Frame:
    try:
        return Frame(index, read(*arguments))
    except ImportError as error:  # ASE makes a FixSymmetry with spglib
        text = f"the record needs a package that is not installed: {describe_error(error)}; install it"
        return refused(index, RefusalKind.UNREADABLE, text)
    except Exception as error:  # a damaged record; the records after it are still good
        return refused(index, RefusalKind.MALFORMED, f"the record cannot be read: {describe_error(error)}; mend or remove it")
