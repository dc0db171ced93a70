"""FIRE 2.0 takes the steps of ASE's. Where ASE goes back half a step and evaluates again, ours has one step more.

Starts are such that ASE never goes back further than `maxstep`, which ours does not; `test_rough_starts.py` has the others.
"""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.optimize import fire2 as ase_fire2
from relax_structures import lj_clusters, one_of_each, relax, to_batch
from test_fire import our_path, systems_of

from campaign.dynamics import FIRE2, FIRE2VariableCell
from campaign.errors import ArgumentError
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome


class Evaluations:
    """Remembers where ASE evaluated forces: those are the positions that ours must pass through."""

    def __init__(self, optimizer: ase_fire2.FIRE2, n: int) -> None:
        self.positions = [optimizer.atoms.positions.copy()]
        self.n_back = 0
        while len(self.positions) < n:
            n_steps, velocity = optimizer.Nsteps, optimizer.v
            before = optimizer.atoms.positions.copy()
            optimizer.step()
            if velocity is not None and optimizer.Nsteps == 0 and n_steps >= 0:
                # The half step back, by hand: what ASE does within its step.
                self.n_back += 1
                self.positions.append(before - 0.5 * optimizer.dt * self.velocity)
            self.velocity = optimizer.v.reshape(-1, 3).copy()
            self.positions.append(optimizer.atoms.positions.copy())


@pytest.mark.parametrize("potential", ["emt", "lj"])
def test_steps_of_ase(potential: str) -> None:
    structures = one_of_each() if potential == "emt" else lj_clusters([2, 7, 13, 38], rattle=0.03)
    model = EMTModel() if potential == "emt" else LennardJonesModel(rc=100.0)
    dt = 0.2 if potential == "emt" else 0.05
    batch = to_batch(structures)
    path = our_path(FIRE2(model, dt=dt, delaystep=3), batch, 60)
    n_back = 0
    for atoms, rows in zip(structures, systems_of(batch), strict=True):
        atoms.calc = EMT() if potential == "emt" else LennardJones(rc=100.0)
        theirs = Evaluations(ase_fire2.FIRE2(atoms, logfile=None, dt=dt, Nmin=3), 61)
        n_back += theirs.n_back
        for ours, expected in zip(path, theirs.positions, strict=False):
            assert np.abs(ours[rows] - expected).max() < 1e-10
    assert n_back > 0, "no system ever went uphill, so half of the algorithm was not tried"


def test_relaxes_atoms_and_cells() -> None:
    relaxed = relax(EMTModel(), to_batch(one_of_each()), optimizer="fire2", cell="full", fmax=1e-3, smax_ev_per_ang3=1e-4, max_steps=600)
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}


def test_variable_cell_class() -> None:
    dynamics = FIRE2VariableCell(EMTModel(), cell_mode="isotropic")
    assert dynamics.__needs_keys__ == {"forces", "stress"}
    with pytest.raises(ArgumentError, match="tmin is 0"):
        FIRE2VariableCell(EMTModel(), tmin=0.0)
