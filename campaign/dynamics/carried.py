"""The state of a dynamics as fields of a batch: what makes a snapshot a checkpoint.

While a run goes on, what a dynamics knows of its systems (time steps, counts, the history of L-BFGS, the last good positions) lies beside
the batch. `with_state` returns the batch with that state on it, as further fields that any sink stores; `take_state` finds it on a batch
that comes in and takes it off. The field `…_phase` says of each system how it goes on, so that batches with and without a state mix:

    0  it has no state and starts
    1  it was moved, or is to be looked at again: it is evaluated first, as a system that starts
    2  it was evaluated, and moves
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import torch
from jaxtyping import Bool
from torch import Tensor

from campaign.data import Batch
from campaign.errors import ArgumentError
from campaign.fields import Level

__all__ = ["PREFIX", "Phase", "carried_keys", "carries_state", "evaluate_first", "take_state", "with_state"]

PREFIX: Final = "dynamics"
"""What the names of these fields begin with, up to an underscore."""


class Phase(IntEnum):
    """How a system goes on."""

    STARTS = 0
    IS_EVALUATED = 1
    MOVES = 2


def with_state(batch: Batch, state: Batch, fresh: Bool[Tensor, " N"] | None, prefix: str = PREFIX) -> Batch:
    """Return a batch of the same tensors, and those of `state` beside them; neither argument is changed or copied.

    Args:
        batch: the systems.
        state: what is kept of them, with the same systems in the same order.
        fresh: those that wait for an evaluation; None is nobody.
        prefix: what the names begin with.
    """
    tensors = dict(iter(batch))
    levels = {key: batch.level_of(key) for key in tensors}
    for key, tensor in state:
        tensors[f"{prefix}_{key}"], levels[f"{prefix}_{key}"] = tensor, state.level_of(key)
    phase = torch.full((batch.num_graphs, 1), int(Phase.MOVES), dtype=torch.int64, device=batch.device)
    if fresh is not None:
        phase[fresh] = int(Phase.IS_EVALUATED)
    tensors[f"{prefix}_phase"], levels[f"{prefix}_phase"] = phase, Level.SYSTEM
    return Batch(tensors, levels, batch.atom_segments, batch.edge_segments)


def take_state(batch: Batch, state: Batch, fresh: Bool[Tensor, " N"] | None, prefix: str = PREFIX) -> None:
    """Take the state that systems of `batch` carry off it, and write it over theirs in `state` and `fresh`; the others keep what they have.

    Raises:
        ArgumentError: it is the state of another dynamics, or of one with other settings. Nothing was changed.
    """
    keys = carried_keys(batch, prefix)
    if not keys:
        return
    _check(batch, state, keys, prefix)
    phase = batch[f"{prefix}_phase"].view(-1)
    resumed = phase != int(Phase.STARTS)
    atoms = resumed[batch.batch_idx]
    for key, tensor in state:
        rows = atoms if state.level_of(key) is Level.ATOM else resumed
        tensor[rows] = batch[f"{prefix}_{key}"][rows]
    if fresh is not None:
        fresh[resumed] = phase[resumed] == int(Phase.IS_EVALUATED)
    for key in keys:
        del batch[key]


def carries_state(batch: Batch, prefix: str = PREFIX) -> Bool[Tensor, " N"] | None:
    """Return which systems carry a state; None if the batch has no such fields."""
    key = f"{prefix}_phase"
    return batch[key].view(-1) != int(Phase.STARTS) if key in batch else None


def evaluate_first(batch: Batch, prefix: str = PREFIX) -> None:
    """Have systems that carry a state evaluated once more before they move."""
    key = f"{prefix}_phase"
    if key in batch:
        batch[key] = batch[key].clamp(max=int(Phase.IS_EVALUATED))


def carried_keys(batch: Batch, prefix: str = PREFIX) -> list[str]:
    """Return the fields of a state on the batch."""
    return [key for key, _ in batch if key.startswith(f"{prefix}_")] if f"{prefix}_phase" in batch else []


def _check(batch: Batch, state: Batch, keys: list[str], prefix: str) -> None:
    wanted = {f"{prefix}_{key}": (state.level_of(key), tensor.dtype, tensor.shape[1:]) for key, tensor in state}
    found = {key: (batch.level_of(key), batch[key].dtype, batch[key].shape[1:]) for key in keys if key != f"{prefix}_phase"}
    if wanted != found:
        differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise ArgumentError(
            f"the batch carries the state of another dynamics: {', '.join(differing)} differ. "
            "Go on with the dynamics and settings that made the snapshot, or delete these keys to start anew."
        )
