"""Structures as ASE databases: SQLite (`ase-db`) and LMDB (`aselmdb`, as fairchem reads it). JSON inside, no pickle."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.db.core import now
from ase.db.row import AtomsRow
from ase.db.sqlite import SQLite3Database
from ase.io.jsonio import encode

from campaign.errors import MissingDependencyError

MAP_BYTES: Final = 2**40
"""Largest LMDB file; address space, not disk."""

ROWS_PER_TRANSACTION: Final = 1000

# What a person selects by. ASE reserves fmax and smax, and refuses text that looks like a number, so free text goes into `data`.
_SELECTABLE: Final = ("system_id", "frame", "n_steps", "outcome")


def write_sqlite(file: Path, structures: Iterable[Atoms]) -> int:
    """Write an ASE SQLite database at `file` and return the number of rows."""
    count = 0
    with SQLite3Database(str(file), serial=True, use_lock_file=False) as database:
        for atoms in structures:
            pairs, data = _split_info(atoms)
            database.write(atoms, key_value_pairs=pairs, data=data)
            count += 1
    return count


def write_lmdb(file: Path, structures: Iterable[Atoms]) -> int:
    """Write an ASE LMDB database at `file` and return the number of rows.

    The rows are those of ase-db-backends' own writer, which keeps all ids in a list and looks through it for each row; here many rows share
    a transaction and none is looked for.

    Raises:
        MissingDependencyError: the package lmdb is not installed.
    """
    try:
        import lmdb
    except ImportError as error:
        raise MissingDependencyError(
            "format aselmdb needs the package ase-db-backends, which is not installed. Install it: pip install ase-db-backends"
        ) from error
    count = 0
    with lmdb.open(str(file), map_size=MAP_BYTES, subdir=False, lock=False, meminit=False) as environment:
        for rows in _batches(structures, ROWS_PER_TRANSACTION):
            with environment.begin(write=True) as transaction:
                for atoms in rows:
                    count += 1
                    transaction.put(str(count).encode(), _pack(_lmdb_row(atoms)))
                transaction.put(b"nextid", _pack(count + 1))
        environment.sync(True)
    return count


def _lmdb_row(atoms: Atoms) -> dict[str, Any]:
    row = AtomsRow(atoms)
    pairs, data = _split_info(atoms)
    values = {key: value for key, value in row.__dict__.items() if not key.startswith("_") and key != "id"}
    if atoms.constraints:
        values["constraints"] = [constraint.todict() for constraint in atoms.constraints]
    times = {"ctime": now(), "mtime": now(), "user": None}
    return {**values, **times, "cell": np.asarray(values["cell"]), "key_value_pairs": pairs, "data": data}


def _split_info(atoms: Atoms) -> tuple[dict[str, Any], dict[str, Any]]:
    pairs = {key: atoms.info[key] for key in _SELECTABLE if key in atoms.info}
    return pairs, {key: value for key, value in atoms.info.items() if key not in pairs}


def _pack(value: Any) -> bytes:
    return zlib.compress(encode(value).encode())


def _batches(structures: Iterable[Atoms], size: int) -> Iterator[list[Atoms]]:
    batch: list[Atoms] = []
    for atoms in structures:
        batch.append(atoms)
        if len(batch) == size:
            yield batch
            batch = []
    # An empty database has its counter too.
    yield batch
