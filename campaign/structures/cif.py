"""Structures of a CIF file, block by block, with the faults that ASE's reader passes over.

ASE takes the most abundant element of a shared site, keeps one of two atoms on one spot, drops a row with the wrong number of columns, and
reads `CU` as carbon; none of that may happen to an input that somebody pays GPU-hours for. So the block is checked before and
after ASE builds the atoms, its composition against `_chemical_formula_sum` too: a file cut at the end of a line shows in no other way.
Format: https://www.iucr.org/resources/cif/spec/version1.1/cifsyntax.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ase.data import atomic_numbers
from ase.io.cif import parse_cif

from campaign.structures.frame import Frame, Refusal, RefusalKind, describe_error, refused

OCCUPANCY_TOLERANCE: Final = 1e-3
"""An occupancy this close to 1 is written with rounding, not meant to be partial."""

_BLOCK: Final = re.compile(r"data_", re.IGNORECASE)
_FORMULA_PART: Final = re.compile(r"([A-Z][a-z]?)([0-9]*\.?[0-9]*)")
_STRUCTURE_TAGS: Final = ("_cell_length_a", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_cartn_x")
_LOST_DATA: Final = ("Wrong number", "Duplicated loop tags", "Badly formed")


def iter_cif(data: bytes) -> Iterator[Frame]:
    """Yield one frame for each block of a CIF file that means to hold a structure; at least one frame in all.

    >>> [frame.refusal.kind.value for frame in iter_cif(b"data_x\\n_cell_length_a 3.6\\n")]
    ['truncated']
    """
    index = 0
    for block in split_blocks(data.decode("latin-1")):
        frame = _read_block(block, index)
        if frame is not None:
            yield frame
            index += 1
    if index == 0:
        yield refused(0, RefusalKind.MALFORMED, "no data block of the file has a cell or atom sites; is it a CIF file of a structure?")


def split_blocks(text: str) -> list[str]:
    """Cut CIF text in front of each `data_` line that is not inside a multi-line string.

    >>> split_blocks("data_a\\n;\\ndata_no\\n;\\ndata_b\\n")
    ['data_a\\n;\\ndata_no\\n;\\n', 'data_b\\n']
    """
    blocks: list[list[str]] = [[]]
    quoted = False
    for line in text.splitlines(keepends=True):
        if line.startswith(";"):
            quoted = not quoted
        if not quoted and _BLOCK.match(line.lstrip()):
            blocks.append([])
        blocks[-1].append(line)
    return ["".join(block) for block in blocks if "".join(block).strip() and _BLOCK.match("".join(block).lstrip())] or [text]


def _read_block(text: str, index: int) -> Frame | None:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            block = next(iter(parse_cif(io.StringIO(text))))
            if not any(tag in block for tag in _STRUCTURE_TAGS):
                return None
            refusal = _refuse_tags(block)
            if refusal is None:
                # Occupancies are all 1 here; leaving them out makes ASE warn about two sites on one spot.
                atoms: Any = block.get_atoms(fractional_occupancies=False)
    except Exception as error:  # IndexError at the end of a string, AssertionError for a cell, ... : ASE's reader has no error of its own
        if not any(tag in text.lower() for tag in _STRUCTURE_TAGS):
            return None
        kind = RefusalKind.TRUNCATED if isinstance(error, RuntimeError | IndexError) else RefusalKind.MALFORMED
        return refused(index, kind, f"ASE's CIF reader stops with {describe_error(error)}; mend the file")
    refusal = refusal or _refuse_warnings([str(item.message) for item in caught])
    if refusal is not None:
        return Frame(index, None, refusal)
    if "spacegroup" in atoms.info:
        atoms.info["spacegroup"] = atoms.info["spacegroup"].symbol
    refusal = _refuse_composition(block, Counter(atoms.get_chemical_symbols()))
    return Frame(index, atoms, refusal)


def _refuse_tags(block: Mapping[str, Any]) -> Refusal | None:
    if not block.has_structure():  # type: ignore[attr-defined]
        return Refusal(RefusalKind.TRUNCATED, "the block has a cell but no atom sites with coordinates; the file may be cut off")
    occupancies = _column(block, "_atom_site_occupancy")
    for number, occupancy in enumerate(occupancies, 1):
        if isinstance(occupancy, int | float) and abs(occupancy - 1) > OCCUPANCY_TOLERANCE:
            text = f"site {number} has occupancy {occupancy:g}; only full sites can be relaxed: make an ordered structure of it"
            return Refusal(RefusalKind.PARTIAL_OCCUPANCY, text)
        if isinstance(occupancy, str) and occupancy not in {".", "?"}:
            return Refusal(RefusalKind.MALFORMED, f"site {number} has occupancy {occupancy[:20]!r}, which is no number")
    for number, group in enumerate(_column(block, "_atom_site_disorder_group"), 1):
        if str(group).strip() not in {".", "?", "", "0"}:
            text = f"site {number} belongs to disorder group {str(group)[:20]!r}; only one ordered arrangement can be relaxed"
            return Refusal(RefusalKind.PARTIAL_OCCUPANCY, text)
    return _refuse_symbols(block)


def _refuse_symbols(block: Mapping[str, Any]) -> Refusal | None:
    labels = _column(block, "_atom_site_type_symbol") or _column(block, "_atom_site_label")
    for number, (label, symbol) in enumerate(zip(labels, block.get_symbols(), strict=True), 1):  # type: ignore[attr-defined]
        letters = re.match(r"\s*([A-Za-z]{1,2})", str(label))
        meant = letters.group(1).capitalize() if letters else "?"
        if meant not in {symbol, "D"} and (meant in atomic_numbers or symbol not in atomic_numbers):
            text = f"site {number}: {str(label)[:20]!r} could be {meant} or {symbol}; write the element as in {meant}"
            return Refusal(RefusalKind.MALFORMED, text)
    return None


def _refuse_warnings(messages: list[str]) -> Refusal | None:
    for message in messages:
        if "are equivalent" in message:
            return Refusal(RefusalKind.OVERLAP, f"by symmetry {' '.join(message.split())}: two atoms on one spot; remove one")
        if any(part in message for part in _LOST_DATA):
            return Refusal(RefusalKind.MALFORMED, f"ASE's CIF reader leaves data out: {' '.join(message.split())[:100]}; mend the file")
    return None


def _refuse_composition(block: Mapping[str, Any], seen: Counter[str]) -> Refusal | None:
    """Compare the atoms with the formula: they must be a whole number of formula units."""
    formula = parse_formula(str(block.get("_chemical_formula_sum", "")))
    if not formula:
        return None
    seen = Counter({"H" if symbol == "D" else symbol: count for symbol, count in seen.items()})
    units = {seen[symbol] / count for symbol, count in formula.items()}
    n_units = max(units)
    whole = abs(n_units - round(n_units)) < 1e-3 and round(n_units) >= 1
    if seen.keys() == formula.keys() and max(units) - min(units) < 1e-3 and whole:
        return None
    found = " ".join(f"{symbol}{count}" for symbol, count in sorted(seen.items()))
    given = " ".join(f"{symbol}{count:g}" for symbol, count in sorted(formula.items()))
    text = f"the sites give {found[:50]}, _chemical_formula_sum says {given[:50]}; the file may be cut off"
    return Refusal(RefusalKind.TRUNCATED, text)


def parse_formula(text: str) -> dict[str, float]:
    """Return atoms by element of a CIF formula such as `C2 H6 O`; deuterium counts as H; empty where it cannot be read.

    >>> parse_formula("'Cu3 Au'")
    {'Cu': 3.0, 'Au': 1.0}
    """
    counts: dict[str, float] = {}
    for part in text.strip().strip("'\"").split():
        match = _FORMULA_PART.fullmatch(part)
        if match is None or (match.group(1) not in atomic_numbers and match.group(1) != "D"):
            return {}
        symbol = "H" if match.group(1) == "D" else match.group(1)
        counts[symbol] = counts.get(symbol, 0.0) + (float(match.group(2)) if match.group(2) not in {"", "."} else 1.0)
    return {symbol: count for symbol, count in counts.items() if count > 0}


def _column(block: Mapping[str, Any], tag: str) -> list[Any]:
    values = block.get(tag)
    if values is None:
        return []
    return list(values) if isinstance(values, list) else [values]
