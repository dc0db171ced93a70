"""Carrying a consolidation plan out with Dask: many per-rank shards become one store, published in one step.

Each Dask task writes the output shards of one range of the plan and touches nothing else, so tasks need no locks and may be repeated. On a
file system all is written into a staging folder. A run that was killed leaves that folder behind, and the next one keeps the output
shards in it that it would write itself; those that the published store has are taken over from there (`origins.py`). An object store has
no rename: there all is written to its final place, and the store appears with its root document.

Without a Dask client the threads of this process do the work, as many as the plan's memory budget allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from campaign.errors import StoreError
from campaign.fields import Field, Level
from campaign.store.arrays import write_array
from campaign.store.chunk_codec import ChunkCodec, codec_of
from campaign.store.consolidation_plan import ConsolidationPlan, OutputRange, systems_of_atoms
from campaign.store.csr import pointers
from campaign.store.durable import make_folder_durably
from campaign.store.gathering import Chunks, RowMap, copied_chunks, gather
from campaign.store.layout import (
    ArraySpec,
    Chunking,
    check_fields,
    consolidated,
    field_array,
    group_document,
    group_names,
    meta_arrays,
    root_document,
)
from campaign.store.origins import ATTRIBUTE, ORIGINS_FILE, Earlier, Origins, begin_staging, origins_of, published_origins, take_over
from campaign.store.publication import claim_object_store, publish_object_store, replace_folder
from campaign.store.reader import StoreReader
from campaign.store.targets import Target, describe, local_path, mapped_errors, open_target, run, set_bytes, set_document

if TYPE_CHECKING:
    from distributed import Client

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called now and then with how many bytes of values are written, and how many there are."""


@dataclass(frozen=True, slots=True)
class ConsolidationReport:
    """What a consolidation did. Of the output shards, `n_written` were written, `n_kept` were there from a run that was killed, and
    `n_taken_over` are those of the store that was there before."""

    n_systems: int
    n_atoms: int
    n_duplicates: int
    n_missing: int
    n_bytes: int
    seconds: float
    n_written: int
    n_kept: int
    n_taken_over: int


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """All that Dask tasks have in common; plain values, so it can be sent anywhere that sees the file system."""

    target: Target
    fields: Mapping[str, Field]
    chunking: Chunking
    carried: frozenset[str]
    rows: RowMap
    origins: Origins
    earlier: Earlier


@dataclass(frozen=True, slots=True)
class Done:
    """What one Dask task did: bytes of values, and output shards that were written, taken over, or there before."""

    n_bytes: int
    n_written: int
    n_taken_over: int
    n_kept: int


def run_consolidation(
    plan: ConsolidationPlan,
    sources: Mapping[str, Path],
    staging: Path,
    target: Target,
    fields: Sequence[Field],
    carried: Sequence[Field] = (),
    attributes: Mapping[str, Any] | None = None,
    client: Client | None = None,
    on_progress: OnProgress | None = None,
    extra_arrays: Sequence[tuple[ArraySpec, NDArray[Any]]] = (),
) -> ConsolidationReport:
    """Write the store of `plan` into `staging` and publish it as `target`; where that is an `s3://` or `gs://` URL, write it there at once.

    `sources` gives the folder of each source of the plan. With `carried` fields, source 0 is `inputs.zarr`: these come from it at the row
    `system_id` for every system; and rows whose source is 0 are rejects and come from it altogether, with NaN where a relaxation would
    have said something. So has a source of an older format version where it has no such field; inputs of one have 0 there. `extra_arrays`
    are written besides.

    Raises:
        StoreDamagedError: a source has a chunk that is missing or damaged, or is shorter than planned.
        StoreExistsError: `target` is in an object store and is there, or another one is being written there.
        ResourceError, StoreError: it cannot be written; `target` is as before.
    """
    begun = time.perf_counter()
    checked = check_fields(fields)
    folder = local_path(target)
    with mapped_errors(describe(target), "consolidating into"):
        folders = tuple(str(sources[name]) for name in plan.sources)
        origins = origins_of(plan, folders, checked, carried)
        n_kept = 0
        if folder is not None:
            make_folder_durably(staging)
            n_kept = begin_staging(staging, origins, [field_array(field, plan.chunking) for field in checked])
            place: Target = str(staging)
        else:
            claim_object_store(open_target(target), describe(target), origins)
            place = target
        by_name = {field.name: field for field in checked}
        earlier = _earlier(folder)
        rows = RowMap.of(plan, folders)
        recipe = Recipe(place, by_name, plan.chunking, frozenset(field.name for field in carried), rows, origins, earlier)
        done = _compute(recipe, plan, client, on_progress)
        store = open_target(place)
        root = _write_documents(store, plan, checked, {**(attributes or {}), ATTRIBUTE: origins}, extra_arrays)
        if folder is not None:
            set_document(store, "zarr.json", root)
            (staging / ORIGINS_FILE).unlink()
            replace_folder(staging, folder)
            n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        else:
            publish_object_store(store, describe(target), root)
            n_bytes = sum(one.n_bytes for one in done)
    return ConsolidationReport(
        plan.n_systems,
        int(plan.n_atoms.sum()),
        plan.n_duplicates,
        plan.n_missing,
        n_bytes,
        time.perf_counter() - begun,
        sum(one.n_written for one in done),
        n_kept + sum(one.n_kept for one in done if folder is None),
        sum(one.n_taken_over for one in done),
    )


def _earlier(folder: Path | None) -> Earlier:
    """Return what may be taken over from the store that is there, if there is one that can be read."""
    if folder is None or not folder.is_dir():
        return Earlier("", {})
    try:
        return published_origins(folder, StoreReader.open(folder).attributes)
    except StoreError:
        return Earlier("", {})


def write_range(recipe: Recipe, part: OutputRange) -> Done:
    """Write the output shards of one range that are not there yet. This is the Dask task."""
    field = recipe.fields[part.field]
    spec = field_array(field, recipe.chunking)
    store = open_target(recipe.target)
    numbers = range(part.start // spec.object_rows, -(-part.stop // spec.object_rows))
    n_bytes = (part.stop - part.start) * spec.row_bytes
    to_do = []
    n_kept = n_taken_over = 0
    folder = local_path(recipe.target)
    for number in numbers:
        if run(store.exists(spec.chunk_key(number))):
            n_kept += 1
        elif folder is not None and take_over(recipe.earlier, spec, number, recipe.origins[str(spec.level)][number], folder):
            n_taken_over += 1
        else:
            to_do.append(number)
    codec = codec_of(spec)
    copied = copied_chunks(recipe.rows, field, codec) if field.name in recipe.carried else None
    for first, last in _runs(to_do):
        if copied is not None:
            _copy_objects(recipe, spec, copied, part, first, last)
            continue
        piece = _piece(recipe, part, first * spec.object_rows, min(last * spec.object_rows, part.stop))
        values = gather(recipe.rows, piece, field, field.name in recipe.carried)
        for number in range(first, last):
            begin = number * spec.object_rows - piece.start
            _write_object(recipe, spec, codec, number, values[begin : begin + spec.object_rows])
    return Done(n_bytes, len(to_do), n_taken_over, n_kept)


def _write_object(recipe: Recipe, spec: ArraySpec, codec: ChunkCodec, number: int, rows: NDArray[Any]) -> None:
    set_bytes(open_target(recipe.target), spec.chunk_key(number), codec.join(codec.encode_all(rows)))


def _copy_objects(recipe: Recipe, spec: ArraySpec, chunks: Chunks, part: OutputRange, first: int, last: int) -> None:
    """Put output shards together from chunks as they are, without decoding them."""
    store = open_target(recipe.target)
    per_object = spec.chunks_per_file
    n_chunks = -(-chunks.n_rows // spec.chunk_rows)
    for number in range(first, last):
        at = range(number * per_object, (number + 1) * per_object)
        raw = [chunks.raw(chunk) for chunk in at if chunk < n_chunks]
        set_bytes(store, spec.chunk_key(number), codec_of(spec).join(raw))


def _piece(recipe: Recipe, part: OutputRange, start: int, stop: int) -> OutputRange:
    if (start, stop) == (part.start, part.stop):
        return part
    if part.level is Level.SYSTEM:
        return OutputRange(part.field, part.level, start, stop, start, stop)
    return OutputRange(part.field, part.level, start, stop, *systems_of_atoms(recipe.rows.ptr, start, stop))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return the gapless runs of ascending numbers, each as its first and the one behind its last."""
    at = np.array(numbers, dtype=np.int64)
    for run_of in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1):
        if len(run_of):
            yield int(run_of[0]), int(run_of[-1]) + 1


def _compute(recipe: Recipe, plan: ConsolidationPlan, client: Client | None, on_progress: OnProgress | None) -> list[Done]:
    done: list[Done] = []
    n_all = sum((part.stop - part.start) * field_array(recipe.fields[part.field], plan.chunking).row_bytes for part in plan.ranges)

    def count(one: Done) -> None:
        done.append(one)
        if on_progress is not None:
            on_progress(sum(earlier.n_bytes for earlier in done), n_all)

    if client is not None:
        from distributed import as_completed

        # Sent once to each worker. Not pure: a range is written again when it is asked for again, whatever Dask remembers.
        shared = client.scatter(recipe, broadcast=True, hash=False)  # type: ignore[no-untyped-call]
        futures = [client.submit(write_range, shared, part, pure=False, priority=-at) for at, part in enumerate(plan.ranges)]
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            count(future.result())
        return done
    # Dask takes half a second to import; those who only read a store do not wait for it.
    import dask
    from dask.callbacks import Callback

    shared = dask.delayed(recipe, traverse=False)  # type: ignore[attr-defined]
    tasks = [
        # Dask takes Dask tasks that depend on nothing in the order of their names: the largest first.
        dask.delayed(write_range)(shared, dask.delayed(part, traverse=False), dask_key_name=f"range-{at:06d}")  # type: ignore[attr-defined]
        for at, part in enumerate(plan.ranges)
    ]
    # Called by this thread, one after the other.
    with Callback(posttask=lambda key, value, *rest: count(value) if isinstance(value, Done) else None):  # type: ignore[no-untyped-call]
        dask.compute(*tasks, scheduler="threads", num_workers=plan.n_parallel)  # type: ignore[attr-defined,no-untyped-call]
    return done


def _write_documents(
    store: Store,
    plan: ConsolidationPlan,
    fields: tuple[Field, ...],
    attributes: Mapping[str, Any],
    extra_arrays: Sequence[tuple[ArraySpec, NDArray[Any]]],
) -> dict[str, Any]:
    """Write what is small: pointers, masks, and the documents of all arrays; return the root, which has all of them inside."""
    n_systems, n_atoms = plan.n_systems, int(plan.n_atoms.sum())
    values = {
        "meta/atoms_mask": np.ones(n_atoms, dtype=bool),
        "meta/edges_mask": np.zeros(0, dtype=bool),
        "meta/edges_ptr": np.zeros(n_systems + 1, dtype=np.int64),
        "meta/atoms_ptr": pointers(plan.n_atoms),
        "meta/samples_mask": np.ones(n_systems, dtype=bool),
    }
    documents: dict[str, dict[str, Any]] = {name: group_document() for name in group_names(fields)}
    values |= {spec.path: array for spec, array in extra_arrays}
    for spec in (*meta_arrays(plan.chunking), *(spec for spec, _ in extra_arrays)):
        write_array(store, spec, values[spec.path])
        documents[spec.path] = spec.document(len(values[spec.path]))
    for field in fields:
        documents[field.path] = field_array(field, plan.chunking).document(n_systems if field.level is Level.SYSTEM else n_atoms)
    for path, document in documents.items():
        set_document(store, f"{path}/zarr.json", document)
    return consolidated(root_document(fields, n_systems, attributes), documents)
