"""ASE's calculators by the name of the potential, structures as `Atoms`, and the check that an answer is right before its time counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.neighborlist import neighbor_list

from sides.exchange import Relaxed, Settings, Structures

FORCE_TOLERANCE_EV_PER_ANG: Final = 1e-6
ENERGY_TOLERANCE_EV_PER_ATOM: Final = 1e-7

_CALCULATORS: Final[dict[str, Any]] = {"lj": LennardJones, "emt": EMT}


def calculator(potential: str, options: Mapping[str, float]) -> Calculator:
    """Return a new ASE calculator."""
    return _CALCULATORS[potential](**options)


def atoms_of(structures: Structures) -> list[Atoms]:
    """Return structures as ASE has them."""
    systems = [structures.part(i, i + 1) for i in range(len(structures))]
    return [Atoms(numbers=one.numbers, positions=one.positions, cell=one.cell[0], pbc=one.pbc[0]) for one in systems]


def shift_of(atoms: Atoms, options: Mapping[str, float]) -> float:
    """Return by how much ASE's Lennard-Jones energy is above one that is not shifted to zero at the cutoff, with the sign reversed."""
    s6 = (options["sigma"] / options["rc"]) ** 6
    n_pairs = len(neighbor_list("i", atoms, options["rc"])) / 2
    return float(4 * options["epsilon"] * (s6**2 - s6) * n_pairs)


def disagreements(structures: Structures, relaxed: Relaxed, settings: Settings) -> list[str]:
    """Return what is wrong with an answer, as ASE sees it at the final positions; nothing if all is right."""
    n_systems, n_atoms = len(structures), int(structures.n_atoms.sum())
    if relaxed.positions.shape != (n_atoms, 3) or len(relaxed.n_steps) != n_systems:
        return [f"{len(relaxed.n_steps)} systems with {len(relaxed.positions)} atoms came back, {n_systems} with {n_atoms} were given"]
    texts = []
    final = Structures(structures.n_atoms, structures.numbers, relaxed.positions, structures.cell, structures.pbc)
    ase = calculator(settings.potential, settings.options)
    first = 0
    for i, atoms in enumerate(atoms_of(final)):
        rows = slice(first, first + len(atoms))
        first += len(atoms)
        atoms.calc = ase
        forces = atoms.get_forces()
        difference = float(np.abs(forces - relaxed.forces[rows]).max())
        if not difference <= FORCE_TOLERANCE_EV_PER_ANG:
            texts.append(f"structure {i}: forces differ from ASE's by up to {difference:.3g} eV/Å")
        energy = atoms.get_potential_energy() + (0.0 if relaxed.is_shifted else shift_of(atoms, settings.options))
        apart = abs(energy - relaxed.energy[i]) / len(atoms)
        if not apart <= ENERGY_TOLERANCE_EV_PER_ATOM:
            texts.append(f"structure {i}: the energy differs from ASE's by {apart:.3g} eV per atom")
        fmax = float(np.linalg.norm(forces, axis=1).max())
        if relaxed.converged[i] and not fmax <= settings.fmax_ev_per_ang + FORCE_TOLERANCE_EV_PER_ANG:
            texts.append(f"structure {i}: called converged, and fmax by ASE is {fmax:.6g} eV/Å")
        if not relaxed.converged[i] and relaxed.n_steps[i] < settings.max_steps:
            texts.append(f"structure {i}: given up after {relaxed.n_steps[i]} steps")
    return texts
