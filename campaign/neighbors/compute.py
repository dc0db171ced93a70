"""Neighbour lists onto a batch: once for a single evaluation, or from rows that somebody keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from campaign.data import Batch
from campaign.errors import ContractError
from campaign.neighbors.rows import NeighborRows, edges_of
from campaign.neighbors.verlet import VerletList

if TYPE_CHECKING:
    from enum import Enum

__all__ = ["compute_neighbors", "write_rows"]


def compute_neighbors(
    batch: Batch,
    cutoff: float | None = None,
    *,
    config: Any = None,
    format: Enum | str = "matrix",
    max_neighbors: int | None = None,
    half_list: bool = False,
) -> None:
    """Put a neighbour list onto a batch, for one evaluation of a model; for many use `NeighborListHook`.

    Args:
        batch: gets `neighbor_matrix`, `num_neighbors` and `neighbor_matrix_shifts`, or `neighbor_list` and `neighbor_list_shifts`.
        cutoff: Å; pairs up to a rounding error further apart may be listed, so a model tests distances.
        config: a model's `neighbor_config`, which stands for cutoff, format and half_list.
        format: "matrix" or "coo", or the member of `NeighborListFormat`.
        max_neighbors: least width of the matrix; it is made as wide as needed.
        half_list: list each pair once.

    Raises:
        ContractError: neither a cutoff nor a config is given.
        NeighborListError: a system's list would be endless or larger than memory.

    >>> import torch
    >>> from campaign.data import AtomicData
    >>> pair = AtomicData(positions=torch.tensor([[0.0, 0, 0], [2.0, 0, 0]]), atomic_numbers=torch.tensor([18, 18]))
    >>> batch = Batch.from_data_list([pair])
    >>> compute_neighbors(batch, cutoff=3.0)
    >>> batch.num_neighbors.tolist()
    [1, 1]
    """
    if config is not None:
        cutoff, format, half_list = config.cutoff, config.format, config.half_list
    if cutoff is None:
        raise ContractError("compute_neighbors was called without a cutoff; it needs one, or the neighbor_config of a model. Pass either.")
    kept = VerletList(cutoff, half=half_list, width=max_neighbors)
    kept.update(batch)
    write_rows(batch, kept.rows, is_coo(format))


def is_coo(format: Enum | str) -> bool:
    """Return whether a format is the list of edges.

    Raises:
        ContractError: it is no format.
    """
    name = str(getattr(format, "value", format))
    if name not in ("coo", "matrix"):
        raise ContractError(f"{format!r} is no format of neighbour lists; 'coo' and 'matrix' are. Choose one.")
    return name == "coo"


def write_rows(batch: Batch, rows: NeighborRows | None, coo: bool) -> None:
    """Put rows onto a batch, the matrix itself or the edges made of it."""
    if rows is None:
        raise ContractError("there are no rows to put onto the batch; a VerletList has some after its first update. Call update first.")
    if coo:
        n_edges, pairs, shifts = edges_of(rows, batch.atom_segments)
        batch.replace_edges(n_edges, {"neighbor_list": pairs, "neighbor_list_shifts": shifts})
        return
    batch["neighbor_matrix"] = rows.matrix
    batch["num_neighbors"] = rows.counts
    batch["neighbor_matrix_shifts"] = rows.all_shifts
