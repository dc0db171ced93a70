"""Systems that were taken out of a batch for want of memory, and wait to come back as they were.

With a system goes all that its optimizer knows of it, so that it goes on with the same bits as if it had never been out.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from campaign.data import Batch
from campaign.dynamics.optimizers.optimizer import Optimizer
from campaign.fields import NEIGHBOR_KEYS

__all__ = ["SetAside"]


class SetAside:
    """A queue of systems with their state. Those that have waited longest come back first."""

    def __init__(self, dynamics: Optimizer) -> None:
        self._dynamics = dynamics
        self._waiting: deque[tuple[Batch, Batch, torch.Tensor]] = deque()

    def __len__(self) -> int:
        """Return how many systems wait."""
        return sum(batch.num_graphs for batch, _, _ in self._waiting)

    def put(self, batch: Batch, rows: ndarray[Any, Any]) -> None:
        """Copy systems of a batch that the dynamics has stepped; the caller takes them out of it."""
        dynamics = self._dynamics
        fresh = torch.zeros(batch.num_graphs, dtype=torch.bool, device=batch.device) if dynamics._fresh is None else dynamics._fresh
        state = dynamics._state.index_select(rows)
        self._waiting.append((batch.index_select(rows, exclude_keys=NEIGHBOR_KEYS), state, fresh[torch.as_tensor(rows)]))

    def bring_back(self, kept: Batch | None, max_systems: int, max_atoms: int) -> Batch | None:
        """Return the batch with as many more as there is room for; to an empty one comes at least one.

        The state of the dynamics must be that of `kept`.
        """
        while self._waiting:
            batch, state, fresh = self._waiting[0]
            systems, atoms = (0, 0) if kept is None else (kept.num_graphs, kept.num_nodes)
            ends = batch.atom_segments.ptr[1:]
            n = min(int(np.searchsorted(ends, max_atoms - atoms, side="right")), max_systems - systems)
            if n < 1 and kept is not None:
                break
            n = max(n, 1)
            self._waiting.popleft()
            if n < batch.num_graphs:
                rest = slice(n, None)
                self._waiting.appendleft((batch.index_select(rest), state.index_select(rest), fresh[rest]))
                batch, state, fresh = batch.index_select(slice(0, n)), state.index_select(slice(0, n)), fresh[:n]
            kept = self._join(kept, batch, state, fresh)
        return kept

    def _join(self, kept: Batch | None, batch: Batch, state: Batch, fresh: torch.Tensor) -> Batch:
        dynamics = self._dynamics
        if kept is None:
            kept, dynamics._state, dynamics._fresh = batch, state, fresh
        else:
            before = torch.zeros(kept.num_graphs, dtype=torch.bool, device=kept.device) if dynamics._fresh is None else dynamics._fresh
            dynamics._fresh = torch.cat([before, fresh])
            dynamics._state.append(state)
            kept.append(batch)
        dynamics._state_of = kept.atom_segments
        return kept
