"""A campaign with a real neural potential: twelve elemental crystals of ASE's dcdft collection, SevenNet-0 from its wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.collections import dcdft

import campaign

CAMPAIGN = str(Path(sys.executable).with_name("campaign"))
# Small cells of as many structure types: fcc, bcc, hcp, diamond, and the rhombohedral and tetragonal ones.
CRYSTALS = ("Al", "Cu", "Fe", "W", "Mg", "Ti", "Si", "Ge", "C", "As", "In", "Li")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sevennet")
    crystals = []
    for seed, name in enumerate(CRYSTALS):
        crystal = dcdft[name].copy()
        crystal.set_initial_magnetic_moments(None)
        crystal.rattle(0.03, seed=seed)
        crystals.append(crystal)
    ase.io.write(folder / "crystals.extxyz", crystals)
    (folder / "campaign.toml").write_text(
        '[campaign]\nname = "dcdft"\ndirectory = "run"\n[inputs]\npaths = ["crystals.extxyz"]\n'
        '[model]\nname = "sevennet"\ndtype = "float32"\ndevice = "cpu"\n[relax]\npreset = "screening"\ncell = "full"\n'
    )
    ran = subprocess.run([CAMPAIGN, "run", str(folder / "campaign.toml")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.filterwarnings("ignore:No tensor product accelerator:UserWarning")  # of the package's calculator; there is none on a CPU
def test_each_crystal_ends_as_the_packages_own_calculator_says(folder: Path) -> None:
    from sevenn.calculator import SevenNetCalculator

    store = campaign.open(folder / "run" / "store.zarr")
    assert store.frame(["outcome"])["outcome"].tolist() == ["converged"] * len(CRYSTALS)
    calculator = SevenNetCalculator("7net-0", device="cpu")
    for atoms in store:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = calculator
        print(f"{atoms.get_chemical_formula():4} {energy:.6f} eV, package {atoms.get_potential_energy():.6f} eV")
        # float32 rounding of a sum over a few atoms of some 10 eV each
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=2e-5 * len(atoms))
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=2e-4)
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.05 + 2e-4


def test_verify_recomputes_with_the_packages_own_calculator(folder: Path) -> None:
    done = subprocess.run([CAMPAIGN, "verify", str(folder / "run"), "--recompute", "12"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "12 recomputed" in done.stdout
