"""FIRE takes the steps of ASE's, one by one, for every system of a batch whose systems have nothing in common."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixCartesian
from ase.optimize import fire as ase_fire
from relax_structures import lj_clusters, one_of_each, to_batch

from campaign.data import Batch
from campaign.dynamics import FIRE
from campaign.errors import ArgumentError
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel

N_STEPS = 50


def our_path(dynamics: Any, batch: Batch, n_steps: int = N_STEPS) -> list[np.ndarray[Any, Any]]:
    """Return positions after each step; the first step of ours evaluates only."""
    hook = dynamics.model.make_neighbor_hooks()[0]
    dynamics.register_hook(hook)
    path = []
    for _ in range(n_steps + 1):
        dynamics.step(batch)
        path.append(batch["positions"].numpy().copy())
    return path


def largest_difference(optimizer: Any, path: list[np.ndarray[Any, Any]], rows: slice) -> float:
    """Return how far ASE's path is from ours at most, in Å."""
    atoms = optimizer.atoms
    worst = float(np.abs(atoms.positions - path[0][rows]).max())
    for positions in path[1:]:
        optimizer.step()
        worst = max(worst, float(np.abs(atoms.positions - positions[rows]).max()))
    return worst


def systems_of(batch: Batch) -> list[slice]:
    ptr = batch.batch_ptr.tolist()
    return [slice(a, b) for a, b in pairwise(ptr)]


@pytest.mark.parametrize(
    "options", [{}, {"dt": 0.05, "dt_max": 0.3, "n_min": 2, "f_inc": 1.2, "f_dec": 0.6, "alpha_start": 0.2, "f_alpha": 0.95}]
)
def test_steps_of_ase_emt(options: dict[str, float]) -> None:
    structures = one_of_each()
    batch = to_batch(structures)
    path = our_path(FIRE(EMTModel(), **options), batch)
    names = {"dt": "dt", "dt_max": "dtmax", "n_min": "Nmin", "f_inc": "finc", "f_dec": "fdec", "alpha_start": "astart", "f_alpha": "fa"}
    theirs = {names[key]: value for key, value in options.items()}
    if "astart" in theirs:
        theirs["a"] = theirs["astart"]
    for atoms, rows in zip(structures, systems_of(batch), strict=True):
        atoms.calc = EMT()
        assert largest_difference(ase_fire.FIRE(atoms, logfile=None, **theirs), path, rows) < 1e-10


def test_steps_of_ase_lennard_jones() -> None:
    structures = lj_clusters([2, 7, 13, 20, 38, 55], rattle=0.15)
    batch = to_batch(structures)
    path = our_path(FIRE(LennardJonesModel(rc=100.0), maxstep=0.1), batch)
    for atoms, rows in zip(structures, systems_of(batch), strict=True):
        atoms.calc = LennardJones(rc=100.0)
        assert largest_difference(ase_fire.FIRE(atoms, logfile=None, maxstep=0.1), path, rows) < 1e-10


def test_steps_of_ase_with_downhill_check() -> None:
    structures = lj_clusters([5, 13, 24], rattle=0.2)
    batch = to_batch(structures)
    path = our_path(FIRE(LennardJonesModel(rc=100.0), dt=0.3, uphill=True), batch)
    n_taken_back = 0
    for atoms, rows in zip(structures, systems_of(batch), strict=True):
        atoms.calc = LennardJones(rc=100.0)
        taken_back: list[float] = []
        optimizer = ase_fire.FIRE(
            atoms,
            logfile=None,
            dt=0.3,
            dtmax=3.0,
            downhill_check=True,
            position_reset_callback=lambda *args, kept=taken_back: kept.append(args[2]),
        )
        assert largest_difference(optimizer, path, rows) < 1e-10
        n_taken_back += len(taken_back)
    assert n_taken_back > 0


def test_fixed_components_stay_and_forces_are_told() -> None:
    structures = one_of_each()
    structures[0].set_constraint(FixAtoms([0, 1]))
    structures[5].set_constraint(FixCartesian(2, (True, False, True)))
    batch = to_batch(structures)
    path = our_path(FIRE(EMTModel()), batch)
    for atoms, rows in zip(structures, systems_of(batch), strict=True):
        atoms.calc = EMT()
        assert largest_difference(ase_fire.FIRE(atoms, logfile=None), path, rows) < 1e-10
    moved = path[-1] - path[0]
    assert (moved[batch["fixed"].numpy()] == 0.0).all()
    assert (batch["forces"][batch["fixed"]] != 0.0).any(), "forces on fixed atoms are those of the model"


def test_single_precision() -> None:
    structures = lj_clusters([7, 13], rattle=0.05)
    batch = to_batch(structures)
    for key in ("positions", "velocities", "cell", "atomic_masses"):
        batch[key] = batch[key].to(torch.float32)
    dynamics = FIRE(LennardJonesModel(rc=100.0, dtype=torch.float32))
    our_path(dynamics, batch, 300)
    assert batch["positions"].dtype is torch.float32
    for atoms, rows in zip(structures, systems_of(batch), strict=True):
        atoms.calc = LennardJones(rc=100.0)
        ase_fire.FIRE(atoms, logfile=None).run(fmax=1e-4)
        energy = atoms.get_potential_energy()
        atoms.positions = batch["positions"][rows].numpy()
        assert abs(atoms.get_potential_energy() - energy) < 1e-4


def test_time_steps_per_system() -> None:
    structures = lj_clusters([6, 6])
    structures[1].positions = structures[0].positions
    batch = to_batch(structures)
    path = our_path(FIRE(LennardJonesModel(rc=100.0), dt=torch.tensor([0.1, 0.01], dtype=torch.float64)), batch, 1)
    first, second = np.abs(path[1] - path[0])[:6], np.abs(path[1] - path[0])[6:]
    assert np.allclose(first, 100 * second, rtol=1e-9, atol=0)


def test_a_lone_atom_rests() -> None:
    batch = to_batch([Atoms("Cu"), *one_of_each()])
    path = our_path(FIRE(EMTModel()), batch, 5)
    assert (path[-1][0] == 0.0).all()
    assert np.isfinite(path[-1]).all()


@pytest.mark.parametrize("options", [{"dt": 0.0}, {"dt_max": -1.0}, {"maxstep": float("nan")}, {"cell_length": 0.0}])
def test_arguments_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=f"{next(iter(options))} is .*above 0"):
        FIRE(EMTModel(), **options)  # type: ignore[arg-type]


def test_cell_mode_is_checked() -> None:
    with pytest.raises(ArgumentError, match=r"cell mode 'free'; modes are 'fixed', 'isotropic', 'full', 'fixed_volume'\. Choose"):
        FIRE(EMTModel(), cell_mode="free")
