"""A model whose answers are known in closed form: every atom on a spring to the origin. For tests of what moves atoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from campaign.data import Batch
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs

__all__ = ["HarmonicTrap", "random_cloud"]


class HarmonicTrap(BaseModelMixin):
    """E = k/2 Σ |x|², without neighbours; k in eV/Å².

    >>> outputs = HarmonicTrap(k=2.0)(Batch.from_arrays([1], {"positions": torch.tensor([[1.0, 2.0, 0.5]])}, {}))
    >>> outputs["energy"].item(), outputs["forces"].tolist()
    (5.25, [[-2.0, -4.0, -1.0]])
    """

    name = "harmonic_trap"
    deterministic = True

    def __init__(self, k: float = 1.0) -> None:
        self.k = k
        self.model_config = ModelConfig.model_validate({"outputs": {"energy", "forces"}})

    def forward(self, data: Batch) -> ModelOutputs:
        """Return energy [N, 1] and forces [A, 3]."""
        positions = data["positions"]
        per_atom = 0.5 * self.k * (positions * positions).sum(dim=1)
        energy = per_atom.new_zeros(data.num_graphs).index_add_(0, data.batch_idx.long(), per_atom)
        return self.adapt_output({"energy": energy.unsqueeze(1), "forces": -self.k * positions}, data)


def random_cloud(n_atoms: Sequence[int], first_id: int = 0, dtype: torch.dtype = torch.float64, spread: float = 0.3) -> Batch:
    """Return systems of these sizes around the origin, with masses from 1 to 30 amu; every number follows from the system's id.

    >>> random_cloud([2, 1], first_id=5).system_id.flatten().tolist()
    [5, 6]
    """
    generators = [np.random.default_rng(first_id + i) for i in range(len(n_atoms))]
    positions = np.concatenate([g.normal(scale=spread, size=(n, 3)) for g, n in zip(generators, n_atoms, strict=True)])
    masses = np.concatenate([g.uniform(1, 30, size=n) for g, n in zip(generators, n_atoms, strict=True)])
    atom = {
        "positions": torch.from_numpy(positions).to(dtype),
        "atomic_numbers": torch.ones(sum(n_atoms), dtype=torch.int64),
        "atomic_masses": torch.from_numpy(masses).to(dtype),
    }
    return Batch.from_arrays(list(n_atoms), atom, {"system_id": torch.arange(first_id, first_id + len(n_atoms)).unsqueeze(1)})
