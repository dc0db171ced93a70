"""What a key of a structure or batch is: its level, the shape of a row and the kind of number, all by declaration.

`fields.py` declares what stores can hold; what the dynamics contract knows beyond that (properties that models return, neighbour data)
is declared here. A tensor's shape is checked against this and never decides it: with as many atoms as systems it could not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch

from campaign.errors import BatchError
from campaign.fields import FIELDS, Field, Level

__all__ = ["EDGE_INDEX_KEYS", "KEYS", "LEVEL_NAMES", "BatchKey", "declared_level", "parse_level"]

Kind = Literal["float", "integer", "bool", "number"]


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Level, shape of a row (None: any length) and kind of one key."""

    level: Level
    trailing: tuple[int | None, ...]
    kind: Kind

    def complaint(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, n_rows: int | None = None) -> str | None:
        """Return what is wrong with a tensor of this shape and dtype under this key, in words, or None."""
        row = shape[1:]
        matches = len(row) == len(self.trailing) and all(want in (None, got) for want, got in zip(self.trailing, row, strict=False))
        if not shape or not matches or (n_rows is not None and shape[0] != n_rows):
            count = {Level.ATOM: "atoms", Level.EDGE: "edges", Level.SYSTEM: "systems"}[self.level]
            wanted = ", ".join(
                [count if n_rows is None else f"{n_rows} {count}", *("any" if want is None else str(want) for want in self.trailing)]
            )
            return f"{name} has shape {shape}; it must be ({wanted})"
        if not _is_kind(dtype, self.kind):
            return f"{name} has dtype {dtype}; it must be {self.kind}"
        return None


def _is_kind(dtype: torch.dtype, kind: Kind) -> bool:
    is_integer = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    return {"float": dtype.is_floating_point, "integer": is_integer, "bool": dtype == torch.bool, "number": dtype != torch.bool}[kind]


def _from_field(field: Field) -> BatchKey:
    kind: Kind = "float" if field.dtype.startswith("float") else "bool" if field.dtype == "bool" else "integer"
    return BatchKey(field.level, field.trailing, kind)


_A, _E, _S = Level.ATOM, Level.EDGE, Level.SYSTEM

KEYS: Final[dict[str, BatchKey]] = {
    **{field.name: _from_field(field) for field in FIELDS.values() if field.dtype != "string"},
    # per atom
    "charges": BatchKey(_A, (), "float"),
    "momenta": BatchKey(_A, (3,), "float"),
    "kinetic_energies": BatchKey(_A, (1,), "float"),
    "node_attrs": BatchKey(_A, (None,), "float"),
    "node_embeddings": BatchKey(_A, (None,), "float"),
    "node_alpha_spins": BatchKey(_A, (1,), "float"),
    "node_beta_spins": BatchKey(_A, (1,), "float"),
    "neighbor_matrix": BatchKey(_A, (None,), "integer"),
    "neighbor_matrix_shifts": BatchKey(_A, (None, 3), "number"),
    "num_neighbors": BatchKey(_A, (), "integer"),
    # per edge
    "neighbor_list": BatchKey(_E, (2,), "integer"),
    "neighbor_list_shifts": BatchKey(_E, (3,), "number"),
    "shifts": BatchKey(_E, (3,), "float"),
    "edge_embeddings": BatchKey(_E, (None,), "float"),
    # per system
    "virial": BatchKey(_S, (3, 3), "float"),
    "dipole": BatchKey(_S, (3,), "float"),
    "charge": BatchKey(_S, (1,), "float"),
    "spin": BatchKey(_S, (1,), "float"),
    "graph_alpha_spins": BatchKey(_S, (1,), "float"),
    "graph_embeddings": BatchKey(_S, (None,), "float"),
}
"""Every declared key of a structure or batch."""

EDGE_INDEX_KEYS: Final = frozenset({"neighbor_list"})
"""Edge level keys whose values are atoms, counted through the batch."""

LEVEL_NAMES: Final[dict[Level, str]] = {Level.ATOM: "node", Level.EDGE: "edge", Level.SYSTEM: "system"}
"""What the dynamics contract calls the levels."""

_LEVELS: Final[dict[str, Level]] = {name: level for level in Level for name in (level.value, LEVEL_NAMES[level])}


def declared_level(name: str) -> Level | None:
    """Return the level a key is declared to have, or None for a key that nobody declared.

    >>> declared_level("forces").value
    'atom'
    """
    key = KEYS.get(name)
    return None if key is None else key.level


def parse_level(name: str | Level) -> Level:
    """Return the level called `name`; both "atom" and the contract's "node" are understood.

    Raises:
        BatchError: no level is called that.
    """
    try:
        return _LEVELS[str(name)]
    except KeyError:
        raise BatchError(f"{name!r} is no level; levels are {', '.join(map(repr, _LEVELS))}. Give one of them.") from None
