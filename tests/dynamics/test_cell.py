"""The cell relaxes to where ASE's filters take it, along the periodic directions of each system, all kinds in one batch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import warp as wp
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from hypothesis import given, settings
from hypothesis import strategies as st
from relax_structures import METALS, assert_same_bits, one_of_each, relax, to_batch

from campaign.data.warp_interop import PRECISIONS, launch
from campaign.dynamics import FIREVariableCell
from campaign.dynamics.optimizers.strain import MAX_STRAIN, CellMode, strain_functions
from campaign.models.emt import EMTModel
from campaign.outcomes import Outcome

TIGHT = {"fmax": 1e-4, "smax_ev_per_ang3": 1e-6, "max_steps": 3000}


def strained(atoms: Atoms, amount: float = 0.04, seed: int = 0) -> Atoms:
    rng = np.random.default_rng(seed)
    strain = rng.normal(scale=amount, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain + strain.T), scale_atoms=True)
    return atoms


def by_ase(atoms: Atoms, **options: object) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms, **options), logfile=None).run(fmax=1e-5, steps=1000)
    return atoms


def ordered(symbols: str, a: float) -> Atoms:
    atoms = bulk("Cu", a=a, cubic=True)
    atoms.symbols = symbols
    return atoms


def test_lattice_constants() -> None:
    start = {"Cu": ordered("Cu4", 3.8), "Au": ordered("Au4", 3.9), "Cu3Au": ordered("AuCu3", 3.9), "CuAu": ordered("Au2Cu2", 3.9)}
    for atoms in start.values():
        atoms.rattle(0.05, seed=1)
    relaxed = relax(EMTModel(), to_batch([strained(atoms, 0.01) for atoms in start.values()]), cell="full", **TIGHT)  # type: ignore[arg-type]
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}
    for row, (name, atoms) in enumerate(start.items()):
        theirs = by_ase(atoms)
        ours = relaxed.batch["cell"][row].numpy()
        lengths = np.linalg.norm(ours, axis=1)
        print(name, "ours", lengths, "ASE", theirs.cell.lengths())
        assert np.abs(lengths - theirs.cell.lengths()).max() < 1e-4
        assert float(relaxed.batch["energy"][row]) == pytest.approx(theirs.get_potential_energy(), abs=1e-6)
        check = Atoms(atoms.numbers, relaxed.system(row)["positions"].numpy(), cell=ours, pbc=True, calculator=EMT())
        assert np.linalg.norm(check.get_forces(), axis=1).max() <= 1e-4
        assert np.abs(check.get_stress()).max() <= 1e-6


def test_lattice_constants_of_the_fcc_metals() -> None:
    start = [bulk(metal, cubic=True) for metal in METALS]
    for seed, atoms in enumerate(start):
        strained(atoms, 0.01, seed).rattle(0.03, seed=seed)
    relaxed = relax(EMTModel(), to_batch(start), cell="full", **TIGHT)  # type: ignore[arg-type]
    assert relaxed.outcomes == [Outcome.CONVERGED] * len(METALS)
    for row, metal in enumerate(METALS):
        ours, theirs = np.linalg.norm(relaxed.batch["cell"][row].numpy(), axis=1), by_ase(bulk(metal, cubic=True)).cell.lengths()
        print(f"{metal}: ours {ours}, ASE {theirs} Å")
        assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("cell", ["full", "isotropic"])
@pytest.mark.parametrize("optimizer", ["fire", "fire2", "lbfgs"])
def test_an_imploding_cell_among_63_good_ones(optimizer: str, cell: str) -> None:
    """At a third of its length copper has overrun the barrier that EMT puts against collapse: its energy falls without end."""
    good = [atoms for seed in range(9) for atoms in one_of_each(seed)]
    imploding = bulk("Cu", a=1.2, cubic=True)
    how = {"cell": cell, "optimizer": optimizer, "fmax": 0.01, "max_steps": 200}
    among = relax(EMTModel(), to_batch([*good[:20], imploding, *good[20:]]), **how)  # type: ignore[arg-type]
    without = relax(EMTModel(), to_batch(good), **how)  # type: ignore[arg-type]
    lost = among.system(20)
    print(among.errors[20], float(lost["energy"]), float(lost["volume_ratio"]))
    assert among.outcomes[20] is Outcome.DIVERGED
    assert "the volume has changed by more than a factor of 20" in among.errors[20]
    assert 1 / 20 <= float(lost["volume_ratio"]) < 0.06, "the last good cell, one bounded step before the bound"
    assert float(lost["energy"]) < float(lost["initial_energy"]) - 1e4, "it fell on the way"
    assert without.outcomes.count(Outcome.CONVERGED) > 50
    for row in range(63):
        ours, theirs = among.system(row if row < 20 else row + 1), without.system(row)
        del ours["system_id"], theirs["system_id"]
        assert_same_bits(ours, theirs)


def test_slab_relaxes_in_its_plane_only() -> None:
    slab = fcc111("Cu", (2, 1, 4), a=3.5, vacuum=6.0)
    slab.rattle(0.03, seed=2)
    relaxed = relax(EMTModel(), to_batch([slab]), cell="full", **TIGHT)  # type: ignore[arg-type]
    theirs = by_ase(slab, mask=[1, 1, 0, 0, 0, 1])
    cell = relaxed.batch["cell"][0].numpy()
    print("ours", cell, "ASE", theirs.cell.array)
    assert relaxed.outcomes == [Outcome.CONVERGED]
    assert (cell[2] == slab.cell.array[2]).all(), "the vacuum direction is not touched"
    assert (cell[:2, 2] == 0.0).all()
    assert np.abs(np.linalg.norm(cell[:2], axis=1) - theirs.cell.lengths()[:2]).max() < 1e-4
    assert float(relaxed.batch["energy"]) == pytest.approx(theirs.get_potential_energy(), abs=1e-6)


def test_what_has_no_period_keeps_its_cell_and_takes_the_steps_of_a_fixed_cell() -> None:
    structures = one_of_each()
    structures[5].set_cell(np.diag([20.0, 21.0, 22.0]))
    batch = to_batch(structures)
    full = relax(EMTModel(), batch, cell="full", fmax=1e-3, smax_ev_per_ang3=1e-4, max_steps=800)
    fixed = relax(EMTModel(), batch, cell="fixed", fmax=1e-3, max_steps=800)
    assert set(full.outcomes) == {Outcome.CONVERGED}
    for row, atoms in enumerate(structures):
        before, after = atoms.cell.array, full.batch["cell"][row].numpy()
        if not atoms.pbc.any():
            assert (before == after).all()
            for key in ("positions", "energy", "n_steps", "fmax", "smax"):
                assert torch.equal(full.system(row)[key], fixed.system(row)[key]), key
        elif row == 4:  # the wire, along z
            assert (after[:2] == before[:2]).all()
            assert after[2, 2] != before[2, 2]
            assert (after[2, :2] == 0.0).all()
        else:
            assert not np.allclose(before, after, atol=1e-4)


def test_fixed_volume() -> None:
    atoms = strained(ordered("Cu3Au", 3.7), 0.03)
    slab = fcc111("Cu", (1, 1, 3), a=3.5, vacuum=6.0)
    slab.set_cell(slab.cell.array @ np.diag([1.1, 0.95, 1.0]), scale_atoms=True)
    relaxed = relax(EMTModel(), to_batch([atoms, slab]), cell="fixed_volume", **TIGHT)  # type: ignore[arg-type]
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}
    assert np.abs(relaxed.batch["volume_ratio"].numpy() - 1.0).max() < 1e-12
    theirs = by_ase(atoms, constant_volume=True)
    assert float(relaxed.batch["energy"][0]) == pytest.approx(theirs.get_potential_energy(), abs=1e-5)
    assert relaxed.batch["smax"][0] <= 1e-6
    assert torch.linalg.matrix_norm(relaxed.batch["stress"][0]) > 1e-3, "the pressure stays"
    assert (relaxed.batch["cell"][1, 2].numpy() == slab.cell.array[2]).all()


def test_isotropic() -> None:
    atoms = strained(ordered("Cu3Au", 3.9), 0.03)
    relaxed = relax(EMTModel(), to_batch([atoms]), cell="isotropic", **TIGHT)  # type: ignore[arg-type]
    cell, start = relaxed.batch["cell"][0].numpy(), atoms.cell.array
    ratio = cell / start
    assert np.allclose(ratio[start != 0], ratio[0, 0], rtol=1e-10)
    theirs = by_ase(atoms, hydrostatic_strain=True)
    assert float(relaxed.batch["energy"]) == pytest.approx(theirs.get_potential_energy(), abs=1e-5)
    assert float(relaxed.batch["volume_ratio"]) == pytest.approx(theirs.get_volume() / atoms.get_volume(), rel=1e-4)


def test_the_path_does_not_depend_on_the_size_of_the_cell() -> None:
    small = strained(bulk("Cu", a=3.7, cubic=True), 0.02)
    relaxed = relax(EMTModel(), to_batch([small, small * (2, 2, 2)]), cell="full", **TIGHT)  # type: ignore[arg-type]
    lengths = np.linalg.norm(relaxed.batch["cell"].numpy(), axis=2)
    assert np.abs(2 * lengths[0] - lengths[1]).max() < 1e-4
    few, many = sorted(relaxed.batch["n_steps"].view(-1).tolist())
    assert many <= 1.3 * few


def test_strain_of_a_step_is_bounded() -> None:
    batch = to_batch([bulk("Cu", a=2.2, cubic=True), bulk("Au", a=3.9)])
    dynamics = FIREVariableCell(EMTModel(), hooks=EMTModel().make_neighbor_hooks())
    cells = [batch["cell"].clone()]
    for _ in range(20):
        dynamics.step(batch)
        cells.append(batch["cell"].clone())
    steps = [torch.linalg.solve(a, b).transpose(1, 2) - torch.eye(3, dtype=torch.float64) for a, b in pairwise(cells)]
    largest = max(float(torch.linalg.matrix_norm(step).max()) for step in steps)
    assert 0.5 * MAX_STRAIN < largest < MAX_STRAIN * (1 + 1e-9)


@wp.kernel(enable_backward=False, module="unique")
def _measure(
    cell: wp.array(dtype=wp.mat33d),
    pbc: wp.array2d(dtype=wp.bool),
    m: wp.array(dtype=wp.mat33d),
    mode: wp.int32,
    p: wp.array(dtype=wp.mat33d),
    narrowed: wp.array(dtype=wp.mat33d),
):
    i = wp.tid()
    own = wp.static(strain_functions(PRECISIONS[torch.float64]).projector)(cell[i], pbc[i, 0], pbc[i, 1], pbc[i, 2])
    p[i] = own
    narrowed[i] = wp.static(strain_functions(PRECISIONS[torch.float64]).narrow)(own, m[i], mode)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from(list(CellMode)), st.booleans())
def test_projector_and_modes(seed: int, pbc: tuple[bool, bool, bool], mode: CellMode, has_zero_vectors: bool) -> None:
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3))
    if has_zero_vectors:
        cell[~np.array(pbc)] = 0.0
    m = rng.normal(size=(3, 3))
    tensors = [torch.from_numpy(x[None].copy()) for x in (cell, np.array(pbc), m, np.empty((3, 3)), np.empty((3, 3)))]
    launch(_measure, 1, [*tensors[:3], int(mode), *tensors[3:]], torch.device("cpu"))
    p, narrowed = tensors[3][0].numpy(), tensors[4][0].numpy()
    # Onto the span of the periodic vectors, by its orthonormal basis.
    basis = np.linalg.qr(cell[np.array(pbc)].T)[0] if any(pbc) else np.zeros((3, 0))
    assert np.abs(p - basis @ basis.T).max() < 1e-6
    inner = basis @ basis.T @ (m + m.T) @ basis @ basis.T / 2
    rank = sum(pbc)
    mean = np.trace(inner) / rank * p if rank else np.zeros((3, 3))
    expected = {CellMode.FIXED: 0 * inner, CellMode.ISOTROPIC: mean, CellMode.FULL: inner, CellMode.FIXED_VOLUME: inner - mean}
    assert np.abs(narrowed - expected[mode]).max() < 1e-5
