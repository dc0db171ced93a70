"""Structures of an existing store: an inputs.zarr, a store.zarr with its final positions, or a store of nvalchemi-toolkit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from ase import Atoms

from campaign.constraints import constraints_from_fields
from campaign.fields import Level, decode_error
from campaign.outcomes import Outcome
from campaign.store import StoreReader
from campaign.structures.frame import Frame, Refusal, RefusalKind

BLOCK_SYSTEMS: Final = 1024
"""Systems that are read at a time."""

_NAMES: Final = (
    *("atomic_numbers", "positions", "cell", "pbc", "atomic_masses", "fixed", "symprec", "tags", "initial_charges", "initial_magmoms"),
    *("source", "frame", "info", "outcome", "error"),
)


def iter_store(target: str) -> Iterator[Frame]:
    """Yield the systems of a store in its order, positions as stored, so final ones of a published store.

    Where a structure came from before stays in its info under `origin`. Raises StoreError and its kin where the store cannot be read.
    """
    reader = StoreReader.open(target)
    per_atom = {field.name for field in reader.fields if field.level is Level.ATOM}
    present = {field.name for field in reader.fields}
    names = [name for name in _NAMES if name in present or name in _NAMES[:2]]
    for start in range(0, reader.n_systems, BLOCK_SYSTEMS):
        rows = np.arange(start, min(start + BLOCK_SYSTEMS, reader.n_systems))
        n_atoms, _ = reader.read_atoms("positions", rows)
        columns = reader.read(rows, names)
        begin = 0
        for at, count in enumerate(n_atoms.tolist()):
            own = slice(begin, begin + count)
            yield _frame(start + at, {name: values[own] if name in per_atom else values[at] for name, values in columns.items()})
            begin += count


def _frame(index: int, row: Mapping[str, Any]) -> Frame:
    cell = np.asarray(row.get("cell", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3)
    # A store without periodicity has a cell only where it means one.
    pbc = np.asarray(row.get("pbc", np.full(3, bool(cell.any())))).reshape(3)
    atoms: Any = Atoms(numbers=row["atomic_numbers"], positions=row["positions"], cell=cell, pbc=pbc, masses=row.get("atomic_masses"))
    for name, setter in (
        ("tags", atoms.set_tags),
        ("initial_charges", atoms.set_initial_charges),
        ("initial_magmoms", atoms.set_initial_magnetic_moments),
    ):
        if name in row and np.any(row[name]):
            setter(row[name])
    fixed, symprec = row.get("fixed"), row.get("symprec")
    atoms.set_constraint(
        constraints_from_fields(
            atoms, None if fixed is None else np.asarray(fixed, dtype=bool), 0.0 if symprec is None else float(symprec.item())
        )
    )
    atoms.info = {**json.loads(row["info"])} if row.get("info") else {}
    if "source" in row and "frame" in row:
        atoms.info["origin"] = {"source": row["source"], "frame": int(row["frame"].item())}
    if "outcome" in row and int(row["outcome"].item()) == Outcome.INVALID:
        reason = decode_error(bytes(row["error"])) if "error" in row else "no reason is stored"
        return Frame(index, atoms, Refusal(RefusalKind.REFUSED_EARLIER, f"refused in the campaign it comes from: {reason}"))
    return Frame(index, atoms)
