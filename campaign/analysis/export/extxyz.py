"""One structure as a frame of extended xyz, without loss: every digit of a number, any text, nested info.

ASE's writer rounds positions to 1e-8 Å, which changes forces, and breaks on text with a newline or a backslash. The frames below are read
by ASE and by whoever follows https://github.com/libAtoms/extxyz; what that format has no word for stands as `_JSON …`, as ASE writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, FixCartesian
from ase.data import atomic_masses, chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

_BARE_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_BOOLEANS: Final = frozenset({"T", "F", "true", "false", "True", "False", "TRUE", "FALSE"})
_TAKEN: Final = frozenset({"Lattice", "Properties", "pbc", "virial", *all_properties})


def frame_text(atoms: Atoms) -> str:
    """Return the lines of a structure: number of atoms, comment, atoms.

    Energy, forces and stress come from a calculator that has them; keys of info that the format reserves get the prefix `info_`.

    >>> print(frame_text(Atoms("Cu", info={"name": "a b"})), end="")
    1
    Properties=species:S:1:pos:R:3 pbc="F F F" name="a b"
    Cu 0.0 0.0 0.0
    """
    results: Mapping[str, Any] = getattr(atoms.calc, "results", None) or {}
    names, columns = _columns(atoms, results)
    parts = []
    if atoms.cell.array.any():
        parts.append(f'Lattice="{_numbers(atoms.cell.array)}"')
    parts.append(f"Properties={':'.join(names)}")
    parts.append('pbc="{} {} {}"'.format(*("T" if flag else "F" for flag in atoms.pbc)))
    if "energy" in results:
        parts.append(f"energy={float(results['energy'])!r}")
    if "stress" in results:
        parts.append(f'stress="{_numbers(voigt_6_to_full_3x3_stress(results["stress"]))}"')
    for key, value in atoms.info.items():
        name = f"info_{key}" if key in _TAKEN or str(key).lower() == "uid" else str(key)
        parts.append(f"{_key(name)}={_value(value)}")
    rows = "".join(" ".join(row) + "\n" for row in zip(*columns, strict=True))
    return f"{len(atoms)}\n{' '.join(parts)}\n{rows}"


def _columns(atoms: Atoms, results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    names = ["species:S:1", "pos:R:3"]
    columns = [[chemical_symbols[number] for number in atoms.numbers], *_real_columns(atoms.positions)]
    if "forces" in results:
        names.append("forces:R:3")
        columns += _real_columns(results["forces"])
    if atoms.has("masses") and not np.array_equal(atoms.get_masses(), atomic_masses[atoms.numbers]):
        names.append("masses:R:1")
        columns += _real_columns(atoms.get_masses()[:, None])
    if atoms.has("tags"):
        names.append("tags:I:1")
        columns.append([str(tag) for tag in atoms.get_tags().tolist()])
    for name in ("initial_charges", "initial_magmoms"):
        if atoms.has(name):
            names.append(f"{name}:R:1")
            columns += _real_columns(atoms.arrays[name].reshape(len(atoms), 1))
    free = _free_mask(atoms)
    if not free.all():
        names.append("move_mask:L:3")
        columns += [["T" if flag else "F" for flag in column] for column in free.T]
    return names, columns


def _free_mask(atoms: Atoms) -> np.ndarray[Any, np.dtype[np.bool_]]:
    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
    return free


def _real_columns(values: Any) -> list[list[str]]:
    return [[repr(value) for value in column] for column in np.asarray(values, dtype=np.float64).T.tolist()]


def _numbers(values: Any) -> str:
    return " ".join(repr(value) for value in np.asarray(values, dtype=np.float64).ravel().tolist())


def _key(key: str) -> str:
    if _BARE_KEY.fullmatch(key):
        return key
    # A key has no way to hold a line break.
    return _quote("".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in key) or "_")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str) and _is_plain(value):
        return _quote(value)
    if isinstance(value, list) and len(value) > 1 and all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
        return _quote(" ".join(repr(item) for item in value))
    return _quote(f"_JSON {json.dumps(value)}")


def _is_plain(text: str) -> bool:
    """Tell whether readers take the text for itself: not for numbers, booleans, or nothing at all."""
    words = re.findall(r"[^\s,]+", text)
    if not words or not text.isprintable() or text.startswith("_JSON "):
        return False
    return not (all(_is_number(word) for word in words) or all(word in _BOOLEANS for word in words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
