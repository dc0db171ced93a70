"""One row of a store as an `ase.Atoms`, with everything that ASE has a place for.

The results come back as a calculator that only remembers (energy, forces, stress), the fixed components as FixAtoms and FixCartesian, a
space group that was kept as FixSymmetry, and ASE's info as it was read. What a campaign adds stands in info too: `system_id`, `source`,
`frame`, `outcome`, and where there are some `error`, `n_steps`, `fmax`, `smax`, `volume_ratio`, `shortest_distance_ratio`, `n_fragments`,
`symprec`; a key that the input had already is kept as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses as default_masses
from ase.stress import full_3x3_to_voigt_6_stress

from campaign.constraints import constraints_from_fields
from campaign.errors import StoreDamagedError
from campaign.fields import decode_error
from campaign.outcomes import Outcome

_ADDED_NUMBERS: Final = ("system_id", "frame", "n_steps", "step", "fmax", "smax", "volume_ratio", "shortest_distance_ratio", "n_fragments")


def atoms_from_row(row: Mapping[str, Any]) -> Atoms:
    """Return the structure in `row`: fields by name, as one system of a store has them.

    Only atomic_numbers and positions must be there.

    Raises:
        StoreDamagedError: the info of the row is no JSON object.
        MissingDependencyError: its space group was kept, and spglib is not installed.

    >>> import numpy as np
    >>> atoms = atoms_from_row({"atomic_numbers": np.array([29]), "positions": np.zeros((1, 3)), "energy": np.array([-3.5])})
    >>> str(atoms.symbols), atoms.get_potential_energy()
    ('Cu', -3.5)
    """
    numbers = np.asarray(row["atomic_numbers"], np.int64)
    atoms = Atoms(numbers, np.asarray(row["positions"], np.float64), cell=row.get("cell"), pbc=row.get("pbc", False))
    masses = row.get("atomic_masses")
    if masses is not None and np.any(masses) and not np.array_equal(masses, default_masses[numbers]):
        atoms.set_masses(masses)
    if np.any(row.get("tags", 0)):
        atoms.set_tags(row["tags"])
    if np.any(row.get("initial_charges", 0)):
        atoms.set_initial_charges(row["initial_charges"])
    if np.any(row.get("initial_magmoms", 0)):
        atoms.set_initial_magnetic_moments(row["initial_magmoms"])
    fixed = row.get("fixed")
    atoms.set_constraint(constraints_from_fields(atoms, None if fixed is None else np.asarray(fixed, bool), _scalar(row, "symprec") or 0.0))
    atoms.info = {**_added_info(row), **parse_info(row.get("info", ""), _scalar(row, "system_id"))}
    _attach_results(atoms, row)
    return atoms


def parse_info(text: Any, system_id: Any = None) -> dict[str, Any]:
    """Return ASE's info from the JSON that a store holds; nothing where it holds nothing.

    Raises:
        StoreDamagedError: the text is no JSON object.
    """
    if not text:
        return {}
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise StoreDamagedError(
            f"the info of system {system_id} is no JSON object but begins with {str(text)[:40]!r}; ASE's info is stored as one. Run "
            "`campaign verify`, and consolidate again from the shards."
        )
    return info


def _added_info(row: Mapping[str, Any]) -> dict[str, Any]:
    added: dict[str, Any] = {name: value for name in _ADDED_NUMBERS if (value := _scalar(row, name)) is not None and value == value}
    if (symprec := _scalar(row, "symprec") or 0.0) > 0:
        added["symprec"] = symprec
    if row.get("source"):
        added["source"] = str(row["source"])
    if (outcome := _scalar(row, "outcome")) is not None and outcome in set(Outcome):
        added["outcome"] = Outcome(outcome).label
    if row.get("error") is not None and (error := decode_error(np.asarray(row["error"], np.uint8).tobytes())):
        added["error"] = error
    return added


def _attach_results(atoms: Atoms, row: Mapping[str, Any]) -> None:
    results: dict[str, Any] = {}
    energy = _scalar(row, "energy")
    if energy is not None and np.isfinite(energy):
        results["energy"] = energy
    if results and row.get("forces") is not None:
        results["forces"] = np.array(row["forces"], np.float64)
    if results and row.get("stress") is not None and atoms.pbc.any() and atoms.cell.rank == 3:
        results["stress"] = full_3x3_to_voigt_6_stress(np.array(row["stress"], np.float64))
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)


def _scalar(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    return None if value is None else np.asarray(value).reshape(-1)[0].item()
