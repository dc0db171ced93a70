"""Numbers per system that follow from its atoms: largest force, kinetic and total energy, its drift, temperature."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from campaign.data import Batch, Segments
from campaign.dynamics.per_system import check_positive
from campaign.errors import ArgumentError
from campaign.hooks.context import DynamicsContext
from campaign.units import EV_PER_K

__all__ = [
    "EnergyDrift",
    "kinetic_energy_per_system",
    "largest_force_per_system",
    "temperature_per_system",
    "total_energy_per_system",
]


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


def total_energy_per_system(batch: Batch) -> Float[Tensor, " N"]:
    """Return potential and kinetic energy in eV.

    >>> atoms = {"velocities": torch.tensor([[2.0, 0.0, 0.0]]), "atomic_masses": torch.tensor([3.0])}
    >>> total_energy_per_system(Batch.from_arrays([1], atoms, {"energy": torch.tensor([[-1.0]])})).tolist()
    [5.0]
    """
    kinetic = kinetic_energy_per_system(batch)
    total: Tensor = batch["energy"].view(-1).to(kinetic.dtype) + kinetic
    return total


class EnergyDrift:
    """How fast the total energy of each system drifts, in eV per atom and ps: the slope of the straight line through all energies so far.

    What a constant-energy run should say of itself, as a column of a log:

        LoggingHook("csv", log_path="nve.csv", custom_scalars={
            "total_energy": lambda ctx: total_energy_per_system(ctx.batch), "drift": EnergyDrift(dt=1.0)})

    It looks whenever it is called; 0 the first time. Systems that come into the batch begin when they are first seen, those that stay go
    on; the batch then needs a `system_id`. Nothing here waits for a device.

    Args:
        dt: time step of the dynamics in fs, one for all systems.

    Raises:
        ArgumentError: `dt` is not above zero; when called: the batch is another one and has no `system_id`.
    """

    def __init__(self, dt: float) -> None:
        self._ps_per_step = float(check_positive("dt", dt)) / 1000
        self._of: Segments | None = None
        self._ids: Tensor | None = None
        self._sums = torch.zeros(0, 7, dtype=torch.float64)

    def __call__(self, ctx: DynamicsContext) -> Float[Tensor, " N"]:
        """Take the energies of this step in and return the drift of each system."""
        batch = ctx.batch
        if batch is None:
            raise ArgumentError("EnergyDrift was called without a batch; it needs one. Give it to a hook of a dynamics.")
        energy = (total_energy_per_system(batch) / batch.num_nodes_per_graph).to(torch.float64)
        if self._of is not batch.atom_segments:
            self._follow(batch, energy, ctx.step_count)
        # Both are counted from where the system was first seen, so that no digits are lost.
        t = (ctx.step_count - self._sums[:, 0]) * self._ps_per_step
        e = energy - self._sums[:, 1]
        self._sums[:, 2:] += torch.stack([torch.ones_like(t), t, t * t, e, t * e], dim=1)
        n, sum_t, sum_tt, sum_e, sum_te = self._sums[:, 2:].unbind(1)
        spread = n * sum_tt - sum_t * sum_t
        return torch.where(spread > 0, (n * sum_te - sum_t * sum_e) / spread.clamp(min=1e-300), torch.zeros_like(spread))

    def _follow(self, batch: Batch, energy: Float[Tensor, " N"], step: int) -> None:
        """Begin with systems that are new; a batch is new as a whole the first time."""
        ids = batch["system_id"].view(-1) if "system_id" in batch else None
        sums = torch.zeros(batch.num_graphs, 7, dtype=torch.float64, device=batch.device)
        sums[:, 0], sums[:, 1] = step, energy
        if self._of is not None:
            if ids is None or self._ids is None:
                raise ArgumentError(
                    "the systems of the batch have changed and have no system_id, by which EnergyDrift tells them apart. Set it."
                )
            same = ids.unsqueeze(1) == self._ids
            sums = torch.where(same.any(dim=1, keepdim=True), self._sums[same.to(torch.uint8).argmax(dim=1)], sums)
        self._of, self._ids, self._sums = batch.atom_segments, None if ids is None else ids.clone(), sums
