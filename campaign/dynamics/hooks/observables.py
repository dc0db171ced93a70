"""Numbers per system that follow from its atoms: largest force, kinetic energy, temperature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from campaign.data import Batch
from campaign.units import EV_PER_K

__all__ = ["kinetic_energy_per_system", "largest_force_per_system", "temperature_per_system"]


def largest_force_per_system(batch: Batch) -> Float[Tensor, " N"]:
    """Return the largest norm of a force in eV/Å, components that may not move left out; 0 without atoms.

    >>> batch = Batch.from_arrays([1, 2], {"forces": torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])}, {})
    >>> largest_force_per_system(batch).tolist()
    [5.0, 2.0]
    """
    forces = batch["forces"]
    if "fixed" in batch:
        forces = forces.masked_fill(batch["fixed"], 0.0)
    norms = torch.linalg.vector_norm(forces, dim=1)
    largest: Tensor = norms.new_zeros(batch.num_graphs)
    return largest.scatter_reduce_(0, batch.batch_idx.long(), norms, "amax")


def kinetic_energy_per_system(batch: Batch) -> Float[Tensor, " N"]:
    """Return Σ m v² / 2 in eV, for masses in amu and velocities in Å per ASE's unit of time.

    >>> batch = Batch.from_arrays([1], {"velocities": torch.tensor([[2.0, 0.0, 0.0]]), "atomic_masses": torch.tensor([3.0])}, {})
    >>> kinetic_energy_per_system(batch).tolist()
    [6.0]
    """
    velocities = batch["velocities"]
    energies = 0.5 * batch["atomic_masses"].to(velocities.dtype) * (velocities * velocities).sum(dim=1)
    total: Tensor = energies.new_zeros(batch.num_graphs)
    return total.index_add_(0, batch.batch_idx.long(), energies)


def temperature_per_system(batch: Batch) -> Float[Tensor, " N"]:
    """Return 2 E_kin / (f k_B) in K with f the components that may move, three per atom where none is fixed; 0 where f is 0.

    >>> batch = Batch.from_arrays([1], {"velocities": torch.tensor([[2.0, 0.0, 0.0]]), "atomic_masses": torch.tensor([3.0])}, {})
    >>> round(float(temperature_per_system(batch)))
    46418
    """
    energies = kinetic_energy_per_system(batch)
    freedom = 3 * batch.num_nodes_per_graph.to(energies.dtype)
    if "fixed" in batch:
        freedom.index_add_(0, batch.batch_idx.long(), -batch["fixed"].sum(dim=1).to(energies.dtype))
    return torch.where(freedom > 0, 2.0 * energies / (freedom.clamp(min=1.0) * EV_PER_K), torch.zeros_like(energies))
