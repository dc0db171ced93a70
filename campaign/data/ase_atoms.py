"""`ase.Atoms` to tensors and back, without loss of what a campaign carries from its inputs to its store.

Positions, cell, periodicity, masses, momenta, tags, initial charges and magnetic moments, constraints and info survive; results (energy,
forces, stress) are taken from info, arrays or a finished calculator and come back as a calculator that only remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixSymmetry
from ase.data import atomic_masses as default_masses
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from jaxtyping import Bool, Float
from numpy import ndarray

from campaign.constraints import constraints_from_fields, symprec_of
from campaign.errors import InputError

if TYPE_CHECKING:
    from campaign.data.atomic_data import AtomicData

__all__ = ["atoms_from_data", "fixed_components", "properties_from_atoms"]

_FLAT: Final = 1e-8
"""Volume of the periodic vectors over the product of their lengths below which they are taken to be linearly dependent."""


def properties_from_atoms(
    atoms: Atoms,
    device: torch.device,
    dtype: torch.dtype,
    energy_key: str = "energy",
    forces_key: str = "forces",
    stress_key: str = "stress",
    virials_key: str = "virials",
    dipole_key: str = "dipole",
    charges_key: str = "charges",
) -> dict[str, Any]:
    """Return the keyword arguments of `AtomicData` for an `ase.Atoms`, which is not changed.

    Cell and pbc are always there (zero and false for a molecule), and so are tags, initial charges and moments and the fixed components,
    so that structures of all kinds form one batch. The keys say under which name info or arrays hold results, those in info being taken
    out of it; without them a calculator's finished results are used. Stress is full 3×3, in ASE's sign.

    Raises:
        InputError: no atoms, a number that is not finite, an unknown element, periodic cell vectors that are zero or linearly dependent, a
            constraint other than FixAtoms, FixCartesian and FixSymmetry, moments with three components, a given total charge that is no
            integer, results that are no numbers.
    """
    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    _refuse_unusable(atoms, numbers)

    def on_device(name: str, value: Any, shape: tuple[int, ...]) -> torch.Tensor:
        try:
            return torch.tensor(np.asarray(value, dtype=np.float64).reshape(shape), dtype=dtype, device=device)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} of the structure cannot be read as numbers of shape {shape}: {error}. Correct the file.") from error

    info = dict(atoms.info)
    results: dict[str, Any] = dict(getattr(atoms.calc, "results", None) or {})
    n_atoms = len(atoms)
    taken = {
        "energy": (info.pop(energy_key, results.get("energy")), (1, 1)),
        "forces": (atoms.arrays.get(forces_key, results.get("forces")), (n_atoms, 3)),
        "stress": (_full_stress(info.pop(stress_key, results.get("stress")), stress_key), (1, 3, 3)),
        "virial": (_full_stress(info.pop(virials_key, None), virials_key), (1, 3, 3)),
        "dipole": (info.pop(dipole_key, results.get("dipole")), (1, 3)),
        "charges": (atoms.arrays.get(charges_key, results.get("charges")), (n_atoms,)),
    }
    found = {name: on_device(name, value, shape) for name, (value, shape) in taken.items() if value is not None}
    charge = _total_charge(info.pop("charge", None), taken["charges"][0])
    if charge is not None:
        found["charge"] = on_device("charge", charge, (1, 1))
    if atoms.has("momenta"):
        found["velocities"] = on_device("momenta", atoms.get_velocities(), (n_atoms, 3))
    return {
        "positions": on_device("positions", atoms.positions, (n_atoms, 3)),
        "atomic_numbers": torch.tensor(numbers, device=device),
        "atomic_masses": on_device("atomic_masses", atoms.get_masses(), (n_atoms,)),
        "cell": on_device("cell", atoms.cell.array, (1, 3, 3)),
        "pbc": torch.tensor(atoms.pbc.reshape(1, 3), device=device),
        "tags": torch.tensor(np.asarray(atoms.get_tags(), dtype=np.int64), device=device),
        "initial_charges": on_device("initial_charges", atoms.get_initial_charges(), (n_atoms,)),
        "initial_magmoms": on_device("initial_magmoms", atoms.get_initial_magnetic_moments(), (n_atoms,)),
        "fixed": torch.tensor(fixed_components(atoms), device=device),
        "symprec": on_device("symprec", symprec_of(atoms), (1, 1)),
        "info": info,
        **found,
    }


def atoms_from_data(data: AtomicData) -> Atoms:
    """Return an `ase.Atoms` with everything in `data` that ASE has a place for."""

    def host(name: str) -> ndarray[Any, Any] | None:
        value = getattr(data, name)
        return None if value is None else value.detach().cpu().numpy()

    numbers = data.atomic_numbers.cpu().numpy()
    cell, pbc = host("cell"), host("pbc")
    atoms = Atoms(
        numbers=numbers,
        positions=data.positions.detach().cpu().numpy().astype(np.float64),
        cell=None if cell is None else cell[0].astype(np.float64),
        pbc=False if pbc is None else pbc[0],
        info=dict(data.info),
    )
    masses = data.atomic_masses.detach().cpu().numpy()
    if not np.array_equal(masses, default_masses[numbers].astype(masses.dtype)):
        atoms.set_masses(masses.astype(np.float64))
    for name, setter in (
        ("tags", atoms.set_tags),
        ("initial_charges", atoms.set_initial_charges),
        ("initial_magmoms", atoms.set_initial_magnetic_moments),
        ("velocities", atoms.set_velocities),
    ):
        value = host(name)
        if value is not None and value.any():
            put_in = cast(Callable[[ndarray[Any, Any]], None], setter)
            put_in(value)
    symprec = host("symprec")
    atoms.set_constraint(constraints_from_fields(atoms, host("fixed"), 0.0 if symprec is None else float(symprec.item())))
    if data.charge is not None:
        atoms.info["charge"] = round(float(data.charge))
    _attach_results(atoms, data)
    return atoms


def fixed_components(atoms: Atoms) -> Bool[ndarray, "A 3"]:
    """Return which Cartesian components FixAtoms and FixCartesian hold.

    Raises:
        InputError: there is another constraint; the text names it.
    """
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = True
        elif isinstance(constraint, FixCartesian):
            fixed[constraint.index] |= np.asarray(constraint.mask, dtype=bool)
        elif not isinstance(constraint, FixSymmetry):  # which holds no component
            raise InputError(
                f"constraint {type(constraint).__name__} cannot be kept in a relaxation; FixAtoms and FixCartesian can, and FixSymmetry. "
                "Remove it or replace it by one of these."
            )
    return fixed


def _attach_results(atoms: Atoms, data: AtomicData) -> None:
    results: dict[str, Any] = {}
    if data.energy is not None:
        results["energy"] = float(data.energy)
    if data.forces is not None:
        results["forces"] = data.forces.detach().cpu().numpy().astype(np.float64)
    if data.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(data.stress[0].detach().cpu().numpy().astype(np.float64))
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)


def _refuse_unusable(atoms: Atoms, numbers: ndarray[Any, Any]) -> None:
    if len(atoms) == 0:
        raise InputError("the structure has no atoms; at least one is needed. Remove it.")
    if not np.isfinite(atoms.positions).all():
        atom = int(np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))[0])
        raise InputError(f"atom {atom} is at {atoms.positions[atom].tolist()}; positions must be finite. Correct the file.")
    if not np.isfinite(atoms.cell.array).all():
        raise InputError(f"the cell is {atoms.cell.array.tolist()}; its entries must be finite. Correct the file.")
    if numbers.min() < 0 or numbers.max() >= len(default_masses):
        atom = int(np.flatnonzero((numbers < 0) | (numbers >= len(default_masses)))[0])
        raise InputError(f"atom {atom} has atomic number {numbers[atom]}; known are 0 to {len(default_masses) - 1}. Correct the file.")
    vectors = atoms.cell.array[atoms.pbc]
    lengths = np.linalg.norm(vectors, axis=1)
    if (lengths == 0).any() or not _independent(vectors / np.where(lengths > 0, lengths, 1)[:, None]):
        raise InputError(
            f"the cell {atoms.cell.array.tolist()} is periodic along {atoms.pbc.tolist()}; periodic vectors must be neither zero "
            "nor linearly dependent. Set the cell, or pbc to false where there is none."
        )
    if atoms.get_initial_magnetic_moments().ndim != 1:
        raise InputError("initial magnetic moments have three components; one per atom is supported. Reduce them to their lengths.")


def _independent(unit_vectors: Float[ndarray, "V 3"]) -> bool:
    return len(unit_vectors) == 0 or bool(np.linalg.svd(unit_vectors, compute_uv=False)[-1] > _FLAT)


def _full_stress(value: Any, key: str) -> Float[ndarray, "3 3"] | None:
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    if array.shape == (6,):
        return np.asarray(voigt_6_to_full_3x3_stress(array))
    if array.shape in ((3, 3), (9,)):
        return array.reshape(3, 3)
    raise InputError(f"{key} has shape {array.shape}; it must be (6,), (9,) or (3, 3). Correct the file or choose another key.")


def _total_charge(given: Any, charges: Any) -> int | None:
    if given is not None:
        if not isinstance(given, (int, float, np.integer, np.floating)) or given != round(given):
            raise InputError(f"info['charge'] is {given!r}; the charge of a structure is an integer. Correct or remove it.")
        return round(given)
    # Partial charges need not add up; only where they do, they say what the total is.
    total = None if charges is None else float(np.sum(charges))
    return None if total is None or not np.isfinite(total) or abs(total - round(total)) >= 1e-2 else round(total)
