"""The parts of a `Batch` from structures or from concatenated columns, and a structure from a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from campaign.data.atomic_data import AtomicData
from campaign.data.levels import EDGE_INDEX_KEYS, KEYS, declared_level
from campaign.data.segments import Segments
from campaign.errors import BatchError
from campaign.fields import Level

if TYPE_CHECKING:
    from campaign.data.batch import Batch

__all__ = ["Parts", "concatenate_values", "from_arrays", "from_data_list", "one_system"]

Parts = tuple[dict[str, Tensor], dict[str, Level], Segments, Segments | None]
"""Tensors, their levels, whose the atoms are, whose the edges are."""


def from_data_list(
    data_list: Sequence[AtomicData], device: torch.device | None, excluded: frozenset[str], levels_given: Mapping[str, Level]
) -> Parts:
    """Return the parts of a batch of structures.

    Raises:
        BatchError: see `Batch.from_data_list`.
    """
    if not data_list:
        raise BatchError("a batch was made from an empty list; it needs at least one structure. Use Batch.empty for a batch of none.")
    first = data_list[0]
    device = first.device if device is None else device
    n_atoms = np.array([data.num_nodes for data in data_list], dtype=np.int64)
    n_edges = np.array([data.num_edges for data in data_list], dtype=np.int64)
    atoms = Segments(n_atoms, device)
    columns = [data.to_dict() for data in data_list]
    _give_cells(columns, first)
    keys = [key for key in columns[0] if key not in excluded]
    _refuse_different_keys(columns, set(keys), excluded)
    tensors: dict[str, Tensor] = {}
    levels: dict[str, Level] = {}
    for key in keys:
        level = first.level_of(key) or levels_given.get(key)
        if level is None:
            raise BatchError(
                f"nothing says whether {key!r} is per atom, edge or system; shapes do not. Add it with add_node_property or its siblings, "
                "name its level in field_levels, or exclude it."
            )
        rows = [column[key] for column in columns]
        if key in EDGE_INDEX_KEYS:
            rows = [row + start for row, start in zip(rows, atoms.ptr[:-1].tolist(), strict=True)]
        elif key == "neighbor_matrix":
            starts, counts = atoms.ptr[:-1].tolist(), n_atoms.tolist()
            rows = [
                torch.where(row == n, atoms.n_rows, row + start).to(row.dtype) for row, start, n in zip(rows, starts, counts, strict=True)
            ]
        tensors[key] = concatenate_values(rows, level, device, key)
        levels[key] = level
    return tensors, levels, atoms, Segments(n_edges, device)


def concatenate_values(values: Sequence[Tensor], level: Level, device: torch.device, key: str = "the key") -> Tensor:
    """Return the rows of all systems as one tensor; a value per system may lack its leading dimension of 1.

    Raises:
        BatchError: the values differ in more than their number of rows.
    """
    if level is Level.SYSTEM:
        values = [value if value.ndim and value.shape[0] == 1 else value.unsqueeze(0) for value in values]
    try:
        return torch.cat([value.to(device) for value in values])
    except RuntimeError as error:
        shapes = sorted({tuple(value.shape[1:]) for value in values})
        raise BatchError(f"{key} has rows of shapes {shapes}; in one batch they are all alike. Exclude the key or pad its rows.") from error


def _give_cells(columns: list[dict[str, Tensor]], first: AtomicData) -> None:
    # A structure without a cell is one with a zero cell: that is what the fields mean, so mixing the two kinds loses nothing.
    for key, shape in (("cell", (1, 3, 3)), ("pbc", (1, 3))):
        if any(key in column for column in columns):
            dtype = first.dtype if key == "cell" else torch.bool
            for column in columns:
                column.setdefault(key, torch.zeros(shape, dtype=dtype, device=column["positions"].device))


def _refuse_different_keys(columns: list[dict[str, Tensor]], keys: set[str], excluded: frozenset[str]) -> None:
    for position, column in enumerate(columns):
        different = keys.symmetric_difference(set(column) - excluded)
        if different:
            raise BatchError(
                f"structures 0 and {position} do not have the same properties: {', '.join(sorted(different))} is in one of them only. "
                "Give it to all or name it in exclude_keys."
            )


def from_arrays(
    n_atoms: ndarray[Any, Any] | Tensor | Sequence[int],
    atom: Mapping[str, ndarray[Any, Any] | Tensor],
    system: Mapping[str, ndarray[Any, Any] | Tensor],
    device: torch.device,
    dtype: torch.dtype | None,
) -> Parts:
    """Return the parts of a batch from concatenated columns.

    Raises:
        BatchError: see `Batch.from_arrays`.
    """
    lengths = np.array(n_atoms.cpu().numpy() if isinstance(n_atoms, Tensor) else n_atoms, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any():
        raise BatchError(f"n_atoms is {lengths.tolist()}; it must be one number per system, none negative. Correct it.")
    atoms = Segments(lengths, device)
    tensors: dict[str, Tensor] = {}
    levels: dict[str, Level] = {}
    for level, columns, n_rows in ((Level.ATOM, atom, atoms.n_rows), (Level.SYSTEM, system, atoms.n_segments)):
        for key, column in columns.items():
            tensor = column.to(device) if isinstance(column, Tensor) else torch.tensor(column).to(device)
            if dtype is not None and tensor.is_floating_point():
                tensor = tensor.to(dtype)
            complaint = _complaint(key, tensor, level, n_rows)
            if complaint:
                raise BatchError(f"Batch.from_arrays: {complaint}. Correct the column.")
            tensors[key] = tensor
            levels[key] = level
    return tensors, levels, atoms, None


def _complaint(key: str, tensor: Tensor, level: Level, n_rows: int) -> str | None:
    if declared_level(key) not in (None, level):
        return f"{key} is declared per {declared_level(key)} and was given per {level}"
    if key in KEYS:
        return KEYS[key].complaint(key, tuple(tensor.shape), tensor.dtype, n_rows)
    if tensor.ndim == 0 or len(tensor) != n_rows:
        return f"{key} has shape {tuple(tensor.shape)}; it must have {n_rows} rows"
    return None


def one_system(batch: Batch, system: int) -> AtomicData:
    """Return a system of a batch as a structure whose tensors are views."""
    rows = {
        Level.ATOM: slice(int(batch.atom_segments.ptr[system]), int(batch.atom_segments.ptr[system + 1])),
        Level.EDGE: slice(int(batch.edge_segments.ptr[system]), int(batch.edge_segments.ptr[system + 1])),
        Level.SYSTEM: slice(system, system + 1),
    }
    start, n_atoms = rows[Level.ATOM].start, rows[Level.ATOM].stop - rows[Level.ATOM].start
    properties: dict[str, Tensor] = {}
    custom: dict[str, Level] = {}
    for key, tensor in batch:
        level = batch.level_of(key)
        value = tensor[rows[level]]
        if key in EDGE_INDEX_KEYS:
            value = value - start
        elif key == "neighbor_matrix":
            value = torch.where(value == batch.num_nodes, n_atoms, value - start).to(value.dtype)
        properties[key] = value
        if declared_level(key) is None:
            custom[key] = level
    data = AtomicData(**properties)  # type: ignore[arg-type]
    data._levels.update(custom)
    return data
