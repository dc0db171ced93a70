"""Starts with overlapping atoms and forces of 10^5 eV/Å and far beyond: bounded steps calm them, and no optimizer makes one worse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from relax_structures import METALS, lj_clusters, relax, to_batch

from campaign.models.base import BaseModelMixin
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome

MAXSTEP_ANG = 0.2
EMT_CLOSEST_ANG = 0.9
OPTIMIZERS = ("fire", "fire2", "lbfgs")


def with_overlaps(structures: list[Atoms], closest_ang: tuple[float, float], seed: int) -> list[Atoms]:
    """Put some atoms so close to others, log-uniformly in a range."""
    rng = np.random.default_rng(seed)
    for atoms in structures:
        for _ in range(1 + len(atoms) // 10):
            moved, other = rng.choice(len(atoms), 2, replace=False)
            direction = rng.normal(size=3)
            distance = np.exp(rng.uniform(*np.log(closest_ang)))
            atoms.positions[moved] = atoms.positions[other] + distance * direction / np.linalg.norm(direction)
    return structures


def metal_clusters(n: int, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    made = []
    for atoms in lj_clusters([int(size) for size in rng.integers(4, 20, n)], sigma=2.3, rattle=0.1, seed=seed):
        atoms.numbers[:] = Atoms(rng.choice(METALS, len(atoms))).numbers
        made.append(atoms)
    return made


def lj_start() -> tuple[BaseModelMixin, list[Atoms]]:
    sizes = [int(size) for size in np.random.default_rng(5).integers(4, 25, 24)]
    return LennardJonesModel(rc=100.0), with_overlaps(lj_clusters(sizes, seed=5), (0.02, 0.7), seed=6)


def emt_start() -> tuple[BaseModelMixin, list[Atoms]]:
    # Closer than this EMT pulls some pairs, such as Pt and Al, into each other, with a cusp at no distance: there is no minimum.
    return EMTModel(), with_overlaps(metal_clusters(16, seed=7), (EMT_CLOSEST_ANG, 1.5), seed=8)


@pytest.mark.parametrize(("start", "fmax_ev_per_ang"), [(lj_start, 1e20), (emt_start, 3e2)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_overlapping_atoms_are_calmed(start: object, fmax_ev_per_ang: float, optimizer: str) -> None:
    model, structures = start()  # type: ignore[operator]
    batch = to_batch(structures)
    relaxed = relax(model, batch, optimizer=optimizer, fmax=1e-2, max_steps=3000, maxstep_ang=MAXSTEP_ANG)
    first = model_forces(model, structures)
    print(f"fmax at the start {first.min():.1e} … {first.max():.1e} eV/Å; steps {sorted(relaxed.batch['n_steps'].view(-1).tolist())}")
    print([outcome.label for outcome in relaxed.outcomes if outcome is not Outcome.CONVERGED], [e for e in relaxed.errors if e])
    assert first.max() > fmax_ev_per_ang
    assert set(relaxed.outcomes) <= {Outcome.CONVERGED, Outcome.MAX_STEPS}
    assert relaxed.outcomes.count(Outcome.CONVERGED) >= 0.9 * len(structures)
    assert_no_one_went_further_than_steps_allow(relaxed.batch, batch, per_atom=optimizer == "lbfgs")


def model_forces(model: BaseModelMixin, structures: list[Atoms]) -> np.ndarray:
    """Return fmax of each structure."""
    relaxed = relax(model, to_batch(structures), max_steps=0)
    return relaxed.batch["fmax"].view(-1).numpy()


def assert_no_one_went_further_than_steps_allow(end: object, start: object, per_atom: bool) -> None:
    moved = end["positions"] - start["positions"]  # type: ignore[index]
    for row, (first, last) in enumerate(zip(end.batch_ptr[:-1], end.batch_ptr[1:], strict=True)):  # type: ignore[attr-defined]
        way = moved[first:last]
        length = float(way.norm(dim=1).max()) if per_atom else float(way.norm())
        assert length <= MAXSTEP_ANG * int(end["n_steps"][row]) + 1e-9  # type: ignore[index]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("seed", [4, 10])
def test_clusters_that_were_thrown_away_at_the_start(optimizer: str, seed: int) -> None:
    batch = to_batch(lj_clusters([7, 13, 19, 30], rattle=0.3, seed=seed))
    relaxed = relax(LennardJonesModel(rc=100.0), batch, optimizer=optimizer, fmax=1e-4, max_steps=3000)
    print(relaxed.outcomes, relaxed.batch["n_steps"].view(-1).tolist(), relaxed.batch["energy"].view(-1).tolist())
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}
    assert_no_one_went_further_than_steps_allow(relaxed.batch, batch, per_atom=optimizer == "lbfgs")
    # Compact clusters stay together: all energies are those of minima of that size.
    for row, size in enumerate((7, 13, 19, 30)):
        assert -4.6 * size < float(relaxed.batch["energy"][row]) < -1.5 * size


def test_atoms_in_one_place_end_honestly() -> None:
    """No direction to go, no finite force: nothing can calm that."""
    twins = Atoms("Ar3", [[0.0, 0, 0], [0.0, 0, 0], [0, 0, 1.1]])
    relaxed = relax(LennardJonesModel(rc=100.0), to_batch([twins, *lj_clusters([7])]))
    assert relaxed.outcomes == [Outcome.DIVERGED, Outcome.CONVERGED]
    assert torch.equal(relaxed.system(0)["positions"], torch.from_numpy(twins.positions))
