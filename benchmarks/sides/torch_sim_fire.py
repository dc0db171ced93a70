"""torch-sim: its `optimize` with FIRE as ASE has it, its Lennard-Jones model and its in-flight batcher, a process on each core.

Works with 0.3 and 0.6. All structures of a process are in flight together; those that have converged leave every five steps, its default.
Two processes did more than one with two threads, which was slower than one with one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
import torch_sim
from torch_sim import optimizers
from torch_sim.autobatching import InFlightAutoBatcher
from torch_sim.models.lennard_jones import LennardJonesModel

from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, in_blocks
from sides.serving import serve

IS_NEW: Final = hasattr(optimizers, "OPTIM_REGISTRY")
"""Whether this is 0.6 rather than 0.3."""
STEPS_BETWEEN_SWAPS: Final = 5


def prepare(settings: Settings) -> RelaxFunction:
    """Return a relaxation of structures with torch-sim."""
    torch.set_num_threads(1)
    potential = settings.options
    # 0.3 lists each pair twice and gives its force to both atoms each time: twice the force, so that half of epsilon is right.
    times = 1.0 if IS_NEW else 2.0
    model = LennardJonesModel(
        sigma=potential["sigma"], epsilon=potential["epsilon"] / times, cutoff=potential["rc"], dtype=torch.float64, compute_forces=True
    )
    converged = torch_sim.generate_force_convergence_fn(settings.fmax_ev_per_ang, include_cell_forces=False)

    def relax(structures: Structures) -> Relaxed:
        counter = _StepCounter(len(structures))
        room = float(structures.n_atoms.sum() + 1)
        batcher = InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=room)

        def converged_and_counted(state: Any, last_energy: Any) -> torch.Tensor:
            counter.book(batcher.current_idx)
            return converged(state, last_energy)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that structures were not converged: the answer says so
            final = torch_sim.optimize(
                _state(structures),
                model,
                optimizer=_fire(counter),
                convergence_fn=converged_and_counted,
                autobatcher=batcher,
                max_steps=settings.max_steps,
                steps_between_swaps=STEPS_BETWEEN_SWAPS,
            )
        return Relaxed(
            index=np.arange(len(structures)),
            positions=final.positions.numpy(),
            energy=times * final.energy.numpy(),
            forces=final.forces.numpy(),
            n_steps=counter.n_steps,
            converged=converged(final, None).numpy(),
            is_shifted=False,
        )

    return in_blocks(relax)


class _StepCounter:
    """Counts the steps of each structure, which torch-sim keeps to itself."""

    def __init__(self, n_systems: int) -> None:
        self.n_steps = np.zeros(n_systems, np.int64)
        self._not_booked = 0

    def counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return a step function that counts."""

        def step_and_count(*arguments: Any, **options: Any) -> Any:
            self._not_booked += 1
            return step(*arguments, **options)

        return step_and_count

    def book(self, in_flight: list[int]) -> None:
        """Give the steps since the last call to those that are in flight."""
        self.n_steps[in_flight] += self._not_booked
        self._not_booked = 0


def _state(structures: Structures) -> torch_sim.SimState:
    positions = torch.from_numpy(structures.positions)
    return torch_sim.SimState(
        positions=positions,
        masses=torch.ones(len(positions), dtype=torch.float64),
        cell=torch.from_numpy(structures.cell).transpose(1, 2).contiguous(),  # theirs has the vectors in columns
        pbc=bool(structures.pbc.any()),
        atomic_numbers=torch.from_numpy(structures.numbers),
        system_idx=torch.repeat_interleave(torch.from_numpy(structures.n_atoms)),
    )


def _fire(counter: _StepCounter) -> Any:
    """Return FIRE in the form that `optimize` of this version takes."""
    if IS_NEW:
        init, step = optimizers.OPTIM_REGISTRY[optimizers.Optimizer.fire]
        return init, counter.counted(step)

    def fire(model: Any, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        init, step = optimizers.fire(model, **options)
        return init, counter.counted(step)

    return fire


if __name__ == "__main__":
    serve(prepare)
