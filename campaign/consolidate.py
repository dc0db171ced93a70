"""The arrow from per-rank shards to `store.zarr`: each input once, sorted by `system_id`, whatever its outcome.

Rejects of ingest come from `inputs.zarr` with the outcome invalid; what comes with an input (tags, masses, source, …) is copied from there.
Where two shards have the same system, the first by round, array task, rank and attempt counts, and the others are counted as duplicates.
Results of shards that were removed since an earlier consolidation are taken from the store that it made.
The arrays depend on the inputs and results alone; what differs between runs is in the root attribute `provenance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from zarr.abc.store import Store

from campaign.dask_client import Connection, DaskWorkers, connected
from campaign.errors import ModelMismatchError, StoreError
from campaign.fields import CARRIED_FIELDS, STORE_FIELDS, TRAJECTORY_FIELDS, Field, Level
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.removal import removal_advice
from campaign.store.consolidation import ConsolidationReport, OnProgress, run_consolidation
from campaign.store.consolidation_plan import (
    DEFAULT_BUDGET_BYTES,
    ConsolidationPlan,
    InputIndex,
    ShardIndex,
    plan_consolidation,
    plan_trajectory,
)
from campaign.store.durable import exclusive_lock, sweep_partial
from campaign.store.gathering import read_index
from campaign.store.layout import RESERVED_ATTRIBUTES, Chunking, field_array
from campaign.store.origins import ATTRIBUTE as ORIGINS
from campaign.store.publication import recover_folder
from campaign.store.reader import StoreReader
from campaign.store.targets import describe, mapped_errors
from campaign.store.trajectory import frames_ptr, frames_ptr_array

if TYPE_CHECKING:
    from distributed import Client

ATOM_BYTES: Final = sum(field_array(field, Chunking()).row_bytes for field in STORE_FIELDS if field.level is Level.ATOM)

PACKAGE: Final = "relax-campaign"
"""This package's name in the versions that a shard has."""

CLOSED_ATTRIBUTE: Final = "device_seconds"
"""Root attribute that a shard has from its rank's end on."""

LARGE_BYTES: Final = 2**40
"""Values of a campaign from which on consolidation takes processes rather than threads, if nobody says."""

PARTIAL_AGE_S: Final = 3600.0
"""Left-over partial files of shards are removed when they are older than this; a younger one may belong to a rank that lives."""


@dataclass(frozen=True, slots=True)
class ConsolidateReport:
    """What consolidation did. `outcomes` counts systems by outcome; `n_frames` is 0 without trajectories."""

    store: str
    n_systems: int
    n_shards: int
    n_duplicates: int
    n_missing: int
    outcomes: dict[str, int]
    n_frames: int
    n_bytes: int
    seconds: float


def run_consolidate(
    paths: CampaignPaths,
    workers: DaskWorkers | Client | None = None,
    allow_mixed: bool = False,
    allow_incomplete: bool = False,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
    on_progress: OnProgress | None = None,
    on_connected: Callable[[Connection], None] | None = None,
    target: str | Store | None = None,
) -> ConsolidateReport:
    """Consolidate all shards of a campaign into `store.zarr`, and trajectory shards, if any, into `trajectory.zarr`.

    The work is done by `workers`, or by a Dask client whose workers see the campaign directory. A store that is there is replaced in one
    step; output shards of it that are unchanged are taken over, and those of a run that was killed are kept. With `target`,
    an `s3://` or `gs://` URL or a Zarr store, the store is published there instead, once, and trajectories stay in their shards.

    Raises:
        StoreExistsError: there is something at `target`.
        StoreError: another process consolidates this campaign.
        IncompleteError: inputs have no outcome yet. With `allow_incomplete` the store is written without them, and `verify` will say so.
        ModelMismatchError: shards were computed by different models or package versions and `allow_mixed` is not set.
        StoreDamagedError: a shard has a chunk that is missing or damaged; the text names it.
        ResourceError: no room, no right to write, or a Dask task would need more than `budget_bytes`.
    """
    with exclusive_lock(paths.store_lock) as is_ours:
        if not is_ours:
            raise StoreError(f"{paths.store} is being consolidated by another process. One at a time can; wait for it, or end it.")
        return _consolidate(paths, workers or DaskWorkers(), allow_mixed, allow_incomplete, budget_bytes, on_progress, on_connected, target)


def _consolidate(
    paths: CampaignPaths,
    workers: DaskWorkers | Client,
    allow_mixed: bool,
    allow_incomplete: bool,
    budget_bytes: int,
    on_progress: OnProgress | None,
    on_connected: Callable[[Connection], None] | None,
    target: str | Store | None,
) -> ConsolidateReport:
    with mapped_errors(str(paths.root), "removing what killed writers left behind in"):
        for published in (paths.store, paths.trajectory):
            recover_folder(published)
    inputs = StoreReader.open(paths.inputs)
    rejected = inputs.read_system("outcome")[:, 0] == Outcome.INVALID
    names = paths.shard_names()
    folders = {str(name): paths.shard(name) for name in names}
    indices, attributes_of = [], {}
    for name, folder in folders.items():
        index, attributes_of[name] = read_index(name, folder)
        indices.append(index)
    # A rank that ended well left nothing behind, and to look into thousands of shards takes minutes.
    closed = {name for name, attributes in attributes_of.items() if CLOSED_ATTRIBUTE in attributes}
    with mapped_errors(str(paths.root), "removing what killed writers left behind in"):
        for folder in (paths.shards, paths.trajectory_shards):
            sweep_partial(folder, PARTIAL_AGE_S, closed)
    earlier = _results_of_removed_shards(paths, indices, rejected)
    if earlier is not None:
        # Last in the order of names, so a shard that is there always counts more.
        indices.append(earlier)
        folders[earlier.name] = paths.store
        attributes_of[earlier.name] = StoreReader.open(paths.store).attributes
    fingerprints = _fingerprints(attributes_of)
    if len(fingerprints) > 1 and not allow_mixed:
        raise _mixed(paths, fingerprints, "models", lambda fingerprint: f"model {str(fingerprint)[:12]}")
    releases = _releases(attributes_of)
    if len(releases) > 1 and not allow_mixed:
        raise _mixed(paths, releases, "releases of this package", str)
    sources = {paths.inputs.name: paths.inputs, **folders}
    with connected(workers, budget_bytes, is_large=int(inputs.atoms_ptr[-1]) * ATOM_BYTES > LARGE_BYTES) as connection:
        if on_connected is not None:
            on_connected(connection)
        plan = plan_consolidation(
            InputIndex(paths.inputs.name, inputs.n_atoms(), rejected),
            indices,
            STORE_FIELDS,
            connection.budget_bytes,
            allow_incomplete,
            connection.n_threads,
            connection.n_processes,
        )
        attributes = {
            "n_inputs": inputs.n_systems,
            "n_missing": plan.n_missing,
            "n_duplicates": plan.n_duplicates,
            "model_fingerprints": sorted(str(fingerprint) for fingerprint in fingerprints),
            "releases": sorted(str(release) for release in releases),
            "provenance": _provenance(attributes_of),
        }
        report = run_consolidation(
            plan,
            sources,
            paths.store_staging,
            target or paths.store,
            STORE_FIELDS,
            CARRIED_FIELDS,
            attributes,
            connection.client,
            on_progress,
        )
        frames = _consolidate_trajectories(paths, names, plan, inputs.n_systems, connection) if target is None else None
    outcomes = StoreReader.open(target or paths.store).read_system("outcome")[:, 0]
    return ConsolidateReport(
        describe(target or paths.store),
        report.n_systems,
        len(names),
        plan.n_duplicates,
        plan.n_missing,
        {outcome.label: int(np.count_nonzero(outcomes == outcome)) for outcome in Outcome},
        frames.n_systems if frames else 0,
        report.n_bytes,
        report.seconds + (frames.seconds if frames else 0.0),
    )


def _consolidate_trajectories(
    paths: CampaignPaths, names: Sequence[ShardName], plan: ConsolidationPlan, n_inputs: int, connection: Connection
) -> ConsolidationReport | None:
    folders = {str(name): paths.trajectory_shard(name) for name in names if paths.trajectory_shard(name).is_dir()}
    if not folders:
        return None
    indices = [read_index(name, folder, with_steps=True)[0] for name, folder in folders.items()]
    winner: list[str | None] = [None] * n_inputs
    for system_id, source in zip(plan.system_ids.tolist(), plan.source.tolist(), strict=True):
        winner[system_id] = plan.sources[source]
    fields: Sequence[Field] = TRAJECTORY_FIELDS
    frames = plan_trajectory(indices, winner, fields, connection.budget_bytes, connection.n_threads, connection.n_processes)
    attributes = {"n_inputs": n_inputs, "n_left_out": frames.n_duplicates}
    pointer = (frames_ptr_array(n_inputs), frames_ptr(frames.system_ids, n_inputs))
    return run_consolidation(
        frames,
        folders,
        paths.trajectory_staging,
        paths.trajectory,
        fields,
        attributes=attributes,
        client=connection.client,
        extra_arrays=[pointer],
    )


def _results_of_removed_shards(paths: CampaignPaths, indices: Sequence[ShardIndex], rejected: Bool[ndarray, " N"]) -> ShardIndex | None:
    """Systems that the store has and no shard: someone removed shards after an earlier consolidation."""
    left = ~rejected
    for index in indices:
        left[index.system_ids[(index.system_ids >= 0) & (index.system_ids < len(left))]] = False
    if not left.any() or not paths.store.is_dir():
        return None
    reader = StoreReader.open(paths.store)
    ids = reader.read_system("system_id")[:, 0]
    rows = np.flatnonzero(np.isin(ids, np.flatnonzero(left)))
    if not len(rows):
        return None
    return ShardIndex(paths.store.name, ids[rows], reader.n_atoms(rows), rows=rows, atom_start=reader.atoms_ptr[rows])


def _fingerprints(shards: Mapping[str, Mapping[str, Any]]) -> dict[str | None, list[str]]:
    """Shards that hold something, by the model that computed them."""
    found: dict[str | None, list[str]] = {}
    for name, attributes in shards.items():
        for fingerprint in attributes.get("model_fingerprints", [attributes.get("model_fingerprint")]):
            if attributes["num_samples"]:
                found.setdefault(fingerprint, []).append(name)
    return found


def _releases(shards: Mapping[str, Mapping[str, Any]]) -> dict[str | None, list[str]]:
    """Shards that hold something, by the release of this package whose optimizer moved the atoms."""
    found: dict[str | None, list[str]] = {}
    for name, attributes in shards.items():
        for release in attributes.get("releases", [attributes.get("versions", {}).get(PACKAGE)]):
            if attributes["num_samples"]:
                found.setdefault(release, []).append(name)
    return found


def _mixed(
    paths: CampaignPaths, by_kind: Mapping[str | None, Sequence[str]], kinds: str, called: Callable[[str | None], str]
) -> ModelMismatchError:
    groups = "; ".join(f"{called(kind)}: {len(names)} from {names[0]} on" for kind, names in by_kind.items())
    parsed = {kind: {name for text in names if (name := ShardName.parse(text))} for kind, names in by_kind.items()}
    # What resume computes is computed by what is installed now, which is what worked last.
    newest = max(parsed, key=lambda kind: max(parsed[kind], default=ShardName(0, 0, 0, 0)))
    others = set().union(*(names for kind, names in parsed.items() if kind != newest))
    return ModelMismatchError(
        f"{paths.shards} has shards of {len(by_kind)} {kinds} ({groups}). A store holds the results of one. To have all by the one "
        f"that worked last, {called(newest)}: {removal_advice(paths, others)} To keep them all: `campaign consolidate --allow-mixed` "
        "(allow_mixed)."
    )


def _provenance(shards: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes of all shards: those that are the same in all of them once, the others by shard."""
    each: dict[str, dict[str, Any]] = {}
    for name, attributes in shards.items():
        own = {key: value for key, value in attributes.items() if key not in RESERVED_ATTRIBUTES and key != ORIGINS}
        earlier = own.get("provenance")
        if earlier is None:
            each[name] = {"n_systems": attributes["num_samples"], **own}
            continue
        # A store that stands in for shards that were removed: what it says of them is kept.
        for removed, known in earlier["shards"].items():
            each.setdefault(removed, {**earlier["shared"], **known})
    first = next(iter(each.values()), {})
    shared = {key: value for key, value in first.items() if all(key in other and other[key] == value for other in each.values())}
    shared.pop("n_systems", None)
    return {"shared": shared, "shards": {name: {key: own[key] for key in own if key not in shared} for name, own in sorted(each.items())}}
