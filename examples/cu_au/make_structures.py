"""Write the structures of the copper-gold study: ordered compounds, solid solutions, clusters and slabs, and a few broken files.

    python make_structures.py [FOLDER]

The folder, by default `structures` beside this file, gets extxyz and CIF files. Equal seeds give equal files. Everything is
rattled and strained, so a relaxation has something to do. What it finds is known from ASE's EMT, relaxed one by one: formation
energies of −10.19, −7.85 and +7.18 meV an atom for L1₂ Cu₃Au, L1₀ CuAu and L1₂ CuAu₃, so EMT, unlike nature, does not bind CuAu₃.
Among the random cells of 1×1×2 are some that are D0₂₂ (L1₂ with every second cell shifted); EMT puts them 0.4 and 0.2 meV below
Cu₃Au and CuAu₃ in L1₂.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, make_supercell
from ase.cluster import Octahedron
from ase.io import write

SEED: Final = 20250721
RATTLE_ANG: Final = 0.06
STRAIN: Final = 0.03
A_CU_ANG: Final = 3.61
A_AU_ANG: Final = 4.08

# Multiples of the cubic fcc cell of 4 atoms: 8 to 108 atoms.
SUPERCELLS: Final = ((1, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 3), (2, 3, 3), (3, 3, 3))
GOLD_FRACTIONS: Final = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


def vegard_ang(gold_fraction: float) -> float:
    """Return the lattice constant of an fcc alloy, linear between the elements (Vegard's law)."""
    return A_CU_ANG + gold_fraction * (A_AU_ANG - A_CU_ANG)


def fcc(symbols: str) -> Atoms:
    """Return the cubic fcc cell with four given atoms: Cu4, Cu3Au (L1₂), Cu2Au2 in layers (L1₀), …"""
    elements = Atoms(symbols).get_chemical_symbols()
    a_ang = vegard_ang(elements.count("Au") / 4)
    atoms = bulk("Cu", "fcc", a=a_ang, cubic=True)
    # ASE's order of the sites is (0,0,0), (0,½,½), (½,0,½), (½,½,0): first and last make one layer.
    atoms.set_chemical_symbols(elements)
    return atoms


ORDERED: Final[dict[str, Callable[[], Atoms]]] = {
    "fcc-Cu": lambda: fcc("Cu4"),
    "L12-Cu3Au": lambda: fcc("AuCu3"),
    "L10-CuAu": lambda: fcc("CuAu2Cu"),
    "L12-CuAu3": lambda: fcc("CuAu3"),
    "fcc-Au": lambda: fcc("Au4"),
}


def solid_solution(repeat: tuple[int, int, int], gold_fraction: float, rng: np.random.Generator) -> Atoms:
    """Return an fcc supercell in which gold sits on random sites."""
    atoms = bulk("Cu", "fcc", a=vegard_ang(gold_fraction), cubic=True).repeat(repeat)
    n_gold = round(gold_fraction * len(atoms))
    numbers = atoms.numbers.copy()
    numbers[rng.permutation(len(atoms))[:n_gold]] = 79
    atoms.numbers = numbers
    return atoms


def cluster(length: int, cutoff: int, gold_fraction: float, rng: np.random.Generator) -> Atoms:
    """Return a truncated octahedron with gold on random sites, without a cell."""
    shape = Octahedron("Cu", length=length, cutoff=cutoff, latticeconstant=vegard_ang(gold_fraction))
    atoms = Atoms(["Cu"] * len(shape), positions=shape.positions)
    atoms.numbers[rng.permutation(len(atoms))[: round(gold_fraction * len(atoms))]] = 79
    return atoms


def slab(n_layers: int, gold_fraction: float, rng: np.random.Generator) -> Atoms:
    """Return a (111) slab, periodic in its plane, whose two lowest layers are fixed."""
    atoms = fcc111("Cu", size=(2, 2, n_layers), a=vegard_ang(gold_fraction), vacuum=8.0, periodic=False)
    atoms.numbers[rng.permutation(len(atoms))[: round(gold_fraction * len(atoms))]] = 79
    atoms.info = {}
    return atoms


def disturb(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Strain the cell (bulk only) and rattle the atoms."""
    atoms = atoms.copy()
    if atoms.pbc.all():
        strain = rng.uniform(-STRAIN, STRAIN, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(0, RATTLE_ANG, atoms.positions.shape)
    return atoms


def make_ordered(rng: np.random.Generator, n_variants: int = 16) -> dict[str, list[Atoms]]:
    """Return the ordered compounds, each disturbed in several ways; every fourth one as a supercell."""
    frames: dict[str, list[Atoms]] = {}
    for name, build in ORDERED.items():
        for variant in range(n_variants):
            atoms = build()
            if variant % 4 == 3:
                atoms = make_supercell(atoms, np.diag([2, 2, 1 + variant // 8]))
            atoms = disturb(atoms, rng)
            atoms.info = {"prototype": name, "variant": variant}
            frames.setdefault(name, []).append(atoms)
    return frames


def make_solutions(rng: np.random.Generator, n_variants: int = 11) -> dict[str, list[Atoms]]:
    """Return the random solid solutions, one list for each supercell."""
    frames: dict[str, list[Atoms]] = {}
    for repeat in SUPERCELLS:
        for gold_fraction in GOLD_FRACTIONS:
            for variant in range(n_variants):
                atoms = disturb(solid_solution(repeat, gold_fraction, rng), rng)
                atoms.info = {"prototype": "random fcc", "gold_fraction": gold_fraction, "variant": variant}
                frames.setdefault("x".join(map(str, repeat)), []).append(atoms)
    return frames


def make_clusters(rng: np.random.Generator) -> list[Atoms]:
    """Return clusters of 13 to 79 atoms."""
    frames = []
    for length, cutoff in ((3, 1), (4, 1), (5, 1), (5, 2)):
        for gold_fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
            for variant in range(2):
                atoms = disturb(cluster(length, cutoff, gold_fraction, rng), rng)
                atoms.info = {"prototype": "octahedron", "gold_fraction": gold_fraction, "variant": variant}
                frames.append(atoms)
    return frames


def make_slabs(rng: np.random.Generator) -> list[Atoms]:
    """Return slabs of 16 to 24 atoms; tags are the layers, and two layers are fixed."""
    from ase.constraints import FixAtoms

    frames = []
    for n_layers in (4, 5, 6):
        for gold_fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
            for variant in range(2):
                layers = slab(n_layers, gold_fraction, rng)
                atoms = disturb(layers, rng)
                fixed = layers.get_tags() > n_layers - 2
                atoms.positions[fixed] = layers.positions[fixed]
                atoms.set_constraint(FixAtoms(mask=fixed))
                atoms.info = {"prototype": "fcc(111) slab", "gold_fraction": gold_fraction, "variant": variant}
                frames.append(atoms)
    return frames


def write_cif(path: Path, atoms: Atoms) -> None:
    """Write one bulk structure as CIF."""
    plain = atoms.copy()
    plain.info = {}
    write(path, plain, format="cif")


def write_extxyz(path: Path, frames: list[Atoms]) -> None:
    """Write frames as one extxyz file, with tags and constraints where there are some."""
    columns = ["symbols", "positions"]
    if any(atoms.has("tags") for atoms in frames):
        columns.append("tags")
    if any(atoms.constraints for atoms in frames):
        columns.append("move_mask")
    write(path, frames, format="extxyz", columns=columns)


def write_broken(folder: Path) -> int:
    """Write one file for each thing that can be wrong with an input; return how many inputs in them are refused."""
    good = fcc("AuCu3")
    (folder / "empty.extxyz").write_bytes(b"")
    broken = good.copy()
    broken.positions[1, 2] = np.nan
    write(folder / "NaN coordinates.extxyz", broken, format="extxyz")
    broken = good.copy()
    broken.positions[2] = broken.positions[1] + (0.01, 0, 0) + broken.cell[0]
    write(folder / "two atoms on one spot.extxyz", broken, format="extxyz")
    write(folder / 'the "xenon" one.extxyz', bulk("Xe", "fcc", a=6.2, cubic=True), format="extxyz")
    write_cif(folder / "cut off.cif", good)
    text = (folder / "cut off.cif").read_text(encoding="latin-1")
    (folder / "cut off.cif").write_text(text[: text.rindex("Cu") - 12], encoding="latin-1")
    write_cif(folder / "partial occupancy.cif", good)
    text = (folder / "partial occupancy.cif").read_text(encoding="latin-1")
    (folder / "partial occupancy.cif").write_text(text.replace("1.0000", "0.5000"), encoding="latin-1")
    write_extxyz(folder / "third frame bad.extxyz", [good] * 5)
    lines = (folder / "third frame bad.extxyz").read_text().splitlines(keepends=True)
    lines[2 * 6 + 3] = "Cu   0.0   oops   1.8\n"
    (folder / "third frame bad.extxyz").write_text("".join(lines))
    return 7


def make_structures(folder: Path, seed: int = SEED) -> tuple[int, int]:
    """Write everything below `folder`; return how many inputs are sound and how many are broken."""
    rng = np.random.default_rng(seed)
    for name in ("ordered", "solid solutions", "Körper", "broken"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    n_inputs = 0
    for name, frames in make_ordered(rng).items():
        n_cif = len(frames) // 2
        for number, atoms in enumerate(frames[:n_cif]):
            write_cif(folder / "ordered" / f"{name} {number}.cif", atoms)
        write_extxyz(folder / "ordered" / f"{name}.extxyz", frames[n_cif:])
        n_inputs += len(frames)
    for name, frames in make_solutions(rng).items():
        write_extxyz(folder / "solid solutions" / f"random {name}.extxyz", frames)
        n_inputs += len(frames)
    clusters, slabs = make_clusters(rng), make_slabs(rng)
    write_extxyz(folder / "Körper" / "clusters (Häufchen).extxyz", clusters)
    write_extxyz(folder / "Körper" / "it's a slab.extxyz", slabs)
    n_refused = write_broken(folder / "broken")
    # Four frames of the file with the bad third one are sound.
    return n_inputs + len(clusters) + len(slabs) + 4, n_refused


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "structures"
    n_sound, n_broken = make_structures(target)
    print(f"wrote {n_sound} structures and {n_broken} broken ones to {target}")
