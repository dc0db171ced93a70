"""Systems come and go: what newcomers get before they join a batch, and how many of them fit.

Everything here acts on whole batches; nothing runs per system.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.sampler import Sampler, SizeAwareSampler

__all__ = ["append_newcomers", "bookkeep", "newcomers_for"]

KeyFactories = Mapping[str, Callable[[int, torch.device], Tensor]]
"""For each bookkeeping key, a function that makes its rows for n new systems."""


def newcomers_for(sampler: Sampler, kept: Batch | None, device: torch.device) -> Batch | None:
    """Return what the sampler gives for the room that `kept` leaves within the sampler's own limits; None if that is nothing."""
    n_systems, n_atoms = (0, 0) if kept is None else (kept.num_graphs, kept.num_nodes)
    most_systems = getattr(sampler, "max_batch_size", None)
    most_atoms = getattr(sampler, "max_atoms", None)
    room = sys.maxsize if most_systems is None else most_systems - n_systems
    atoms = sys.maxsize if most_atoms is None else most_atoms - n_atoms
    if room < 1 or atoms < 1:
        return None
    most_edges = getattr(sampler, "max_edges", None)
    if most_edges is None or not isinstance(sampler, SizeAwareSampler):
        return sampler.next_batch(room, atoms, device)
    return sampler.next_batch(room, atoms, device, max_edges=most_edges - (0 if kept is None else kept.num_edges))


def bookkeep(batch: Batch, factories: KeyFactories) -> None:
    """Add the bookkeeping keys that a batch lacks."""
    for key, factory in factories.items():
        if key not in batch:
            batch[key] = factory(batch.num_graphs, batch.device)


def append_newcomers(kept: Batch | None, newcomers: Batch | None, factories: KeyFactories) -> Batch | None:
    """Return the systems that stay followed by the new ones, or None if there are neither; `kept` is changed."""
    if newcomers is None:
        return kept
    if kept is None:
        bookkeep(newcomers, factories)
        return newcomers
    bookkeep(newcomers, {key: factory for key, factory in factories.items() if key in kept})
    kept.append(newcomers)
    return kept
