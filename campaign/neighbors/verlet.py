"""A neighbour list that is kept while it is complete: rows are made anew for those systems only that need it.

Which systems need it is known on the device. On a CPU that is also where the host looks. On a GPU looking would stop the host in each step,
so whoever can leave systems alone (`may_lag`) lets it be done there: three kernels find the systems, make their rows, and note those whose
rows did not fit as `unlisted`. Such a system has nothing listed but itself, so that a model gives NaN for it and nobody takes its numbers
for good; it stays where it is until the host has heard of it, a step or two later, and made room. So no bit of a result depends on the
lag. Where a system is large its rows come from a library that waits for the device itself, and then the host looks in each step.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from numpy import ndarray
from torch import Tensor

from campaign.data import Batch, Segments
from campaign.data.tally import runs_behind
from campaign.neighbors.cells import measure_cells
from campaign.neighbors.renewal import Renewal
from campaign.neighbors.rows import NeighborRows, copy_rows, create_rows
from campaign.neighbors.search import LARGE_SYSTEM, fill_rows, make_rows, roomy_width
from campaign.neighbors.skin import Reference, outgrown_systems, search_radius

__all__ = ["VerletList"]


class VerletList:
    """Rows within `cutoff + skin` (Å) of the systems of a batch, followed through steps and through systems that come and go.

    Systems are recognised by `system_id`; without it, any change of membership makes all rows anew. Recognition cannot go wrong: rows are
    only kept where the geometry says that they are complete (`skin.py`). With a skin of 0 they are made anew whenever anything moved.

    `rows` is None before the first `update`; `n_made` counts systems whose rows were made, over all updates. Rows start `width` wide, or as
    wide as is needed, and grow. Whoever sets `may_lag` neither moves nor judges the systems in `unlisted`.
    """

    def __init__(self, cutoff: float, skin: float = 0.0, half: bool = False, width: int | None = None) -> None:
        self.cutoff = cutoff
        self.skin = skin
        self.half = half
        self.width = width
        self.rows: NeighborRows | None = None
        self.may_lag = False
        """Whether rows that do not fit may be made a step or two later."""
        self._n_made = 0
        self._lags = False
        self._renewal: Renewal | None = None
        self._atoms: Segments | None = None
        self._ids: Int64[ndarray, " N"] | None = None
        self.reference: Reference | None = None
        """Where systems were when their rows were made."""

    @property
    def n_made(self) -> int:
        """Systems whose rows were made; where the host lags, asking waits for the device."""
        return self._n_made + (self._renewal.n_made() if self._lags and self._renewal is not None else 0)

    @property
    def unlisted(self) -> Bool[Tensor, " N"] | None:
        """Systems of the last batch that wait for their rows, on the device; None where nobody ever waits."""
        return self._renewal.unlisted if self._lags and self._renewal is not None else None

    def update(self, batch: Batch) -> bool:
        """Bring `rows` up to date with a batch; return whether they are others than before.

        Raises:
            NeighborListError: a system's list would be endless or larger than memory.
        """
        if self._atoms is batch.atom_segments:
            if self._is_renewed(batch):
                return False
            stale = self._outgrown(batch)
            if not bool(stale.any()):
                return False
            self._make_some(batch, stale)
        else:
            self._stop_lagging()
            source = self._recognise(batch)
            if source is None:
                self._make_all(batch)
            else:
                self._follow(batch, source)
                self._make_some(batch, self._outgrown(batch) | torch.from_numpy(source < 0).to(batch.device))
        self._begin_to_lag(batch)
        return True

    def _begin_to_lag(self, batch: Batch) -> None:
        atoms, device = batch.atom_segments, batch.device
        self._lags = self.may_lag and runs_behind(device) and int(atoms.lengths.max(initial=LARGE_SYSTEM - 1)) < LARGE_SYSTEM
        if self._lags:
            if self._renewal is None:
                self._renewal = Renewal(self.cutoff, self.skin, self.half, device)
            self._renewal.begin(atoms)

    def _is_renewed(self, batch: Batch) -> bool:
        """Have the device bring rows up to date, unless the host has to: on a CPU always, elsewhere if it is known that some do not fit."""
        rows, reference, renewal = self.rows, self.reference, self._renewal
        if not self._lags or rows is None or reference is None or renewal is None:
            return False
        positions, vectors, pbc = _geometry(batch)
        if reference.positions.dtype != positions.dtype or renewal.has_failed():
            self._stop_lagging()
            return False
        renewal.run(positions, vectors, pbc, batch.atom_segments, rows, reference)
        return True

    def _stop_lagging(self) -> None:
        self._n_made, self._lags = self.n_made, False

    def _outgrown(self, batch: Batch) -> Bool[Tensor, " N"]:
        positions, vectors, pbc = _geometry(batch)
        if self.reference is None or self.reference.positions.dtype != positions.dtype:
            return torch.ones(batch.num_graphs, dtype=torch.bool, device=batch.device)
        return outgrown_systems(self.reference, positions, vectors, pbc, batch.atom_segments, self.cutoff, self.skin)

    def _make_all(self, batch: Batch) -> None:
        positions, vectors, pbc = _geometry(batch)
        radius = search_radius(self.cutoff, self.skin, positions.dtype)
        cells = measure_cells(vectors, pbc, batch.num_graphs, radius, batch.device)
        self._atoms = None  # nothing is known until all has gone well
        self.rows = make_rows(positions, batch.atom_segments, cells, pbc, radius, self.half, self.width)
        self.reference = Reference(positions.clone(), vectors.clone(), cells.duals, pbc.clone())
        self._atoms, self._ids = batch.atom_segments, _ids_of(batch)
        self._n_made += batch.num_graphs

    def _make_some(self, batch: Batch, stale: Bool[Tensor, " N"]) -> None:
        rows, reference, atoms = self.rows, self.reference, batch.atom_segments
        positions, vectors, pbc = _geometry(batch)
        radius = search_radius(self.cutoff, self.skin, positions.dtype)
        cells = measure_cells(vectors, pbc, batch.num_graphs, radius, batch.device)
        if rows is None or reference is None or reference.positions.dtype != positions.dtype or (cells.is_periodic and not rows.has_shifts):
            self._make_all(batch)
            return
        self._atoms = None
        longest = fill_rows(positions, atoms, cells, pbc, stale, radius, self.half, rows)
        while longest > rows.width:
            wider = create_rows(atoms.n_rows, roomy_width(longest), rows.has_shifts, batch.device)
            kept = torch.where(stale, -1, torch.arange(atoms.n_segments, device=batch.device)).to(torch.int32)
            copy_rows(rows, atoms, wider, atoms, kept)
            rows = wider
            longest = fill_rows(positions, atoms, cells, pbc, stale, radius, self.half, rows)
        self.rows = rows
        self.reference = reference.renewed(stale, atoms, Reference(positions, vectors, cells.duals, pbc))
        self._atoms = atoms
        self._n_made += int(stale.sum())

    def _recognise(self, batch: Batch) -> Int32[ndarray, " N"] | None:
        """Return where each system was in the last batch, negative where it is new; None if nothing can be said."""
        ids = _ids_of(batch)
        if self._atoms is None or self.reference is None or self._ids is None or ids is None or len(self._ids) == 0:
            return None
        if self.reference.positions.dtype != batch["positions"].dtype:
            return None
        order = np.argsort(self._ids, kind="stable")
        place = np.minimum(np.searchsorted(self._ids[order], ids), len(order) - 1)
        source = order[place]
        same = (self._ids[source] == ids) & (self._atoms.lengths[source] == batch.atom_segments.lengths)
        return np.where(same, source, -1).astype(np.int32) if same.any() else None

    def _follow(self, batch: Batch, source: Int32[ndarray, " N"]) -> None:
        """Bring rows and reference into the order of the new batch; what belongs to new systems is left undefined."""
        rows, reference, old, new = self.rows, self.reference, self._atoms, batch.atom_segments
        if rows is None or reference is None or old is None:
            return
        positions, vectors, pbc = _geometry(batch)
        self._atoms = None
        followed = create_rows(new.n_rows, rows.width, bool(pbc.any()), batch.device)
        followed.take_zeros(rows)
        copy_rows(rows, old, followed, new, torch.from_numpy(source).to(batch.device))
        kept = np.flatnonzero(source >= 0)
        moved = Reference(positions.clone(), vectors.clone(), torch.zeros_like(vectors), pbc.clone())
        moved.take(reference, new, kept, old, source[kept])
        self.rows, self.reference = followed, moved
        self._ids = _ids_of(batch)


def _geometry(batch: Batch) -> tuple[Float[Tensor, "A 3"], Float64[Tensor, "N 3 3"], Bool[Tensor, "N 3"]]:
    positions = _plain(batch["positions"])
    if "cell" in batch and "pbc" in batch:
        return positions, _plain(batch["cell"]).to(torch.float64), batch["pbc"].contiguous()
    n_systems, device = batch.num_graphs, batch.device
    none = torch.zeros((n_systems, 3, 3), dtype=torch.float64, device=device)
    return positions, none, torch.zeros((n_systems, 3), dtype=torch.bool, device=device)


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor without gradients and gaps: the very object, where it is one, by which a launch knows that nothing has changed."""
    return (tensor.detach() if tensor.requires_grad else tensor).contiguous()


def _ids_of(batch: Batch) -> Int64[ndarray, " N"] | None:
    if "system_id" not in batch:
        return None
    ids: Int64[ndarray, " N"] = batch["system_id"].reshape(-1).cpu().numpy().astype(np.int64)
    return ids
