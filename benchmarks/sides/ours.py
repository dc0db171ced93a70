"""Our engine: all structures of a call are in flight together, in one process with one thread."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch

from campaign.data import Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.sampler import BatchSampler
from campaign.models.registry import create_model
from campaign.outcomes import Outcome
from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, serve


def prepare(settings: Settings) -> RelaxFunction:
    """Return a relaxation of structures with our engine."""
    torch.set_num_threads(1)
    model = create_model(settings.potential, torch.float64, torch.device("cpu"), settings.options)
    how = RelaxSettings(fmax_ev_per_ang=settings.fmax_ev_per_ang, max_steps=settings.max_steps)

    def relax(structures: Structures) -> Relaxed:
        start = perf_counter()
        atoms = {"positions": structures.positions, "atomic_numbers": structures.numbers}
        ids = np.arange(len(structures)).reshape(-1, 1)
        systems = {"cell": structures.cell, "pbc": structures.pbc, "system_id": ids}
        batch = Batch.from_arrays(structures.n_atoms, atoms, systems)
        sink = HostMemory(capacity=len(structures))
        limits = {"max_systems": len(structures), "max_atoms": batch.num_nodes}
        statistics = Relaxation(model, how, BatchSampler(batch), [sink], **limits).run()
        found = sink.read()
        found = found.index_select(torch.argsort(found["system_id"].view(-1)))
        arrays = {key: found[key].numpy() for key in ("positions", "energy", "forces", "n_steps", "outcome")}
        parts_s = {**statistics.seconds, "arrays in and out": perf_counter() - start - statistics.total_s}
        return Relaxed(
            arrays["positions"],
            arrays["energy"].reshape(-1),
            arrays["forces"],
            arrays["n_steps"].reshape(-1),
            arrays["outcome"].reshape(-1) == int(Outcome.CONVERGED),
            parts_s,
        )

    return relax


if __name__ == "__main__":
    serve(prepare)
