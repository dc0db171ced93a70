"""Plain ASE: one structure after another, FIRE with ASE's defaults, a process on each core."""

from __future__ import annotations

import numpy as np
from ase.optimize import FIRE

from sides.ase_calculators import atoms_of, calculator
from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, in_blocks
from sides.serving import serve


def prepare(settings: Settings) -> RelaxFunction:
    """Return a relaxation of structures with ASE."""

    def relax(structures: Structures) -> Relaxed:
        (atoms,) = atoms_of(structures)
        atoms.calc = calculator(settings.potential, settings.options)
        optimizer = FIRE(atoms, logfile=None)
        converged = bool(optimizer.run(fmax=settings.fmax_ev_per_ang, steps=settings.max_steps))
        return Relaxed(
            index=np.array([0]),
            positions=atoms.get_positions(),
            energy=np.array([atoms.get_potential_energy()]),
            forces=atoms.get_forces(),
            n_steps=np.array([optimizer.nsteps]),
            converged=np.array([converged]),
        )

    return in_blocks(relax, size=1)


if __name__ == "__main__":
    serve(prepare)
