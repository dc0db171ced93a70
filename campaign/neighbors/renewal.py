"""Rows made anew on the device, for the systems that need it, while the host goes on; see `verlet.py`."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from campaign.data import Segments
from campaign.data.tally import LaggedTally
from campaign.data.warp_interop import PRECISIONS, BoundLaunch, precision_of
from campaign.neighbors.renewal_kernels import inspect_kernel, settle_kernel
from campaign.neighbors.rows import NeighborRows
from campaign.neighbors.search_kernel import search_kernel
from campaign.neighbors.skin import Reference, search_radius

__all__ = ["Renewal"]

_UNLISTED: Final = 0
_MADE: Final = 1


class Renewal:
    """Renews the rows of a batch whose systems stay, in place, and says later whether some did not fit.

    Args:
        cutoff: Å.
        skin: Å.
        half: whether a pair is in one row only.
        device: where the batch is.
    """

    unlisted: Bool[Tensor, " N"]
    """Systems whose rows did not fit."""

    def __init__(self, cutoff: float, skin: float, half: bool, device: torch.device) -> None:
        self._cutoff, self._skin, self._half = cutoff, skin, half
        self._tally = LaggedTally(2, device)
        # A launch knows its arguments by their identity, so numbers are kept too.
        self._radii = {dtype: search_radius(cutoff, skin, dtype) for dtype in PRECISIONS}
        self._launches: dict[torch.dtype, tuple[BoundLaunch, BoundLaunch, BoundLaunch]] = {}

    def begin(self, atoms: Segments) -> None:
        """Begin with a batch of these systems, all of whose rows are complete."""
        n, device = atoms.n_segments, atoms.device
        self._duals = torch.zeros((n, 3, 3), dtype=torch.float64, device=device)
        self._reach = torch.zeros((n, 3), dtype=torch.float64, device=device)
        self._state = torch.zeros(n, dtype=torch.int32, device=device)
        self._wanted = torch.zeros(n, dtype=torch.bool, device=device)
        self.unlisted = torch.zeros(n, dtype=torch.bool, device=device)
        self._n_atoms = atoms.n_rows
        self._tally.forget()

    def has_failed(self) -> bool:
        """Return whether it is known that some rows did not fit."""
        return bool(self._tally.read()[_UNLISTED])

    def n_made(self) -> int:
        """Return how many systems got new rows since `begin`; this waits for the device."""
        return int(self._tally.counts[_MADE])

    def run(
        self,
        positions: Float[Tensor, "A 3"],
        vectors: Float64[Tensor, "N 3 3"],
        pbc: Bool[Tensor, "N 3"],
        atoms: Segments,
        rows: NeighborRows,
        reference: Reference,
    ) -> None:
        """Queue the renewal; `rows`, `reference` and `unlisted` are written in place."""
        precision, device = precision_of(positions.dtype), atoms.device
        if positions.dtype not in self._launches:
            kernels = inspect_kernel(precision), search_kernel(precision), settle_kernel(precision)
            first, second, third = (BoundLaunch(kernel, device) for kernel in kernels)
            self._launches[positions.dtype] = first, second, third
        inspect, search, settle = self._launches[positions.dtype]
        radius = self._radii[positions.dtype]
        cells = self._duals, self._reach, self._state
        then = reference.vectors, reference.duals, reference.pbc
        lists = rows.matrix, rows.shifts, rows.counts
        ptr, n, half, wanted = atoms.batch_ptr, atoms.n_segments, int(self._half), self._wanted
        limits = self._cutoff, self._skin, radius, int(rows.has_shifts)
        inspect.run(n, [positions, reference.positions, ptr, vectors, pbc, *then, *limits, *cells, wanted, self.unlisted])
        # A thread for each atom.
        owner, how = atoms.batch_idx, (radius, half, 0, self._n_atoms)
        search.run(self._n_atoms, [owner, ptr, wanted, positions, vectors, *cells, *how, *lists])
        now = positions, vectors, pbc, self._duals, self._n_atoms
        settle.run(n, [wanted, self.unlisted, ptr, *now, *lists, reference.positions, *then, self._tally.counts])
        self._tally.post()
