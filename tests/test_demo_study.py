"""The copper–gold demo, whole, as `make demo` runs it: what it finds is compared with ASE, structure by structure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.formula import Formula
from ase.optimize import FIRE

import campaign
from campaign.analysis import StoreView, hull_of
from campaign.spec import read_spec

STUDY = Path(__file__).parents[1] / "examples" / "cu_au"
CAMPAIGN = str(Path(sys.executable).with_name("campaign"))

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the spec and the structures, after the campaign has run; the folder's name is awkward on purpose."""
    folder = tmp_path_factory.mktemp("demo 'é' $x")
    written = subprocess.run(
        [sys.executable, str(STUDY / "make_structures.py"), str(folder / "structures")], capture_output=True, text=True, check=True
    )
    print(written.stdout)
    text = (STUDY / "campaign.toml").read_text(encoding="utf-8").replace("../../runs/cu-au", "run")
    (folder / "campaign.toml").write_text(text, encoding="utf-8")
    ran = subprocess.run([CAMPAIGN, "run", str(folder / "campaign.toml")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    print(ran.stdout)
    return folder


@pytest.fixture(scope="module")
def store(study: Path) -> StoreView:
    return campaign.open(study / "run" / "store.zarr")


def test_each_input_has_an_outcome_and_the_broken_ones_a_reason(study: Path, store: StoreView) -> None:
    status = json.loads(
        subprocess.run([CAMPAIGN, "status", str(study / "run"), "--json"], capture_output=True, text=True, check=True).stdout
    )
    assert status["n_inputs"] == len(store) >= 600
    assert status["outcomes"]["invalid"] >= 7
    assert status["outcomes"]["diverged"] == status["outcomes"]["failed"] == 0
    assert sum(status["outcomes"].values()) == status["n_inputs"]
    table = store.frame()
    assert table.index.tolist() == list(range(len(store)))
    refused = table[table["outcome"] == "invalid"]
    assert (refused["error"].str.len() > 10).all()
    assert refused["source"].str.contains("broken").all()
    assert subprocess.run([CAMPAIGN, "verify", str(study / "run"), "--recompute", "20"], check=False).returncode == 0


def test_ase_finds_every_converged_structure_converged(study: Path, store: StoreView) -> None:
    relax = read_spec(study / "campaign.toml").relax
    worst_force = worst_stress = 0.0
    converged = store.frame(["outcome"]).query("outcome == 'converged'").index
    for system_id in converged:
        atoms = store[int(system_id)]
        energy = atoms.get_potential_energy()
        atoms.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-8 * len(atoms))
        worst_force = max(worst_force, float(np.linalg.norm(atoms.get_forces(), axis=1).max()))
        if atoms.pbc.any():
            worst_stress = max(worst_stress, float(np.abs(stress_that_the_cell_follows(atoms)).max()))
    print(f"{len(converged)} structures: largest force {worst_force:.6f} eV/Å, largest stress {worst_stress:.7f} eV/Å³")
    assert worst_force <= relax.fmax_ev_per_ang + 1e-7
    assert worst_stress <= relax.smax_ev_per_ang3 + 1e-8


def stress_that_the_cell_follows(atoms: Atoms) -> np.ndarray:
    """The stress of ASE within the span of the periodic cell vectors."""
    periodic = np.asarray(atoms.cell)[atoms.pbc]
    basis = np.linalg.svd(periodic)[2][: len(periodic)]
    projector = basis.T @ basis
    return np.asarray(projector @ atoms.get_stress(voigt=False) @ projector)


def test_ordered_compounds_are_those_of_ase(store: StoreView) -> None:
    """Every rattled and strained variant of L1₂ Cu₃Au, L1₀ CuAu and L1₂ CuAu₃ ends at the energy that ASE finds for it."""
    table = hull_of(store).table.join(store.frame(["source"]))
    for name, by_ase in formation_energies_by_ase().items():
        variants = table[table["source"].str.contains(f"ordered/{name}")]["formation_energy"]
        print(f"{name}: {len(variants)} variants, {variants.min():.6f} to {variants.max():.6f} eV/atom, ASE {by_ase:.6f}")
        assert len(variants) >= 10
        np.testing.assert_allclose(variants, by_ase, atol=2e-4)


def test_hull_is_that_of_a_brute_force(store: StoreView) -> None:
    """The height of each structure above the hull is its largest height above any line between two others that span it."""
    hull = hull_of(store)
    table = hull.table
    counts = [Formula(formula).count() for formula in table["formula"]]
    x = np.array([count.get("Au", 0) / sum(count.values()) for count in counts])
    energy = table["formation_energy"].to_numpy()
    left, right = np.meshgrid(np.arange(len(x)), np.arange(len(x)), indexing="ij")
    left, right = left[x[left] < x[right]], right[x[left] < x[right]]
    slope = (energy[right] - energy[left]) / (x[right] - x[left])
    below = [
        min(energy[x == here].min(), (energy[left] + slope * (here - x[left]))[(x[left] <= here) & (here <= x[right])].min()) for here in x
    ]
    np.testing.assert_allclose(table["energy_above_hull"], energy - below, atol=1e-9)
    assert {"Cu", "Au"} < set(hull.members["formula"])


def formation_energies_by_ase() -> dict[str, float]:
    """Formation energy per atom of L1₂ Cu₃Au, L1₀ CuAu and L1₂ CuAu₃, relaxed by ASE's FIRE and Fréchet filter."""

    def energy(symbols: list[str]) -> float:
        atoms = bulk("Cu", "fcc", a=3.6 + 0.47 * symbols.count("Au") / 4, cubic=True)
        atoms.set_chemical_symbols(symbols)
        atoms.calc = EMT()
        with FIRE(FrechetCellFilter(atoms), logfile=None) as optimizer:
            assert optimizer.run(fmax=1e-3, steps=1000)
        return float(atoms.get_potential_energy()) / 4

    # Sites (0,0,0), (0,½,½), (½,0,½), (½,½,0): first and last make one layer of L1₀.
    copper, gold = energy(["Cu"] * 4), energy(["Au"] * 4)
    cells = {"L12-Cu3Au": ["Au", "Cu", "Cu", "Cu"], "L10-CuAu": ["Cu", "Au", "Au", "Cu"], "L12-CuAu3": ["Cu", "Au", "Au", "Au"]}
    gold_fraction = {formula: symbols.count("Au") / 4 for formula, symbols in cells.items()}
    return {name: energy(cells[name]) - (1 - x) * copper - x * gold for name, x in gold_fraction.items()}


def test_report_is_one_file_that_asks_no_network_for_anything(study: Path) -> None:
    html = (study / "run" / "report.html").read_text(encoding="utf-8")
    assert "convex hull" in html.lower()
    for tag in ("<script src", '<link rel="stylesheet" href="http', "@import url(http"):
        assert tag not in html
