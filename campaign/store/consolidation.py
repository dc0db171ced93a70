"""Carrying a consolidation plan out with Dask: many per-rank shards become one store, published in one step.

Each Dask task writes the output shards of one range of the plan and touches nothing else, so tasks need no locks and may be repeated. All
is written into a staging folder; a run that was killed leaves that folder behind, and the next one starts from an empty one. Without a
Dask client the threads of this process do the work, as many as the plan's memory budget allows.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from campaign.fields import Field, Level
from campaign.store.arrays import encoder, write_objects
from campaign.store.consolidation_plan import ConsolidationPlan, OutputRange
from campaign.store.csr import pointers
from campaign.store.durable import DurableStore, make_folder_durably
from campaign.store.layout import Chunking, check_fields, consolidated, field_array, group_document, group_names, meta_arrays, root_document
from campaign.store.publication import replace_folder
from campaign.store.reader import StoreReader
from campaign.store.targets import mapped_errors, run, set_document

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True, slots=True)
class ConsolidationReport:
    """What a consolidation did."""

    n_systems: int
    n_atoms: int
    n_duplicates: int
    n_missing: int
    n_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class RangeJob:
    """All that one Dask task needs; plain values, so it can be sent anywhere that sees the file system."""

    part: OutputRange
    fields: tuple[Field, ...]
    chunking: Chunking
    target: str
    sources: tuple[str, ...]
    carried: frozenset[str]
    source: NDArray[np.int32]
    row: NDArray[np.int64]
    system_ids: NDArray[np.int64]
    n_atoms: NDArray[np.int64]
    skip_atoms: int


def run_consolidation(
    plan: ConsolidationPlan,
    sources: Mapping[str, Path],
    staging: Path,
    target: Path,
    fields: Sequence[Field],
    carried: Sequence[Field] = (),
    attributes: Mapping[str, Any] | None = None,
    client: Client | None = None,
) -> ConsolidationReport:
    """Write the store of `plan` into `staging` and publish it as `target`.

    `sources` gives the folder of each source of the plan. With `carried` fields, source 0 is `inputs.zarr`: these come from it at the row
    `system_id` for every system; and rows whose source is 0 are rejects and come from it altogether, with NaN where a relaxation would
    have said something. So has a source of an older format version where it has no such field; inputs of one have 0 there.

    Raises:
        StoreDamagedError: a source has a chunk that is missing or damaged, or is shorter than planned.
        ResourceError, StoreError: it cannot be written; `target` is as before.
    """
    begun = time.perf_counter()
    checked = check_fields(fields)
    with mapped_errors(str(target), "consolidating into"):
        if staging.exists():
            shutil.rmtree(staging)
        make_folder_durably(staging)
        store = DurableStore(staging)
        _compute(_jobs(plan, checked, carried, staging, sources), plan.n_parallel, client)
        _write_documents(store, plan, checked, attributes or {})
        replace_folder(staging, target)
        n_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return ConsolidationReport(
        plan.n_systems, int(plan.n_atoms.sum()), plan.n_duplicates, plan.n_missing, n_bytes, time.perf_counter() - begun
    )


def write_range(job: RangeJob) -> int:
    """Write the output shards of one range; return the bytes of the values. This is the Dask task."""
    readers = {number: StoreReader.open(job.sources[number]) for number in np.unique(job.source).tolist()}
    if job.carried and 0 not in readers:
        readers[0] = StoreReader.open(job.sources[0])
    store = DurableStore(Path(job.target))
    written = 0
    for field in job.fields:
        if field.level is not job.part.level:
            continue
        spec = field_array(field, job.chunking)
        values = _gather_systems(job, field, readers) if field.level is Level.SYSTEM else _gather_atoms(job, field, readers)
        run(write_objects(encoder(store, spec), spec, job.part.start // spec.object_rows, values))
        written += values.nbytes
    return written


def _gather_systems(job: RangeJob, field: Field, readers: Mapping[int, StoreReader]) -> NDArray[Any]:
    if field.name in job.carried:
        if field.since > readers[0].format_version:
            return np.zeros((len(job.system_ids), *field.trailing), dtype=field.dtype)
        return readers[0].read_system(field.name, job.system_ids)
    out = np.empty((len(job.row), *field.trailing), dtype=object if field.dtype == "string" else field.dtype)
    for number, reader in readers.items():
        at = np.flatnonzero(job.source == number)
        out[at] = _read(job, number, reader, field, at)
    return out


def _gather_atoms(job: RangeJob, field: Field, readers: Mapping[int, StoreReader]) -> NDArray[Any]:
    n_rows = job.part.stop - job.part.start
    if field.name in job.carried:
        return readers[0].read_atoms(field.name, job.system_ids)[1][job.skip_atoms : job.skip_atoms + n_rows]
    ptr = pointers(job.n_atoms)
    out = np.empty((int(ptr[-1]), *field.trailing), dtype=field.dtype)
    for number, reader in readers.items():
        at = np.flatnonzero(job.source == number)
        counts = job.n_atoms[at]
        places = np.arange(int(counts.sum())) + np.repeat(ptr[at] - pointers(counts)[:-1], counts)
        out[places] = _read(job, number, reader, field, at)
    return out[job.skip_atoms : job.skip_atoms + n_rows]


def _read(job: RangeJob, number: int, reader: StoreReader, field: Field, at: NDArray[np.int64]) -> NDArray[Any]:
    """Return a field of the systems `at` of the range, all of which come from source `number`."""
    may_lack = field.since > reader.format_version or (number == 0 and bool(job.carried))
    if may_lack and all(field.name != known.name for known in reader.fields):
        n_rows = len(at) if field.level is Level.SYSTEM else int(job.n_atoms[at].sum())
        return np.full((n_rows, *field.trailing), np.nan if field.dtype.startswith("float") else 0, dtype=field.dtype)
    return reader.read_system(field.name, job.row[at]) if field.level is Level.SYSTEM else reader.read_atoms(field.name, job.row[at])[1]


def _jobs(
    plan: ConsolidationPlan, fields: tuple[Field, ...], carried: Sequence[Field], staging: Path, sources: Mapping[str, Path]
) -> list[RangeJob]:
    folders = tuple(str(sources[name]) for name in plan.sources)
    names = frozenset(field.name for field in carried)
    ptr = pointers(plan.n_atoms)
    jobs = []
    for part in plan.ranges:
        rows = slice(part.first, part.last)
        skip = part.start - int(ptr[part.first]) if part.level is Level.ATOM else 0
        arrays = (plan.source[rows], plan.row[rows], plan.system_ids[rows], plan.n_atoms[rows])
        jobs.append(RangeJob(part, fields, plan.chunking, str(staging), folders, names, *arrays, skip))
    return jobs


def _compute(jobs: Sequence[RangeJob], n_parallel: int, client: Client | None) -> None:
    if client is not None:
        # Not pure: a range is written again when it is asked for again, whatever Dask remembers.
        client.gather(client.map(write_range, jobs, pure=False))  # type: ignore[no-untyped-call]
        return
    # Dask takes half a second to import; those who only read a store do not wait for it.
    import dask

    tasks = [dask.delayed(write_range)(dask.delayed(job, traverse=False)) for job in jobs]  # type: ignore[attr-defined]
    dask.compute(*tasks, scheduler="threads", num_workers=min(n_parallel, os.cpu_count() or 1))  # type: ignore[attr-defined,no-untyped-call]


def _write_documents(store: DurableStore, plan: ConsolidationPlan, fields: tuple[Field, ...], attributes: Mapping[str, Any]) -> None:
    """Write what is small: pointers, masks, and the documents of all arrays; the root, with all of them inside, comes last."""
    n_systems, n_atoms = plan.n_systems, int(plan.n_atoms.sum())
    values = {
        "meta/atoms_mask": np.ones(n_atoms, dtype=bool),
        "meta/edges_mask": np.zeros(0, dtype=bool),
        "meta/edges_ptr": np.zeros(n_systems + 1, dtype=np.int64),
        "meta/atoms_ptr": pointers(plan.n_atoms),
        "meta/samples_mask": np.ones(n_systems, dtype=bool),
    }
    documents: dict[str, dict[str, Any]] = {name: group_document() for name in group_names(fields)}
    for spec in meta_arrays(plan.chunking):
        run(write_objects(encoder(store, spec), spec, 0, values[spec.path]))
        documents[spec.path] = spec.document(len(values[spec.path]))
    for field in fields:
        documents[field.path] = field_array(field, plan.chunking).document(n_systems if field.level is Level.SYSTEM else n_atoms)
    for path, document in documents.items():
        set_document(store, f"{path}/zarr.json", document)
    set_document(store, "zarr.json", consolidated(root_document(fields, n_systems, attributes), documents))
