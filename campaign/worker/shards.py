"""The shards of a rank: a new one for this run, and what earlier attempts at the same array task have committed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from campaign.dynamics.sinks import DataSink, ZarrData
from campaign.errors import StoreExistsError, StoreNotFoundError
from campaign.fields import RESULT_FIELDS, TRAJECTORY_FIELDS
from campaign.files import make_folder
from campaign.hooks import Hook
from campaign.paths import DIRECTORY_MODE, CampaignPaths, ShardName
from campaign.spec import CampaignSpec
from campaign.store.reader import StoreReader
from campaign.worker.attempts import MOST_ATTEMPTS
from campaign.worker.trajectory import AfterTrajectory, TrajectoryHook


def create_shard(paths: CampaignPaths, first: ShardName, spec: CampaignSpec, attributes: Mapping[str, Any]) -> tuple[ShardName, ZarrData]:
    """Create the shard of this run, under `first` or the next free attempt, and return its name and the sink that writes it.

    Raises:
        StoreExistsError: all attempts are taken.
        ResourceError, StoreError: it cannot be written.
    """
    make_folder(paths.shards, DIRECTORY_MODE)
    for attempt in range(first.attempt, MOST_ATTEMPTS):
        name = replace(first, attempt=attempt)
        try:
            sink = ZarrData(
                paths.shard(name),
                capacity=2**62,
                config={"flush_s": spec.execution.flush_s},
                fields=RESULT_FIELDS,
                attributes={**attributes, "attempt": attempt},
            )
        except StoreExistsError:
            continue
        return name, sink
    raise StoreExistsError(
        f"{paths.shards} has shards of all attempts from {first} on. A rank never writes into an existing one, and attempts end at "
        f"{MOST_ATTEMPTS - 1}; look why the array task was started so often."
    )


def with_trajectory(
    paths: CampaignPaths, name: ShardName, spec: CampaignSpec, results: DataSink, closing: ExitStack
) -> tuple[DataSink, list[Hook]]:
    """Return where results go and the hook that writes frames, if the spec asks for frames; `closing` gets what must be closed."""
    if not spec.trajectory.every:
        return results, []
    folder = paths.trajectory_shard(name)
    make_folder(folder.parent, DIRECTORY_MODE)
    # The name is new, since that of the results is.
    frames = closing.enter_context(ZarrData(folder, capacity=2**62, config={"flush_s": spec.execution.flush_s}, fields=TRAJECTORY_FIELDS))
    return AfterTrajectory(results, frames), [TrajectoryHook(frames, spec.trajectory.every)]


def committed_mask(paths: CampaignPaths, name: ShardName, assignment: Int64[ndarray, " P"]) -> Bool[ndarray, " P"]:
    """Return which positions of an assignment earlier attempts at it have finished: all but the first attempt has some."""
    mask = np.zeros(len(assignment), dtype=bool)
    for other in paths.shard_names():
        if (other.round, other.array_task) != (name.round, name.array_task) or other.attempt >= name.attempt:
            continue
        try:
            done = StoreReader.open(paths.shard(other)).read_system("system_id").reshape(-1)
        except StoreNotFoundError:
            continue  # removed in this moment
        mask |= np.isin(assignment, done)
    return mask
