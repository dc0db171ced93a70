"""Masked strain components and pressure: the minima of ASE's filters for crystals, slabs and wires, and the bits of each system alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from relax_structures import assert_same_bits, one_of_each, relax, to_batch
from test_cell import _measure

from campaign.data.warp_interop import launch
from campaign.dynamics import FIRE
from campaign.dynamics.exits import ExitSettings
from campaign.dynamics.optimizers.strain import CellMode, cell_code
from campaign.errors import ArgumentError
from campaign.hooks import DynamicsStage
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome
from campaign.units import GPA_PER_EV_PER_ANG3

TIGHT: dict[str, Any] = {"fmax": 1e-4, "smax_ev_per_ang3": 1e-6, "max_steps": 3000}

MASKS = {
    "in plane": (1, 1, 0, 0, 0, 1),
    "along z": (0, 0, 1, 0, 0, 0),
    "no shear": (1, 1, 1, 0, 0, 0),
    "all": (1, 1, 1, 1, 1, 1),
}


def flags(mask: tuple[int, ...]) -> tuple[bool, ...]:
    return tuple(map(bool, mask))


def crystal() -> Atoms:
    """Return an ordered alloy, rattled, in an orthorhombic cell far from its minimum."""
    atoms = bulk("Cu", a=3.8, cubic=True)
    atoms.symbols = "AuCuAuCu"
    atoms.set_cell(np.diag([3.9, 3.7, 4.1]), scale_atoms=True)
    atoms.rattle(0.05, seed=3)
    return atoms


def by_ase(atoms: Atoms, mask: tuple[int, ...], pressure: float) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms, mask=mask, scalar_pressure=pressure), logfile=None).run(fmax=1e-5, steps=1000)
    return atoms


@cache
def crystal_by_ase(name: str, pressure: float) -> Atoms:
    return by_ase(crystal(), MASKS[name], pressure)


@pytest.mark.parametrize(("optimizer", "pressure_gpa"), [("fire", 0.0), ("fire", 5.0), ("fire2", 5.0), ("lbfgs", 5.0)])
@pytest.mark.parametrize("name", MASKS)
def test_minima_are_those_of_ase(name: str, pressure_gpa: float, optimizer: str) -> None:
    mask, atoms, pressure = MASKS[name], crystal(), pressure_gpa / GPA_PER_EV_PER_ANG3
    how = {"cell": "full", "strain_mask": flags(mask), "pressure_gpa": pressure_gpa, "optimizer": optimizer, **TIGHT}
    relaxed = relax(EMTModel(), to_batch([atoms]), **how)
    theirs = crystal_by_ase(name, pressure)
    assert relaxed.outcomes == [Outcome.CONVERGED], relaxed.errors
    cell, volume = relaxed.batch["cell"][0].numpy(), abs(np.linalg.det(relaxed.batch["cell"][0].numpy()))
    ours_h, theirs_h = float(relaxed.batch["energy"]) + pressure * volume, theirs.get_potential_energy() + pressure * theirs.get_volume()
    print(f"{name}, {pressure_gpa} GPa: ours {np.linalg.norm(cell, axis=1)} {ours_h:.8f}, ASE {theirs.cell.lengths()} {theirs_h:.8f}")
    assert np.abs(np.linalg.norm(cell, axis=1) - theirs.cell.lengths()).max() < 1e-4
    assert ours_h == pytest.approx(theirs_h, abs=1e-6)
    check = Atoms(atoms.numbers, relaxed.batch["positions"].numpy(), cell=cell, pbc=True, calculator=EMT())
    assert np.abs((check.get_stress() + pressure * np.array([1, 1, 1, 0, 0, 0])) * mask).max() <= 1e-6
    if name in ("in plane", "along z"):
        assert np.abs(check.get_stress() + pressure * np.array([1, 1, 1, 0, 0, 0])).max() > 1e-3, "what is masked stays strained"
    before = atoms.cell.array
    for direction, is_free in enumerate(mask[:3]):
        assert (cell[direction, direction] == before[direction, direction]) == (not is_free)
    assert (cell[~np.eye(3, dtype=bool)] == 0.0).all() == (name in ("along z", "no shear"))


def test_a_slab_feels_the_pressure_in_its_plane_only_and_a_wire_along_its_axis() -> None:
    slab = fcc111("Cu", (1, 1, 3), a=3.5, vacuum=6.0)
    slab.rattle(0.03, seed=2)
    wire = bulk("Ni", cubic=True)
    wire.set_cell(np.diag([20.0, 20.0, wire.cell[2, 2]]))
    wire.pbc = (False, False, True)
    pressure = 0.4 / GPA_PER_EV_PER_ANG3
    relaxed = relax(EMTModel(), to_batch([slab, wire]), cell="full", pressure_gpa=0.4, **TIGHT)
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}
    for row, (atoms, mask) in enumerate([(slab, (1, 1, 0, 0, 0, 1)), (wire, (0, 0, 1, 0, 0, 0))]):
        theirs, cell = by_ase(atoms, mask, pressure), relaxed.batch["cell"][row].numpy()
        print("ours", np.linalg.norm(cell, axis=1), "ASE", theirs.cell.lengths())
        assert np.abs(np.linalg.norm(cell, axis=1) - theirs.cell.lengths()).max() < 1e-4
        enthalpy = float(relaxed.batch["energy"][row]) + pressure * abs(np.linalg.det(cell))
        assert enthalpy == pytest.approx(theirs.get_potential_energy() + pressure * theirs.get_volume(), abs=1e-6)
    assert (relaxed.batch["cell"][0, 2].numpy() == slab.cell.array[2]).all()


def test_a_mask_and_a_slab_leave_what_both_allow() -> None:
    slab = fcc111("Cu", (1, 1, 3), a=3.5, vacuum=6.0)
    slab.rattle(0.03, seed=2)
    relaxed = relax(EMTModel(), to_batch([slab]), cell="full", strain_mask=flags((0, 1, 1, 1, 1, 0)), **TIGHT)
    theirs = by_ase(slab, (0, 1, 0, 0, 0, 0), 0.0)
    cell = relaxed.batch["cell"][0].numpy()
    assert relaxed.outcomes == [Outcome.CONVERGED]
    assert (cell[:, 0] == slab.cell.array[:, 0]).all() and (cell[:, 2] == slab.cell.array[:, 2]).all()
    assert np.abs(cell - theirs.cell.array).max() < 1e-4
    assert float(relaxed.batch["energy"]) == pytest.approx(theirs.get_potential_energy(), abs=1e-6)


@pytest.mark.parametrize("pressure_gpa", [2.0, -2.0])
def test_isotropic_and_fixed_volume_under_pressure(pressure_gpa: float) -> None:
    atoms = bulk("Cu", cubic=True)
    batch = to_batch([atoms])
    grown = relax(EMTModel(), batch, cell="isotropic", pressure_gpa=pressure_gpa, **TIGHT).batch
    mean = float(grown["stress"][0].trace()) / 3 * GPA_PER_EV_PER_ANG3
    print(f"mean stress {mean:.6f} GPa under {pressure_gpa} GPa")
    assert mean == pytest.approx(-pressure_gpa, abs=1e-3)
    kept = relax(EMTModel(), batch, cell="fixed_volume", pressure_gpa=pressure_gpa, **TIGHT).batch
    alone = relax(EMTModel(), batch, cell="fixed_volume", **TIGHT).batch
    assert torch.equal(kept["cell"], alone["cell"]), "a volume that cannot change feels no pressure"


@pytest.mark.parametrize("mask", [(1, 1, 0, 1, 1, 1), (0, 0, 0, 0, 0, 1), (0, 0, 0, 1, 1, 1), (1, 1, 1, 0, 1, 0)])
def test_fixed_volume_within_a_mask(mask: tuple[int, ...]) -> None:
    relaxed = relax(EMTModel(), to_batch([crystal()]), cell="fixed_volume", strain_mask=flags(mask), **TIGHT)
    assert relaxed.outcomes == [Outcome.CONVERGED]
    assert abs(float(relaxed.batch["volume_ratio"]) - 1.0) < 1e-12


def test_uphill_steps_are_told_by_the_enthalpy() -> None:
    """Under tension the energy rises on the way down; FIRE that goes back uphill must not take that for a wrong turn."""
    batch, pressure = to_batch([bulk("Cu", a=3.55, cubic=True)]), -6.0 / GPA_PER_EV_PER_ANG3
    dynamics = FIRE(EMTModel(), cell_mode="isotropic", pressure_ev_per_ang3=pressure, uphill=True, hooks=EMTModel().make_neighbor_hooks())
    for _ in range(300):
        dynamics.step(batch)
    mean = float(batch["stress"][0].trace()) / 3
    assert mean == pytest.approx(-pressure, abs=1e-5)


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
def test_bits_depend_neither_on_batch_mates_nor_on_bursts(optimizer: str) -> None:
    class Listener:
        frequency = 1
        stage = DynamicsStage.AFTER_STEP

        def __call__(self, ctx: object, stage: object) -> None:
            pass

    structures = [crystal(), *one_of_each()]
    how: dict[str, Any] = {"cell": "full", "strain_mask": flags((1, 1, 1, 0, 1, 0)), "pressure_gpa": 1.0, "optimizer": optimizer}
    how |= {"fmax": 1e-3, "max_steps": 150}
    together = relax(EMTModel(), to_batch(structures), **how)
    stepwise = relax(EMTModel(), to_batch(structures), hooks=[Listener()], **how)
    few = relax(EMTModel(), to_batch(structures), limits={"max_systems": 3}, refill_every=5, **how)
    for row in range(len(structures)):
        alone = relax(EMTModel(), to_batch(structures[row : row + 1], first_id=row), **how)
        for other in (stepwise, few, alone):
            assert_same_bits(together.system(row), other.system(row))


@pytest.mark.parametrize("seed", range(12))
def test_what_is_left_is_the_projection_on_what_is_allowed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pbc = np.array([[True, True, True], [True, False, True], [False, True, False]][seed % 3])
    cell, m, mask = rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), tuple(bool(x) for x in rng.random(6) < 0.6)
    if seed >= 6:  # along the axes, where the plane allows more than nothing
        cell = np.diag(rng.uniform(1, 2, 3))
    basis = np.linalg.qr(cell[pbc].T)[0]
    p = basis @ basis.T
    units = [np.zeros((3, 3)) for _ in range(6)]
    for unit, (r, c) in zip(units, [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)], strict=True):
        unit[r, c] = unit[c, r] = 1.0 if r == c else 0.5**0.5
    # Strains that are both periodic and unmasked: the null space of what is forbidden.
    periodic = np.array([(p @ unit @ p).ravel() for unit in units])
    forbidden = [np.eye(9) - np.linalg.pinv(periodic) @ periodic, *(u.ravel()[None] for u, ok in zip(units, mask, strict=True) if not ok)]
    _, singular, rows = np.linalg.svd(np.vstack(forbidden))
    allowed = rows[singular < 1e-9]
    expected = (allowed.T @ allowed @ m.ravel()).reshape(3, 3)
    tensors = [torch.from_numpy(x[None].copy()) for x in (cell, pbc, m, np.empty((3, 3)), np.empty((3, 3)))]
    for mode in CellMode:
        launch(_measure, 1, [*tensors[:3], cell_code(mode, mask), *tensors[3:]], torch.device("cpu"))
        swelling = (allowed.T @ allowed @ p.ravel()).reshape(3, 3)
        square = (swelling**2).sum()
        mean = swelling * (swelling * expected).sum() / square if square > 1e-9 else 0 * swelling
        wanted = {CellMode.FIXED: 0 * m, CellMode.ISOTROPIC: mean, CellMode.FULL: expected, CellMode.FIXED_VOLUME: expected - mean}
        assert np.abs(tensors[4][0].numpy() - wanted[mode]).max() < 1e-6, mode


def test_settings_are_checked() -> None:
    with pytest.raises(ArgumentError, match="strain_mask has 3 entries; it has six"):
        FIRE(LennardJonesModel(), cell_mode="full", strain_mask=(True, True, False))
    with pytest.raises(ArgumentError, match="pressure_ev_per_ang3 is nan; it must be finite"):
        ExitSettings(fmax_ev_per_ang=0.1, smax_ev_per_ang3=0.1, max_steps=1, pressure_ev_per_ang3=float("nan"))
