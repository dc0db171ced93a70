"""nvalchemi-toolkit: a `FusedStage` of FIRE with its Lennard-Jones model, refilled in flight, a process on each core.

Chosen because it was fastest here: systems that have graduated leave every ten steps (a batch that is run without a sampler keeps them),
half neighbour lists with a skin, nothing compiled by torch (`SIDES` switches off what the neighbour hook asks for), two processes rather
than one with two threads. FIRE has ASE's parameters and unit masses, without which argon takes far more steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from nvalchemi.data import AtomicData, Batch
from nvalchemi.dynamics import FIRE, SizeAwareSampler
from nvalchemi.dynamics.base import ConvergenceHook, DynamicsStage, FusedStage
from nvalchemi.dynamics.hooks import ConvergedSnapshotHook, SnapshotHook
from nvalchemi.dynamics.sinks import DataSink, ZarrData
from nvalchemi.hooks import NeighborListHook
from nvalchemi.models.lj import LennardJonesModelWrapper

from sides.ballast import add_ballast
from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, in_blocks, joined
from sides.listening import Contract, Listening
from sides.serving import serve

SKIN_ANG: Final = 0.5
REFILL_EVERY: Final = 10
NUMBER: Final = "number"
"""Ours, to know a system again: the sampler counts `system_id` in its own order."""
STEPS: Final = "n_steps_counter_0"
"""Theirs: the steps of a system in stage 0; 0 again when they are used up."""
_CONTRACT: Final = Contract(DynamicsStage, SnapshotHook, ConvergedSnapshotHook, ZarrData)


def prepare(settings: Settings) -> RelaxFunction:
    """Return a relaxation of structures with nvalchemi-toolkit."""
    torch.set_num_threads(1)
    potential = settings.options
    model = LennardJonesModelWrapper(epsilon=potential["epsilon"], sigma=potential["sigma"], cutoff=potential["rc"], half_list=True)
    if settings.has_ballast:
        add_ballast(model)

    def relax(structures: Structures) -> Relaxed:
        sink = _Results(settings)
        fire = FIRE(
            model,
            dt=0.1,
            dt_max=1.0,
            dt_min=0.0,
            n_steps=settings.max_steps,
            convergence_hook=ConvergenceHook.from_forces(threshold=settings.fmax_ev_per_ang),
        )
        sampler = SizeAwareSampler(_Dataset(structures), max_batch_size=len(structures))
        fused = FusedStage([(0, fire)], sampler=sampler, sinks=[sink], refill_frequency=REFILL_EVERY)
        config = model.model_config.neighbor_config
        fused.register_hook(NeighborListHook(config, skin=SKIN_ANG, stage=DynamicsStage.BEFORE_COMPUTE))
        listening = Listening(settings, _CONTRACT)
        if listening.hook is not None:
            # That of convergence is a stage's, all others are told of whole steps.
            (fire if settings.hook == "converged" else fused).register_hook(listening.hook)
        fused.run()
        return replace(joined(sink.parts), **listening.end())

    return in_blocks(relax)


class _Results(DataSink):
    """Keeps what leaves as arrays."""

    capacity = 2**31
    """Of structures; enough."""

    def __init__(self, settings: Settings) -> None:
        self.parts: list[Relaxed] = []
        self._settings = settings

    def write(self, batch: Batch, mask: torch.Tensor | None = None) -> None:
        """Keep systems of a batch."""
        rows = torch.arange(batch.num_graphs) if mask is None else torch.where(mask)[0]
        leaving = batch.index_select(rows)
        number, energy, n_steps = (getattr(leaving, name).numpy().reshape(-1).copy() for name in (NUMBER, "energy", STEPS))
        positions, forces = leaving.positions.numpy().copy(), leaving.forces.numpy().copy()
        n_atoms = leaving.num_nodes_per_graph.numpy()
        fmax = np.maximum.reduceat(np.linalg.norm(forces, axis=1), np.cumsum(n_atoms) - n_atoms)
        converged = fmax <= self._settings.fmax_ev_per_ang
        n_steps[~converged] = self._settings.max_steps
        self.parts.append(Relaxed(number, positions, energy, forces, n_steps, converged, is_shifted=False))

    def __len__(self) -> int:
        return sum(len(part.index) for part in self.parts)

    def read(self) -> Batch:
        """Refuse: batches are not kept."""
        raise NotImplementedError

    def zero(self) -> None:
        """Forget all."""
        self.parts.clear()


class _Dataset:
    """Structures as the sampler wants them."""

    def __init__(self, structures: Structures) -> None:
        self._structures = structures

    def __len__(self) -> int:
        return len(self._structures)

    def get_metadata(self, i: int) -> tuple[int, int]:
        """Return the numbers of atoms and edges."""
        return int(self._structures.n_atoms[i]), 0

    def __getitem__(self, i: int) -> tuple[AtomicData, dict[str, Any]]:
        one = self._structures.part(i, i + 1)
        n_atoms = len(one.positions)
        periodic = {"cell": torch.tensor(one.cell), "pbc": torch.tensor(one.pbc)} if one.pbc.any() else {}
        data = AtomicData(
            positions=torch.tensor(one.positions),
            atomic_numbers=torch.tensor(one.numbers),
            atomic_masses=torch.ones(n_atoms, dtype=torch.float64),
            velocities=torch.zeros(n_atoms, 3, dtype=torch.float64),
            forces=torch.zeros(n_atoms, 3, dtype=torch.float64),
            energy=torch.zeros(1, 1, dtype=torch.float64),
            **periodic,
        )
        data.add_system_property(NUMBER, torch.tensor([[i]]))
        return data, {}


if __name__ == "__main__":
    serve(prepare)
