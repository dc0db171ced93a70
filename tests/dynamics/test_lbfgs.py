"""L-BFGS takes the steps of ASE's as long as curvature along them is positive, and gets to the minimum where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.optimize import lbfgs as ase_lbfgs
from relax_structures import lj_clusters, one_of_each, relax, to_batch
from test_fire import our_path, systems_of

from campaign.dynamics import LBFGS
from campaign.errors import ArgumentError
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome


@pytest.mark.parametrize("memory", [2, 20])
def test_steps_of_ase(memory: int) -> None:
    structures = one_of_each()
    batch = to_batch(structures)
    path = our_path(LBFGS(EMTModel(), memory=memory), batch, 15)
    n_compared = 0
    for atoms, rows in zip(structures, systems_of(batch), strict=True):
        atoms.calc = EMT()
        optimizer = ase_lbfgs.LBFGS(atoms, logfile=None, memory=memory)
        for ours in path:
            assert np.abs(atoms.positions - ours[rows]).max() < 1e-8
            # At the minimum ASE divides by y·s = 0.
            if np.linalg.norm(atoms.get_forces(), axis=1).max() < 1e-5:
                break
            optimizer.step()
            n_compared += 1
    assert n_compared > 70


def test_gets_from_rough_starts_to_a_minimum() -> None:
    batch = to_batch(lj_clusters([7, 13, 19, 30], rattle=0.3, seed=3))
    relaxed = relax(LennardJonesModel(rc=100.0), batch, optimizer="lbfgs", fmax=1e-4, max_steps=2000)
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}


def test_relaxes_cells_to_where_fire_does() -> None:
    settings = {"cell": "full", "fmax": 1e-4, "smax_ev_per_ang3": 1e-5, "max_steps": 2000}
    batch = to_batch(one_of_each())
    ours = relax(EMTModel(), batch, optimizer="lbfgs", **settings)  # type: ignore[arg-type]
    fire = relax(EMTModel(), batch, optimizer="fire", **settings)  # type: ignore[arg-type]
    assert set(ours.outcomes) == {Outcome.CONVERGED}
    difference = (ours.batch["energy"] - fire.batch["energy"]).abs().view(-1).numpy()
    assert np.all(difference < 1e-4), difference
    assert ours.batch["n_steps"].sum() < fire.batch["n_steps"].sum()


def test_arguments_are_checked() -> None:
    with pytest.raises(ArgumentError, match="memory is 0; at least 1"):
        LBFGS(EMTModel(), memory=0)
