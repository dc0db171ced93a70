"""The arrow to other programs: structures of a campaign as extxyz, as an ASE database, as fairchem's LMDB, or as Parquet.

Systems stream through memory block by block. The output appears whole or not at all: a sibling file is written, synced and renamed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from campaign.errors import ResourceError, SpecError
from campaign.files import sync_folder
from campaign.paths import CampaignPaths

if TYPE_CHECKING:
    from ase import Atoms

    from campaign.analysis import StoreView

EXPORT_FORMATS: Final = ("extxyz", "ase-db", "aselmdb", "parquet")
"""What can be written."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written; `n_without_atoms` systems were asked for but have no atoms to write: rejects that could not be read."""

    output: Path
    format: str
    n_systems: int
    n_without_atoms: int
    n_bytes: int
    seconds: float


def run_export(paths: CampaignPaths, format: str, output: str | Path, where: str | None = None, force: bool = False) -> ExportReport:
    """Write the systems of a campaign, or those that satisfy the condition `where` (see `campaign.analysis.select`), to `output`.

    The published store is read; before there is one, what ranks have committed. Parquet has all systems asked for; the other formats
    leave out those without atoms. A system without a result has no energy, forces and stress; its `outcome` says why.

    Raises:
        SpecError: an unknown format, an illegal condition, or `output` exists and `force` is not set.
        MissingDependencyError: a package that the format needs is not installed.
        ResourceError: `output` cannot be written.
        StoreError: the store cannot be read.

    >>> run_export(CampaignPaths.open("runs/cu-au"), "extxyz", "low.extxyz", "outcome == 'converged'")  # doctest: +SKIP
    """
    from campaign.analysis import StoreView  # brings numpy's and ASE's larger parts; `campaign --help` does without

    start_s = time.monotonic()
    output = Path(output).absolute()
    if format not in EXPORT_FORMATS:
        raise SpecError(f"export format {format!r} is unknown. There are {', '.join(EXPORT_FORMATS)}. Choose one.")
    if output.is_dir() or (os.path.lexists(output) and not force):
        kind = "a folder" if output.is_dir() else "there already"
        raise SpecError(f"{output} is {kind}, and export does not replace it. Give another name, or --force for a file.")
    if not output.parent.is_dir():
        # SQLite and LMDB would each say so in their own way.
        raise ResourceError(f"cannot write {output}: its folder is not there. Give a folder that exists, is writable and has room.")
    view = StoreView.open(paths)
    view = (view.select(where) if where else view).resolve()
    n_without_atoms = int(np.count_nonzero(view.source.n_atoms == 0))
    if format != "parquet" and n_without_atoms:
        view = view.select(view.source.n_atoms > 0)
    try:
        n_systems = _write_whole(output, lambda file: _writer(format)(file, view))
    except OSError as error:
        seen = f"cannot write {output}: {error.strerror or error}"
        raise ResourceError(f"{seen}. Give a folder that exists, is writable and has room.") from error
    return ExportReport(output, format, n_systems, n_without_atoms, output.stat().st_size, time.monotonic() - start_s)


def _writer(format: str) -> Callable[[Path, StoreView], int]:
    # Each brings its own packages, so only the one asked for is imported.
    if format == "parquet":
        from campaign.analysis.export.parquet import write_parquet

        return write_parquet
    if format == "extxyz":
        return _write_extxyz
    from campaign.analysis.export.databases import write_lmdb, write_sqlite

    write: Callable[[Path, Iterable[Atoms]], int] = write_sqlite if format == "ase-db" else write_lmdb
    return lambda file, view: write(file, iter(view))


def _write_extxyz(file: Path, view: StoreView) -> int:
    from campaign.analysis.export.extxyz import frame_text

    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as text:
        for atoms in view:
            text.write(frame_text(atoms))
            count += 1
    return count


def _write_whole(output: Path, write: Callable[[Path], int]) -> int:
    partial = output.with_name(f".{output.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        count = write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(output)
        sync_folder(output.parent)
    finally:
        partial.unlink(missing_ok=True)
    return count
