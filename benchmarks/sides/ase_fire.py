"""Plain ASE: one structure after another, FIRE with ASE's defaults, in one process with one thread."""

from __future__ import annotations

import numpy as np
from ase.optimize import FIRE

from sides.ase_calculators import atoms_of, calculator
from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, serve


def prepare(settings: Settings) -> RelaxFunction:
    """Return a relaxation of structures with ASE."""

    def relax(structures: Structures) -> Relaxed:
        positions, energy, forces, n_steps, converged = [], [], [], [], []
        for atoms in atoms_of(structures):
            atoms.calc = calculator(settings.potential, settings.options)
            optimizer = FIRE(atoms, logfile=None)
            converged.append(bool(optimizer.run(fmax=settings.fmax_ev_per_ang, steps=settings.max_steps)))
            n_steps.append(optimizer.nsteps)
            positions.append(atoms.get_positions())
            energy.append(atoms.get_potential_energy())
            forces.append(atoms.get_forces())
        return Relaxed(np.concatenate(positions), np.array(energy), np.concatenate(forces), np.array(n_steps), np.array(converged))

    return relax


if __name__ == "__main__":
    serve(prepare)
