"""Structures that the tests of the dynamics relax, and a relaxation in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, fcc100, fcc111, molecule
from ase.cluster import Icosahedron

from campaign.data import AtomicData, Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings, RunStatistics
from campaign.dynamics.sampler import BatchSampler
from campaign.fields import decode_error
from campaign.models.base import BaseModelMixin
from campaign.outcomes import Outcome

METALS = ("Cu", "Au", "Ag", "Pd", "Pt", "Ni", "Al")


def to_batch(structures: Sequence[Atoms], first_id: int = 0) -> Batch:
    """Return a batch in float64 whose systems are numbered."""
    batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in structures])
    batch["system_id"] = torch.arange(first_id, first_id + len(structures)).view(-1, 1)
    return batch


def one_of_each(seed: int = 0) -> list[Atoms]:
    """Return structures that have nothing in common: a crystal, an alloy in a skewed cell, slabs, a wire, a cluster, a pair of atoms."""
    rng = np.random.default_rng(seed)
    crystal = bulk("Cu", cubic=True)
    alloy = bulk("Au", a=4.0) * (2, 1, 1)
    alloy.numbers[0] = 29
    slab = fcc111("Pt", (2, 2, 3), vacuum=6.0)
    open_slab = fcc100("Al", (1, 1, 3), vacuum=5.0, periodic=False)
    wire = bulk("Ni", cubic=True) * (1, 1, 2)
    wire.pbc = (False, False, True)
    cluster = Icosahedron("Ag", 2)
    pair = Atoms("Pd2", [[0.0, 0, 0], [0, 0, 2.4]])
    for atoms in (crystal, alloy, slab, open_slab, wire, cluster):
        atoms.rattle(0.08, rng=rng)
    return [crystal, alloy, slab, open_slab, wire, cluster, pair]


def lj_clusters(sizes: Sequence[int], sigma: float = 1.0, rattle: float = 0.1, seed: int = 0) -> list[Atoms]:
    """Return compact clusters cut from an icosahedron, rattled by a share of sigma."""
    rng = np.random.default_rng(seed)
    full = Icosahedron("Ar", 3, latticeconstant=2 ** (1 / 6) * 2**0.5 * sigma).positions
    order = np.argsort(np.linalg.norm(full - full.mean(0), axis=1), kind="stable")
    return [Atoms(numbers=[18] * n, positions=full[order[:n]] + rng.normal(scale=rattle * sigma, size=(n, 3))) for n in sizes]


@dataclass
class Relaxed:
    """What a relaxation gave, in the order of the ids."""

    batch: Batch
    statistics: RunStatistics
    relaxation: Relaxation

    @property
    def outcomes(self) -> list[Outcome]:
        return [Outcome(int(code)) for code in self.batch["outcome"].view(-1)]

    @property
    def errors(self) -> list[str]:
        return [decode_error(bytes(row.numpy())) for row in self.batch["error"]]

    def system(self, system_id: int) -> dict[str, torch.Tensor]:
        """Return the tensors of one system by name."""
        row = self.batch["system_id"].view(-1).tolist().index(system_id)
        return dict(iter(self.batch.index_select([row])))


def relax(
    model: BaseModelMixin,
    batch: Batch,
    *,
    fmax: float = 0.01,
    max_steps: int = 300,
    limits: dict[str, int] | None = None,
    hooks: Any = (),
    **settings: Any,
) -> Relaxed:
    """Relax all systems of a batch."""
    sink = HostMemory(capacity=10_000)
    how = RelaxSettings(fmax_ev_per_ang=fmax, max_steps=max_steps, **settings)
    relaxation = Relaxation(model, how, BatchSampler(batch), [sink], hooks, **(limits or {}))
    statistics = relaxation.run()
    result = sink.read()
    order = np.argsort(result["system_id"].view(-1).numpy(), kind="stable")
    return Relaxed(result.index_select(order), statistics, relaxation)


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Check that two systems agree in every bit of everything that is known of them."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.numpy().tobytes() == second[key].numpy().tobytes(), f"{key} differs"


def water() -> Atoms:
    """Return a molecule of elements that metal potentials do not know."""
    return molecule("H2O")
