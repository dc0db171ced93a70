"""A structure whose input has a FixSymmetry keeps its space group, whatever cell and optimizer; its batch mates go where they go."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixSymmetry
from relax_structures import Relaxed, assert_same_bits, one_of_each, relax, to_batch

from campaign.data import AtomicData
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.sampler import BatchSampler
from campaign.dynamics.symmetry import FORCES, ROOT
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.models.emt import EMTModel
from campaign.outcomes import Outcome

# spglib and ASE's use of it tell of what spglib will do in its next version.
pytestmark = pytest.mark.filterwarnings("ignore:.*OLD_ERROR_HANDLING.*:DeprecationWarning")

SYMPREC_ANG = 0.01
TIGHT: dict[str, Any] = {"fmax": 1e-4, "smax_ev_per_ang3": 1e-6, "max_steps": 2000}


def pulled() -> Atoms:
    """fcc with its layers pulled apart, 139."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.0, 1.4]), scale_atoms=True)
    return atoms


def simple_cubic() -> Atoms:
    """221, in a supercell."""
    return bulk("Cu", "sc", a=2.4) * (2, 2, 2)


def diamond() -> Atoms:
    """227."""
    return bulk("Cu", "diamond", a=5.0, cubic=True)


def rocksalt() -> Atoms:
    """225."""
    return bulk("CuAu", "rocksalt", a=5.0, cubic=True)


def zincblende() -> Atoms:
    """216."""
    return bulk("CuAu", "zincblende", a=5.2, cubic=True)


SADDLES: dict[str, tuple[Callable[[], Atoms], int]] = {
    "sc": (simple_cubic, 221),
    "diamond": (diamond, 227),
    "rocksalt": (rocksalt, 225),
    "zincblende": (zincblende, 216),
}
"""Structures that noise takes out of their group, in each way that a cell can relax."""


def noisy(atoms: Atoms) -> Atoms:
    atoms.rattle(1e-4, seed=1)
    noise = np.random.default_rng(2).normal(scale=1e-5, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + noise + noise.T), scale_atoms=True)
    return atoms


def kept(atoms: Atoms, symprec: float = SYMPREC_ANG) -> Atoms:
    """Return the structure with its symmetry to be kept, which ASE refines."""
    atoms.set_constraint(FixSymmetry(atoms, symprec=symprec))
    return atoms


def group(atoms: Atoms, symprec: float = SYMPREC_ANG) -> int:
    return int(spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec).number)


def final(relaxed: Relaxed, row: int) -> Atoms:
    system = relaxed.system(row)
    return Atoms(system["atomic_numbers"].view(-1).numpy(), system["positions"].numpy(), cell=system["cell"].view(3, 3).numpy(), pbc=True)


@pytest.mark.parametrize("cell", ["fixed", "isotropic", "full", "fixed_volume"])
@pytest.mark.parametrize("optimizer", ["fire", "fire2", "lbfgs"])
def test_those_that_ask_keep_their_group_and_the_others_lose_it(optimizer: str, cell: str) -> None:
    structures = [change(noisy(make())) for make, _ in SADDLES.values() for change in (kept, lambda atoms: atoms)]
    relaxed = relax(EMTModel(), to_batch(structures), optimizer=optimizer, cell=cell, **TIGHT)
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}, relaxed.errors
    for at, (name, (_, number)) in enumerate(SADDLES.items()):
        held, free = final(relaxed, 2 * at), final(relaxed, 2 * at + 1)
        print(f"{name}: {number} before; {group(held)} where it is kept, {group(free)} where not")
        assert group(structures[2 * at]) == group(structures[2 * at + 1]) == number
        assert group(held) == number != group(free)
        assert float(relaxed.batch["energy"][2 * at]) > float(relaxed.batch["energy"][2 * at + 1]) + 0.01


def crowd() -> list[Atoms]:
    """Structures that keep their group, by different tolerances, among others that share nothing with them."""
    strangers = one_of_each()
    return [strangers[0], kept(pulled()), *strangers[1:4], kept(noisy(diamond()), 0.02), kept(simple_cubic()), *strangers[4:]]


class Listener:
    """Where it listens, steps are done one by one."""

    frequency, stage = 1, DynamicsStage.AFTER_STEP

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        pass


@pytest.mark.parametrize("optimizer", ["fire", "fire2", "lbfgs"])
def test_bits_depend_neither_on_batch_mates_nor_on_bursts(optimizer: str) -> None:
    structures = crowd()
    how: dict[str, Any] = {"cell": "full", "fmax": 1e-3, "smax_ev_per_ang3": 1e-4, "optimizer": optimizer, "max_steps": 150}
    together = relax(EMTModel(), to_batch(structures), **how)
    stepwise = relax(EMTModel(), to_batch(structures), hooks=[Listener()], **how)
    few = relax(EMTModel(), to_batch(structures), limits={"max_systems": 2}, refill_every=3, **how)
    assert together.statistics.seconds["optimizer"] == 0.0 < stepwise.statistics.seconds["optimizer"]
    for row in range(len(structures)):
        alone = relax(EMTModel(), to_batch(structures[row : row + 1], first_id=row), **how)
        for other in (stepwise, few, alone):
            assert_same_bits(together.system(row), other.system(row))


def test_nothing_is_averaged_where_nobody_asks() -> None:
    """The keys are there while somebody in the batch needs them."""
    seen: list[tuple[bool, bool]] = []

    class Watch(Listener):
        def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
            assert ctx.batch is not None
            needed = bool((ctx.batch["symprec"] > 0).any())
            assert (ROOT in ctx.batch) == (FORCES in ctx.batch) == needed
            seen.append((needed, ctx.batch.num_graphs > 1))

    structures = [*one_of_each(), kept(pulled()), *one_of_each(1)]
    relax(EMTModel(), to_batch(structures), hooks=[Watch()], limits={"max_systems": 3}, refill_every=2)
    assert {(False, True), (True, True)} <= set(seen)


def test_the_tolerance_is_that_of_the_constraint() -> None:
    """A structure that is off by more than the default keeps the group that it has by its own tolerance, and goes on being off."""
    off = diamond()
    off.rattle(1e-3, seed=4)
    assert (group(off), group(off, 1e-5)) == (227, 1)
    own, default = to_batch([off]), to_batch([off])
    own["symprec"].fill_(SYMPREC_ANG)
    by_own = relax(EMTModel(), own, **TIGHT)
    by_default = relax(EMTModel(), default, fix_symmetry=True, **TIGHT)
    assert by_own.outcomes == by_default.outcomes == [Outcome.CONVERGED]
    assert group(final(by_own, 0)) == 227 != group(final(by_default, 0))
    assert float(by_own.batch["symprec"]) == SYMPREC_ANG, "what came in comes out"


def test_a_mask_of_strains_fails_those_that_need_them_all() -> None:
    structures = [*one_of_each()[:2], kept(pulled())]
    how: dict[str, Any] = {"cell": "full", "strain_mask": (True, True, False, True, True, True)}
    relaxed = relax(EMTModel(), to_batch(structures), **how)
    assert relaxed.outcomes == [Outcome.CONVERGED, Outcome.CONVERGED, Outcome.FAILED]
    assert relaxed.errors[2] == "its FixSymmetry and strain_mask exclude each other: a cell may have to strain what is masked"
    without = relax(EMTModel(), to_batch(structures[:2]), **how)
    for row in range(2):
        assert_same_bits(without.system(row), relaxed.system(row))


def test_atoms_take_it_in_and_give_it_back() -> None:
    atoms = kept(pulled(), 0.02)
    again = AtomicData.from_atoms(atoms, dtype=torch.float64).to_atoms()
    (constraint,) = again.constraints
    assert isinstance(constraint, FixSymmetry)
    assert constraint.symprec == 0.02 and len(constraint.rotations) == len(atoms.constraints[0].rotations) == 64
    assert (again.positions == atoms.positions).all() and (again.cell.array == atoms.cell.array).all()
    assert not AtomicData.from_atoms(pulled()).to_atoms().constraints


def test_a_stopped_run_goes_on_with_the_same_bits() -> None:
    structures = crowd()
    how = RelaxSettings(fmax_ev_per_ang=1e-3, smax_ev_per_ang3=1e-4, max_steps=150, cell="full", refill_every=2)
    whole = relax(EMTModel(), to_batch(structures), cell="full", fmax=1e-3, smax_ev_per_ang3=1e-4, max_steps=150)
    sink = HostMemory(100)
    relaxation = Relaxation(EMTModel(), how, BatchSampler(to_batch(structures)), [sink], max_systems=3)
    n_stops = 0
    while relaxation.batch is not None or n_stops == 0:
        asked = iter([False, False, True])
        relaxation.run(lambda: next(asked))  # noqa: B023
        n_stops += 1
    assert n_stops > 5
    found = sink.read()
    for row, system_id in enumerate(found["system_id"].view(-1).tolist()):
        assert_same_bits(whole.system(system_id), dict(iter(found.index_select([row]))))
