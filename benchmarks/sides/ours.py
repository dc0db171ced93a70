"""Our engine, a process on each core, which draw from one queue as the ranks of a campaign do.

Left alone it takes one system after the other through many steps. With a model that is a torch module, or a hook that wants to see each
step, all systems of the batch do one step after the other; so it is in the modes `refilled`, where a system that has ended makes room for
the next, and `fixed`, where batches stay as they are until their slowest member has ended.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Final

import numpy as np
import torch

from campaign.data import Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.hooks import ConvergedSnapshotHook, SnapshotHook
from campaign.dynamics.sinks import ZarrData
from campaign.hooks import DynamicsStage
from campaign.models.registry import create_model
from campaign.outcomes import Outcome
from sides.ballast import add_ballast
from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, joined
from sides.listening import Contract, Listening
from sides.queue import Queue
from sides.serving import serve


class QueueSampler:
    """Gives structures of a batch in memory as a queue says; with `places`, only as many at once.

    >>> sampler = QueueSampler(Batch.from_arrays([1, 1, 1], {"positions": torch.zeros(3, 3)}, {}), Queue(3), places=2)
    >>> sampler.next_batch(1, 9, torch.device("cpu")) is None, sampler.next_batch(2, 9, torch.device("cpu")).num_graphs
    (True, 2)
    """

    def __init__(self, batch: Batch, queue: Queue, places: int | None = None) -> None:
        self._batch = batch
        self._queue = queue
        self._places = places

    @property
    def exhausted(self) -> bool:
        """Whether nothing will come again."""
        return self._queue.is_exhausted

    def next_batch(self, max_systems: int, max_atoms: int, device: torch.device) -> Batch | None:
        """Return the next structures, or None. There is always room for their atoms."""
        if self._places is not None and max_systems < self._places:
            return None
        taken = self._queue.take(max_systems)
        return self._batch.index_select(slice(taken.start, taken.stop)) if taken else None


_CONTRACT: Final = Contract(DynamicsStage, SnapshotHook, ConvergedSnapshotHook, ZarrData)


def prepare(settings: Settings) -> RelaxFunction:
    """Return a relaxation of structures with our engine."""
    is_fixed, by_steps = settings.mode == "fixed", settings.mode != ""
    listened = replace(settings, hook="listener") if by_steps else settings
    torch.set_num_threads(1)
    model = create_model(settings.potential, torch.float64, torch.device("cpu"), settings.options)
    if settings.has_ballast:
        add_ballast(model)
    how = RelaxSettings(
        fmax_ev_per_ang=settings.fmax_ev_per_ang,
        max_steps=settings.max_steps,
        # Later than any structure ends: those that have ended leave when all have.
        refill_every=settings.max_steps + 1 if is_fixed else None,
    )

    def relax(structures: Structures, queue: Queue) -> Relaxed:
        start = perf_counter()
        places = -(-settings.in_flight // queue.n_sharing)
        atoms = {"positions": structures.positions, "atomic_numbers": structures.numbers}
        ids = np.arange(len(structures)).reshape(-1, 1)
        systems = {"cell": structures.cell, "pbc": structures.pbc, "system_id": ids}
        batch = Batch.from_arrays(structures.n_atoms, atoms, systems)
        sink = HostMemory(capacity=len(structures))
        sampler = QueueSampler(batch, queue, places if is_fixed else None)
        listening = Listening(listened, _CONTRACT)
        hooks = [] if listening.hook is None else [listening.hook]
        statistics = Relaxation(model, how, sampler, [sink], hooks, places, batch.num_nodes).run()
        written = listening.end()
        if len(sink) == 0:
            return joined([])  # the other processes were faster
        parts_s = dict(statistics.seconds)
        found = sink.read()
        arrays = {key: found[key].numpy() for key in ("system_id", "positions", "energy", "forces", "n_steps", "outcome")}
        parts_s["arrays in and out"] = perf_counter() - start - statistics.total_s
        return Relaxed(
            index=arrays["system_id"].reshape(-1),
            positions=arrays["positions"],
            energy=arrays["energy"].reshape(-1),
            forces=arrays["forces"],
            n_steps=arrays["n_steps"].reshape(-1),
            converged=arrays["outcome"].reshape(-1) == int(Outcome.CONVERGED),
            parts_s=parts_s,
            place_steps=float(places * statistics.n_batch_steps) if by_steps else 0.0,
            **written,
        )

    return relax


if __name__ == "__main__":
    serve(prepare)
