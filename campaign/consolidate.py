"""The arrow from per-rank shards to `store.zarr`: each input once, sorted by `system_id`, whatever its outcome.

Rejects of ingest come from `inputs.zarr` with the outcome invalid; what comes with an input (tags, masses, source, …) is copied from there.
Where two shards have the same system, the first by round, array task, rank and attempt counts, and the others are counted as duplicates.
Results of shards that were removed since an earlier consolidation are taken from the store that it made.
The arrays depend on the inputs and results alone; what differs between runs is in the root attribute `provenance`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from campaign.errors import ModelMismatchError, StoreError
from campaign.fields import CARRIED_FIELDS, STORE_FIELDS, TRAJECTORY_FIELDS, Field
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.removal import removal_advice
from campaign.store.consolidation import ConsolidationReport, run_consolidation
from campaign.store.consolidation_plan import (
    DEFAULT_BUDGET_BYTES,
    ConsolidationPlan,
    InputIndex,
    ShardIndex,
    plan_consolidation,
    plan_trajectory,
)
from campaign.store.durable import exclusive_lock, sweep_partial
from campaign.store.layout import RESERVED_ATTRIBUTES
from campaign.store.publication import recover_folder
from campaign.store.reader import StoreReader
from campaign.store.targets import mapped_errors

if TYPE_CHECKING:
    from distributed import Client

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
    client: Client | str | None = None,
    allow_mixed: bool = False,
    allow_incomplete: bool = False,
    n_workers: int = 0,
    budget_bytes: int = DEFAULT_BUDGET_BYTES,
) -> ConsolidateReport:
    """Consolidate all shards of a campaign into `store.zarr`, and trajectory shards, if any, into `trajectory.zarr`.

    The work is done by the threads of this process; or by `client`, a Dask client or the address of a scheduler whose workers see the
    campaign directory; or by a LocalCluster of `n_workers` processes. A store that is there is replaced in one step.

    Raises:
        StoreError: another process consolidates this campaign.
        IncompleteError: inputs have no outcome yet. With `allow_incomplete` the store is written without them, and `verify` will say so.
        ModelMismatchError: shards were computed by different models and `allow_mixed` is not set.
        StoreDamagedError: a shard has a chunk that is missing or damaged; the text names it.
        ResourceError: no room, no right to write, or a Dask task would need more than `budget_bytes`.
    """
    with exclusive_lock(paths.store_lock) as is_ours:
        if not is_ours:
            raise StoreError(f"{paths.store} is being consolidated by another process. One at a time can; wait for it, or end it.")
        return _consolidate(paths, client, allow_mixed, allow_incomplete, n_workers, budget_bytes)


def _consolidate(
    paths: CampaignPaths, client: Client | str | None, allow_mixed: bool, allow_incomplete: bool, n_workers: int, budget_bytes: int
) -> ConsolidateReport:
    with mapped_errors(str(paths.root), "removing what killed writers left behind in"):
        for published in (paths.store, paths.trajectory):
            recover_folder(published)
        for folder in (paths.shards, paths.trajectory_shards):
            sweep_partial(folder, PARTIAL_AGE_S)
    inputs = StoreReader.open(paths.inputs)
    rejected = inputs.read_system("outcome")[:, 0] == Outcome.INVALID
    names = paths.shard_names()
    folders = {str(name): paths.shard(name) for name in names}
    shards = {name: StoreReader.open(folder) for name, folder in folders.items()}
    indices = [_index(name, reader) for name, reader in shards.items()]
    earlier = _results_of_removed_shards(paths, indices, rejected)
    if earlier is not None:
        # Last in the order of names, so a shard that is there always counts more.
        indices.append(earlier)
        folders[earlier.name] = paths.store
        shards[earlier.name] = StoreReader.open(paths.store)
    fingerprints = _fingerprints(shards)
    if len(fingerprints) > 1 and not allow_mixed:
        raise _mixed(paths, fingerprints)
    plan = plan_consolidation(
        InputIndex(paths.inputs.name, inputs.n_atoms(), rejected),
        indices,
        STORE_FIELDS,
        budget_bytes,
        allow_incomplete,
    )
    attributes = {
        "n_inputs": inputs.n_systems,
        "n_missing": plan.n_missing,
        "n_duplicates": plan.n_duplicates,
        "model_fingerprints": sorted(str(fingerprint) for fingerprint in fingerprints),
        "provenance": _provenance(shards),
    }
    sources = {plan.sources[0]: paths.inputs, **folders}
    with _connected(client, n_workers) as connection:
        report = run_consolidation(plan, sources, paths.store_staging, paths.store, STORE_FIELDS, CARRIED_FIELDS, attributes, connection)
        frames = _consolidate_trajectories(paths, names, plan, inputs.n_systems, budget_bytes, connection)
    outcomes = StoreReader.open(paths.store).read_system("outcome")[:, 0]
    return ConsolidateReport(
        str(paths.store),
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
    paths: CampaignPaths, names: Sequence[ShardName], plan: ConsolidationPlan, n_inputs: int, budget_bytes: int, client: Client | None
) -> ConsolidationReport | None:
    folders = {str(name): paths.trajectory_shard(name) for name in names if paths.trajectory_shard(name).is_dir()}
    if not folders:
        return None
    indices = []
    for name, folder in folders.items():
        reader = StoreReader.open(folder)
        indices.append(ShardIndex(name, reader.read_system("system_id")[:, 0], reader.n_atoms(), reader.read_system("step")[:, 0]))
    winner: list[str | None] = [None] * n_inputs
    for system_id, source in zip(plan.system_ids.tolist(), plan.source.tolist(), strict=True):
        winner[system_id] = plan.sources[source]
    fields: Sequence[Field] = TRAJECTORY_FIELDS
    frames = plan_trajectory(indices, winner, fields, budget_bytes)
    attributes = {"n_inputs": n_inputs, "n_left_out": frames.n_duplicates}
    return run_consolidation(frames, folders, paths.trajectory_staging, paths.trajectory, fields, (), attributes, client)


def _index(name: str, reader: StoreReader) -> ShardIndex:
    return ShardIndex(name, reader.read_system("system_id")[:, 0], reader.n_atoms())


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
    return ShardIndex(paths.store.name, ids[rows], reader.n_atoms(rows), rows=rows) if len(rows) else None


def _fingerprints(shards: Mapping[str, StoreReader]) -> dict[str | None, list[str]]:
    """Shards that hold something, by the model that computed them."""
    found: dict[str | None, list[str]] = {}
    for name, reader in shards.items():
        attributes = reader.attributes
        for fingerprint in attributes.get("model_fingerprints", [attributes.get("model_fingerprint")]):
            if reader.n_systems:
                found.setdefault(fingerprint, []).append(name)
    return found


def _mixed(paths: CampaignPaths, fingerprints: Mapping[str | None, Sequence[str]]) -> ModelMismatchError:
    groups = "; ".join(f"model {str(fingerprint)[:12]}: {len(names)} from {names[0]} on" for fingerprint, names in fingerprints.items())
    by_model = {fingerprint: {name for text in names if (name := ShardName.parse(text))} for fingerprint, names in fingerprints.items()}
    # What resume computes is computed by the model that is installed now, which is the one that worked last.
    newest = max(by_model, key=lambda fingerprint: max(by_model[fingerprint], default=ShardName(0, 0, 0, 0)))
    others = set().union(*(names for fingerprint, names in by_model.items() if fingerprint != newest))
    return ModelMismatchError(
        f"{paths.shards} has shards of {len(fingerprints)} models ({groups}). A store holds the results of one. To have all by the model "
        f"that worked last, {str(newest)[:12]}: {removal_advice(paths, others)} To keep them all: `campaign consolidate --allow-mixed` "
        "(allow_mixed)."
    )


def _provenance(shards: Mapping[str, StoreReader]) -> dict[str, Any]:
    """Attributes of all shards: those that are the same in all of them once, the others by shard."""
    each: dict[str, dict[str, Any]] = {}
    for name, reader in shards.items():
        own = {key: value for key, value in reader.attributes.items() if key not in RESERVED_ATTRIBUTES}
        earlier = own.get("provenance")
        if earlier is None:
            each[name] = {"n_systems": reader.n_systems, **own}
            continue
        # A store that stands in for shards that were removed: what it says of them is kept.
        for removed, known in earlier["shards"].items():
            each.setdefault(removed, {**earlier["shared"], **known})
    first = next(iter(each.values()), {})
    shared = {key: value for key, value in first.items() if all(key in other and other[key] == value for other in each.values())}
    shared.pop("n_systems", None)
    return {"shared": shared, "shards": {name: {key: own[key] for key in own if key not in shared} for name, own in sorted(each.items())}}


@contextmanager
def _connected(client: Client | str | None, n_workers: int) -> Iterator[Client | None]:
    if client is None and not n_workers:
        yield None
        return
    if client is not None and not isinstance(client, str):
        yield client
        return
    # distributed takes a second to import, and most campaigns need no cluster for this.
    from distributed import Client, LocalCluster

    if client is not None:
        with Client(client) as connection:  # type: ignore[no-untyped-call]
            yield connection
        return
    cluster = LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)  # type: ignore[no-untyped-call]
    with cluster, Client(cluster) as connection:  # type: ignore[no-untyped-call]
        yield connection
