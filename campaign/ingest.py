"""The first arrow: structures in files, databases and stores → `inputs.zarr`, each with the id it keeps for ever.

Ids follow the order of `inputs.paths`, within an entry natural order of the paths, within a file the order of its frames; so the same
inputs always give the same ids and the same bytes. What cannot be relaxed stays as a row too, with outcome invalid and the reason.

The frozen spec is written first and `inputs.zarr` appears last, whole, by one rename. An ingest that was killed leaves a campaign without
inputs; calling `run_ingest` again with the same spec, or `campaign resume`, does it anew.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from campaign.constraints import import_spglib, symprec_of
from campaign.errors import CampaignExistsError, SpecError
from campaign.fields import INPUT_FIELDS, encode_error
from campaign.files import sync_folder
from campaign.outcomes import RUNNING, Outcome
from campaign.paths import DIRECTORY_MODE, CampaignPaths
from campaign.spec import CampaignSpec, freeze_spec, read_frozen_spec
from campaign.store import ShardWriter
from campaign.store.durable import make_folder_durably, publish_folder, staging_name, sweep_partial
from campaign.structures.checks import check_structure, fixed_components, is_finite
from campaign.structures.files import claims_file, iter_frames
from campaign.structures.frame import Frame, Refusal
from campaign.structures.info import encode_info
from campaign.structures.paths import InputFiles, expand_paths

BLOCK_SYSTEMS: Final = 2048
BLOCK_ATOMS: Final = 200_000
"""Structures are handed to the writer when there are this many, or this many atoms: about 50 MB."""

LEFTOVER_S: Final = 3600.0
"""Age at which the unfinished store of a killed ingest is removed; a younger one may belong to an ingest that lives."""

_PROGRESS_S: Final = 0.1
_STANDARD_ARRAYS: Final = frozenset({"numbers", "positions", "masses", "tags", "initial_charges", "initial_magmoms", "spacegroup_kinds"})
_CALCULATED: Final = ("energy", "free_energy", "stress", "magmom", "dipole")

OnProgress = Callable[[int, int | None], None]
"""Called with the number of structures read and, where it is known, how many there are."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What ingest found.

    `reasons` counts the rejects by kind; `skipped` are files of folders that no format claims; `dropped_arrays` are per-atom arrays of the
    inputs that a campaign has no column for.
    """

    paths: CampaignPaths
    n_inputs: int
    n_rejected: int
    n_atoms: int
    n_files: int
    reasons: tuple[tuple[str, int], ...]
    skipped: tuple[str, ...]
    dropped_arrays: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        why = ", ".join(f"{count} {kind}" for kind, count in self.reasons)
        return f"{self.n_inputs} structures from {self.n_files} files, {self.n_rejected} rejected" + (f" ({why})" if why else "")


def run_ingest(spec: CampaignSpec, on_progress: OnProgress | None = None) -> IngestReport:
    """Create the campaign directory of `spec` and write its `inputs.zarr`.

    Raises:
        SpecError: an entry of `inputs.paths` matches nothing; the directory holds something else; the model cannot do what `[relax]`
            asks. Nothing was created.
        UnknownModelError, MissingDependencyError: the elements that the model knows cannot be found out. Nothing was created.
        CampaignExistsError: the directory is a campaign with inputs, or one of another spec.
        ResourceError, StoreError: the inputs cannot be written; there is a campaign without inputs then.

    >>> report = run_ingest(read_spec("campaign.toml"))  # doctest: +SKIP
    >>> print(report)  # doctest: +SKIP
    611 structures from 40 files, 8 rejected (1 empty file, …)
    """
    start_s = time.monotonic()
    paths = spec.paths
    _refuse_existing(spec)
    files = expand_paths(spec.inputs.paths, claims_file, Path(spec.inputs.base))
    check = _check_of(spec)
    _create_directory(spec)
    tally = _Tally(0, 0, Counter(), set())
    staging = staging_name(paths.inputs)
    try:
        _write(staging, files, check, tally, on_progress)
        publish_folder(staging, paths.inputs)
    except FileExistsError as error:
        raise _exists(paths, "another ingest finished first") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    sweep_partial(paths.root, LEFTOVER_S)
    if on_progress is not None:
        on_progress(tally.n_inputs, tally.n_inputs)
    return IngestReport(
        paths=paths,
        n_inputs=tally.n_inputs,
        n_rejected=tally.reasons.total(),
        n_atoms=tally.n_atoms,
        n_files=len(files.files),
        reasons=tuple(sorted(tally.reasons.items(), key=lambda item: (-item[1], item[0]))),
        skipped=files.skipped,
        dropped_arrays=tuple(sorted(tally.dropped_arrays)),
        seconds=time.monotonic() - start_s,
    )


def write_inputs(spec: CampaignSpec, target: Path) -> None:
    """Write the inputs of `spec` to a new store, as ingest writes `inputs.zarr`; the same files give the same ids and bytes.

    Raises:
        SpecError: an entry of `inputs.paths` matches nothing.
        UnknownModelError, MissingDependencyError: the elements that the model knows cannot be found out.
        ResourceError, StoreError: it cannot be written.
    """
    files = expand_paths(spec.inputs.paths, claims_file, Path(spec.inputs.base))
    _write(target, files, _check_of(spec), _Tally(0, 0, Counter(), set()), None)


def _check_of(spec: CampaignSpec) -> _Check:
    return partial(check_structure, elements=_known_elements(spec), may_strain=all(spec.relax.strain_mask))


def _write(target: Path, files: InputFiles, check: _Check, tally: _Tally, on_progress: OnProgress | None) -> None:
    with ShardWriter.create(target, INPUT_FIELDS, flush_s=3600.0) as writer:
        for block in _iter_blocks(files, check, tally, on_progress):
            writer.append(*block)


@dataclass(slots=True)
class _Tally:
    """What is counted while structures pass by."""

    n_inputs: int
    n_atoms: int
    reasons: Counter[str]
    dropped_arrays: set[str]


def _iter_blocks(files: InputFiles, check: _Check, tally: _Tally, on_progress: OnProgress | None) -> Iterator[_Block]:
    rows: list[_Row] = []
    n_atoms, due_s = 0, 0.0
    for file in files.files:
        for frame in iter_frames(file):
            row = _row(tally.n_inputs, file.source, frame, check, tally)
            rows.append(row)
            n_atoms += row.n_atoms
            tally.n_inputs += 1
            tally.n_atoms += row.n_atoms
            if len(rows) >= BLOCK_SYSTEMS or n_atoms >= BLOCK_ATOMS:
                yield _block(rows)
                rows, n_atoms = [], 0
            if on_progress is not None and time.monotonic() >= due_s:
                on_progress(tally.n_inputs, None)
                due_s = time.monotonic() + _PROGRESS_S
    if rows:
        yield _block(rows)


@dataclass(frozen=True, slots=True)
class _Row:
    n_atoms: int
    per_atom: dict[str, np.ndarray[Any, Any]]
    per_system: dict[str, Any]


_Check = Callable[[Any], Refusal | None]
_Block = tuple[np.ndarray[Any, np.dtype[np.int64]], dict[str, np.ndarray[Any, Any]]]


def _row(system_id: int, source: str, frame: Frame, check: _Check, tally: _Tally) -> _Row:
    atoms, refusal = frame.atoms, frame.refusal
    if atoms is not None and refusal is None:
        refusal = check(atoms)
    if atoms is not None:
        tally.dropped_arrays.update(atoms.arrays.keys() - _STANDARD_ARRAYS)
    if refusal is not None:
        tally.reasons[refusal.kind.value] += 1
        if atoms is not None and not is_finite(atoms):
            atoms = None
    info = {} if atoms is None else {**atoms.info, **_calculated(atoms)}
    per_atom, cell, pbc = _arrays(atoms, info)
    per_system = {
        "cell": cell,
        "pbc": pbc,
        "symprec": (symprec_of(atoms) if atoms is not None and refusal is None else 0.0,),
        "system_id": (system_id,),
        "source": source,
        "frame": (frame.index,),
        "info": encode_info(info),
        "outcome": (RUNNING if refusal is None else int(Outcome.INVALID),),
        "error": np.frombuffer(encode_error(_reason(refusal)), dtype=np.uint8),
    }
    return _Row(len(per_atom["atomic_numbers"]), per_atom, per_system)


def _reason(refusal: Refusal | None) -> str:
    return "" if refusal is None else refusal.text


def _calculated(atoms: Any) -> dict[str, Any]:
    """Results that came with the input, under names that cannot be taken for ours."""
    results = getattr(atoms.calc, "results", None) or {}
    return {f"input_{name}": results[name] for name in _CALCULATED if results.get(name) is not None and f"input_{name}" not in atoms.info}


def _arrays(atoms: Any, info: dict[str, Any]) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Per-atom columns, cell and pbc; no atoms and no cell for None."""
    n_atoms = 0 if atoms is None else len(atoms)
    per_atom: dict[str, np.ndarray[Any, Any]] = {
        "atomic_numbers": np.zeros(n_atoms, dtype=np.int64),
        "positions": np.zeros((n_atoms, 3)),
        "atomic_masses": np.zeros(n_atoms),
        "fixed": np.zeros((n_atoms, 3), dtype=bool),
        "tags": np.zeros(n_atoms, dtype=np.int64),
        "initial_charges": np.zeros(n_atoms),
        "initial_magmoms": np.zeros(n_atoms),
    }
    if atoms is None:
        return per_atom, np.zeros((3, 3)), np.zeros(3, dtype=bool)
    fixed, refusal = fixed_components(atoms)
    per_atom |= {
        "atomic_numbers": atoms.numbers.astype(np.int64),
        "positions": atoms.positions.astype(np.float64),
        "atomic_masses": atoms.get_masses().astype(np.float64),
        "tags": atoms.get_tags().astype(np.int64),
        "initial_charges": atoms.get_initial_charges().astype(np.float64),
    }
    if refusal is None:
        per_atom["fixed"] = fixed
    magmoms = atoms.get_initial_magnetic_moments().astype(np.float64)
    if magmoms.ndim == 1:
        per_atom["initial_magmoms"] = magmoms
    else:
        # The column holds one number an atom; the three components stay readable.
        info.setdefault("initial_magmoms", magmoms)
    return per_atom, np.asarray(atoms.cell.array, dtype=np.float64), np.asarray(atoms.pbc, dtype=bool)


def _block(rows: list[_Row]) -> _Block:
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name in rows[0].per_atom:
        columns[name] = np.concatenate([row.per_atom[name] for row in rows])
    for name in rows[0].per_system:
        values = [row.per_system[name] for row in rows]
        columns[name] = np.array(values, dtype=object) if isinstance(values[0], str) else np.stack([np.asarray(value) for value in values])
    return np.array([row.n_atoms for row in rows], dtype=np.int64), columns


def _known_elements(spec: CampaignSpec) -> frozenset[int] | None:
    # Brings torch, which nothing else of ingest needs.
    from campaign.models.registry import supported_elements

    if spec.relax.fix_symmetry:
        import_spglib()  # refused now rather than by every rank
    model = spec.model
    return supported_elements(model.name, model.dtype, model.options, spec.relax.cell, model.deterministic)


def _refuse_existing(spec: CampaignSpec) -> None:
    paths = spec.paths
    if paths.spec.exists():
        if paths.inputs.exists():
            raise _exists(paths, "it has its inputs already")
        if read_frozen_spec(paths) != spec:
            raise _exists(paths, "its spec is another one")
    elif paths.root.exists():
        if not paths.root.is_dir():
            raise SpecError(f"campaign.directory {paths.root} is a file. Give a directory that is not there yet.")
        if any(not entry.name.startswith(f".{paths.spec.name}.") for entry in paths.root.iterdir()):
            raise SpecError(
                f"campaign.directory {paths.root} holds other files and is no campaign. Give a directory that is empty or not there yet."
            )


def _exists(paths: CampaignPaths, why: str) -> CampaignExistsError:
    seen = f"{paths.root} is a campaign already: {why}"
    return CampaignExistsError(
        f"{seen}. A campaign is never overwritten: go on with `campaign resume`, or give another directory in the spec."
    )


def _create_directory(spec: CampaignSpec) -> None:
    paths = spec.paths
    if paths.spec.exists():
        return
    try:
        make_folder_durably(paths.root.parent)
        paths.root.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        sync_folder(paths.root.parent)
        # mkdir's mode passes through the umask, and the directory may have been there.
        paths.root.chmod(DIRECTORY_MODE)
        freeze_spec(spec)
    except FileExistsError as error:
        raise _exists(paths, "it was created in this moment") from error
    except OSError as error:
        raise SpecError(
            f"cannot create campaign.directory {paths.root}: {error.strerror or error}. Give a directory that you may write."
        ) from error
