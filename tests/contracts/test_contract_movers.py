"""Integrators and optimizers beside the reference's: same physics where the table names no difference.

Runs go through a `FusedStage`, which evaluates the batch before it starts in both packages. Our constants are ASE's, so that trajectories
agree to about 1e-8 and no better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms, optimize, units
from ase.calculators.calculator import Calculator
from specimens import FLOAT64, at_rest, lattice, trap
from two_packages import Package, differs, ours, outcome, same, same_error, theirs

UNITS = 1e-7
"""What the constants leave open."""


def moved(
    p: Package, name: str, *arguments: Any, n_steps: int = 5, prepare: Callable[[Any], None] = lambda made: None, **options: Any
) -> Any:
    """A batch of three systems after some steps."""
    made = at_rest(p, dtype=FLOAT64)
    made["system_id"] = torch.arange(3).unsqueeze(1)
    prepare(made)
    return p.FusedStage([(0, getattr(p, name)(trap(p), *arguments, **options))]).run(made, n_steps)


def path(name: str, *arguments: Any, **options: Any) -> Any:
    def script(p: Package) -> Any:
        made = moved(p, name, *arguments, **options)
        return made.positions, made.velocities

    return script


@pytest.mark.parametrize("n_steps", [1, 3, 10])
def test_nve(n_steps: int) -> None:
    assert any(same(path("NVE", 1.0, n_steps=n_steps), UNITS)[1]["numbers"])


def test_a_time_step_for_each_system() -> None:
    same(path("NVE", torch.tensor([1.0, 0.5, 0.25])), UNITS)
    same_error(path("NVE", torch.tensor([1.0, 0.5])), ValueError)


def test_langevin_without_noise() -> None:
    same(path("NVTLangevin", 1.0, 300.0, 0.0), UNITS)
    same(path("NVTLangevin", 1.0, 0.0, 0.1), UNITS)


def test_langevin_noise() -> None:
    def alone(p: Package, place: int) -> Any:
        made = at_rest(p, dtype=FLOAT64)
        made["system_id"] = torch.arange(3).unsqueeze(1)
        return p.FusedStage([(0, p.NVTLangevin(trap(p), 1.0, 300.0, 0.1))]).run(made.index_select([place]), 5).positions

    def is_its_own(p: Package) -> bool:
        together = moved(p, "NVTLangevin", 1.0, 300.0, 0.1)
        return bool(torch.equal(alone(p, 2), together.positions[4:]))

    differs("noise", is_its_own, False, True)
    for package in (theirs(), ours()):
        repeated = [outcome(package, path("NVTLangevin", 1.0, 300.0, 0.1, random_seed=seed)) for seed in (1, 1, 2)]
        assert repeated[0] == repeated[1] != repeated[2]


def test_values_that_cannot_be() -> None:
    """There the first two run, and the others end in NaN."""

    def goes(p: Package, *arguments: Any) -> bool:
        moved(p, *arguments)
        return True

    for arguments in (("NVE", 0.0), ("NVE", -1.0), ("NVTLangevin", 1.0, -1.0, 0.1), ("NVTLangevin", 1.0, 1.0, -0.1)):
        differs("nonsense", lambda p, arguments=arguments: goes(p, *arguments), True, ValueError)


def test_constants() -> None:
    def speed(p: Package) -> float:
        """A free atom of velocity 1: how far it gets in one femtosecond is the unit of time."""
        made = at_rest(p, dtype=FLOAT64)
        made.velocities.fill_(1.0)
        start = made.positions.clone()
        p.FusedStage([(0, p.NVE(trap(p, k=0.0), 1.0))]).run(made, 1)
        return float((made.positions - start).mean())

    differs("constants", speed, 1 / 10.180505710759414, units.fs, atol=1e-14)


@pytest.mark.parametrize(("name", "arguments"), [("NVE", (1.0,)), ("NVTLangevin", (1.0, 300.0, 0.1)), ("FIRE", (0.1,)), ("FIRE2", (0.05,))])
def test_first_step(name: str, arguments: tuple[Any, ...]) -> None:
    def moves(p: Package) -> bool:
        """Whether forces that the structures brought move anything."""
        made = at_rest(p, dtype=FLOAT64)
        made.forces.fill_(1.0)
        start = made.positions.clone()
        getattr(p, name)(trap(p), *arguments).step(made)
        return not torch.equal(made.positions, start)

    differs("first step", moves, True, False)


@pytest.mark.parametrize(("name", "arguments"), [("NVE", (1.0,)), ("NVTLangevin", (1.0, 300.0, 0.1)), ("FIRE", (0.1,)), ("FIRE2", (0.05,))])
def test_fixed_atoms(name: str, arguments: tuple[Any, ...]) -> None:
    def moves(p: Package) -> list[bool]:
        def fix(made: Any) -> None:
            made.add_key("fixed", [(torch.arange(n) % 2 == 0).unsqueeze(1).repeat(1, 3) for n in (3, 1, 4)])

        start = at_rest(p, dtype=FLOAT64).positions
        changed = (moved(p, name, *arguments, prepare=fix).positions != start).any(dim=1)
        return changed.tolist()

    differs("fixed", moves, [True] * 8, [False, True, False, False, False, True, False, True])


# Optimizers


@pytest.mark.parametrize(("name", "dt"), [("FIRE", 0.1), ("FIRE2", 0.05)])
def test_optimizers_reach_the_minimum(name: str, dt: float) -> None:
    def script(p: Package) -> bool:
        optimizer = getattr(p, name)(trap(p), dt, n_steps=500, convergence_hook=p.ConvergenceHook.from_fmax(1e-2))
        made = optimizer.run(at_rest(p, dtype=FLOAT64))
        return bool(made.forces.norm(dim=1).max() <= 1e-2) and optimizer.step_count < 200

    assert same(script) is True


def test_parameters_of_fire() -> None:
    names = "maxstep n_min f_dec f_inc alpha_start f_alpha"
    for name in ("FIRE", "FIREVariableCell"):
        wanted = {"maxstep": 0.2, "n_min": 5, "f_dec": 0.5, "f_inc": 1.1, "alpha_start": 0.1, "f_alpha": 0.99}
        assert same(lambda p, name=name: {key: getattr(getattr(p, name)(trap(p), 0.1), key) for key in names.split()}) == wanted


class Spring(Calculator):
    """The model of `trap` for ASE."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, *arguments: Any) -> None:
        super().calculate(*arguments)
        x = self.atoms.positions
        self.results = {"energy": 0.5 * float((x * x).sum()), "forces": -x}


FIRE2_OF_ASE = {
    "delaystep": 20,
    "dtgrow": 1.1,
    "dtshrink": 0.5,
    "alphashrink": 0.99,
    "alpha0": 0.25,
    "tmax": 1.0,
    "tmin": 2e-3,
    "maxstep": 0.2,
}


@pytest.mark.parametrize(("name", "n_steps"), [("FIRE", 40), ("FIRE2", 20)])
def test_steps_of_optimizers(name: str, n_steps: int) -> None:
    """Until 20 steps no system here has gone uphill, where FIRE2 takes ASE's half step back as a step of its own."""

    def follows_ase(p: Package, **options: Any) -> bool:
        made = at_rest(p, sizes=(3,), dtype=FLOAT64)
        atoms = Atoms("H3", made.positions.numpy().copy(), calculator=Spring())
        getattr(optimize, name)(atoms, logfile=None, dt=0.1).run(fmax=0.0, steps=n_steps)
        optimizer = getattr(p, name)(trap(p), 0.1, **options)
        after = p.FusedStage([(0, optimizer)]).run(made, n_steps)
        return bool((after.positions - torch.from_numpy(atoms.positions)).abs().max() < 1e-10)

    if name == "FIRE":
        differs("FIRE", follows_ase, False, True)
    else:
        differs("FIRE2", follows_ase, False, True)
        differs("FIRE2", lambda p: follows_ase(p, **FIRE2_OF_ASE), False, True)


def test_first_steps_of_fire2() -> None:
    assert any(same(lambda p: moved(p, "FIRE2", 0.05, n_steps=5).positions, 1e-9)["numbers"])


def test_masses_in_fire() -> None:
    def first(p: Package) -> list[float]:
        """The first step from rest over F·dt²."""
        start = at_rest(p, dtype=FLOAT64).positions
        return ((moved(p, "FIRE", 0.1, n_steps=1).positions - start) / -start / 0.1**2)[3].tolist()

    mass = float(at_rest(ours(), dtype=FLOAT64).atomic_masses[3])
    differs("FIRE", first, [1 / mass] * 3, [1.0] * 3, atol=1e-9)


def test_the_cell_relaxes() -> None:
    def script(p: Package) -> bool:
        """Whether the cell has changed under a stress that the model never gives up."""
        made = at_rest(p, dtype=FLOAT64, stress=torch.zeros(1, 3, 3, dtype=FLOAT64), **lattice(dtype=FLOAT64))
        made["pbc"] = torch.ones(3, 3, dtype=torch.bool)
        start = made.cell.clone()
        model = trap(p, outputs=("energy", "forces", "stress"), stress=0.01)
        p.FIREVariableCell(model, 0.05, n_steps=20).run(made)
        return not torch.equal(made.cell, start)

    differs("variable cell", script, False, True)
    same_error(lambda p: p.FIREVariableCell(trap(p), 0.05, n_steps=1).run(at_rest(p, **lattice())), RuntimeError)
