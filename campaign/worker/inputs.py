"""Where a rank's systems come from: positions that it claims, the ids at them, and their rows of `inputs.zarr` as batches.

The rows of a whole assignment are read once, in the order in which they lie on disk, if they fit into memory; else block by block as
they are claimed. Order of work is that of the assignment, largest system first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.data import Batch
from campaign.fields import FIELDS, Level
from campaign.store.csr import atom_rows, pointers
from campaign.store.reader import StoreReader
from campaign.worker.claims import Claims

INPUT_NAMES: Final = ("atomic_numbers", "positions", "atomic_masses", "fixed", "symprec", "cell", "pbc", "system_id")
"""What a relaxation needs of an input; everything else that an input has is joined to the results by consolidation."""

MEMORY_BYTES: Final = 512 * 2**20
"""An assignment whose rows are larger than this is read block by block."""

BYTES_PER_ATOM: Final = 8 + 24 + 8 + 3
BYTES_PER_SYSTEM: Final = 72 + 3 + 8 + 8


class InputSampler:
    """Gives the engine the next systems of this rank, as the sampler of a `Relaxation`.

    Args:
        inputs: `inputs.zarr`.
        assignment: ids by position.
        done_mask: positions that earlier attempts have finished; they are claimed and passed over.
        claims: who works on what.
        max_atoms: atoms of a full batch. A system larger than that is given alone, to an empty batch.
        memory_bytes: largest size of an assignment that is read at once.
        apart: groups of ids that share a batch with nobody else. They are held back until `next_part`.
    """

    def __init__(
        self,
        inputs: StoreReader,
        assignment: Int64[ndarray, " P"],
        done_mask: Bool[ndarray, " P"],
        claims: Claims,
        max_atoms: int,
        memory_bytes: int = MEMORY_BYTES,
        apart: Sequence[Sequence[int]] = (),
    ) -> None:
        self._assignment = assignment
        self._done_mask = done_mask
        self._claims = claims
        self._max_atoms = max_atoms
        self._sizes = inputs.n_atoms(assignment)
        self._claimed: deque[int] = deque()
        self._all_claimed = False
        self._part_of = {system_id: part for part, system_ids in enumerate(apart) for system_id in system_ids}
        self._held_back: dict[int, list[int]] = {}
        self.n_claims = 0
        self.n_given = 0
        n_bytes = int(self._sizes.sum()) * BYTES_PER_ATOM + len(assignment) * BYTES_PER_SYSTEM
        self._read: Callable[[Int64[ndarray, " M"]], dict[str, NDArray[Any]]]
        if n_bytes <= memory_bytes:
            self._read = _Table(inputs, assignment).read
        else:
            self._read = lambda ids: inputs.read(ids, _names(inputs))

    @property
    def all_given(self) -> bool:
        """Whether nothing is left, as far as is known without asking for another claim."""
        return self._all_claimed and not self._claimed and not self._held_back

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to give; asks for a claim if that is what it takes to know."""
        return not self._claimed and not self._claim()

    def next_part(self) -> bool:
        """Go on with those of the next group that this rank has claimed, if there are any; call it when all else has left."""
        if not self._held_back:
            return False
        self._claimed.extend(self._held_back.pop(min(self._held_back)))
        return True

    def next_batch(self, max_systems: int, max_atoms: int, device: torch.device | str = "cpu") -> Batch | None:
        """Return the next systems that fit, or None if none does or none is left."""
        chosen: list[int] = []
        n_atoms = 0
        while len(chosen) < max_systems and (self._claimed or self._claim()):
            size = int(self._sizes[self._claimed[0]])
            if n_atoms + size > max_atoms and not (size > self._max_atoms <= max_atoms and not chosen):
                # It waits at the head of the queue until there is room: the largest are not put off to the end.
                break
            chosen.append(self._claimed.popleft())
            n_atoms += size
        if not chosen:
            return None
        self.n_given += len(chosen)
        return self._batch(np.asarray(chosen, dtype=np.int64), device)

    def _claim(self) -> bool:
        while not self._all_claimed and not self._claimed:
            block = self._claims.next()
            self._all_claimed = not block
            self.n_claims += bool(block)
            for position in block:
                if not self._done_mask[position]:
                    part = self._part_of.get(int(self._assignment[position])) if self._part_of else None
                    (self._claimed if part is None else self._held_back.setdefault(part, [])).append(position)
        return bool(self._claimed)

    def _batch(self, positions: Int64[ndarray, " M"], device: torch.device | str) -> Batch:
        columns = {name: torch.from_numpy(values) for name, values in self._read(self._assignment[positions]).items()}
        of_atoms = {name: values for name, values in columns.items() if FIELDS[name].level is Level.ATOM}
        of_systems = {name: values for name, values in columns.items() if name not in of_atoms}
        return Batch.from_arrays(self._sizes[positions], of_atoms, of_systems, device=device)


def _names(inputs: StoreReader) -> list[str]:
    """Return what is read: inputs of an older format lack what it had no word for."""
    there = {field.name for field in inputs.fields}
    return [name for name in INPUT_NAMES if name in there or FIELDS[name].since <= inputs.format_version]


class _Table:
    """Rows of `inputs.zarr` in memory, by id."""

    def __init__(self, inputs: StoreReader, ids: Int64[ndarray, " P"]) -> None:
        self._ids = np.sort(ids)  # ids are rows, so each chunk is read once and in its order
        self._columns = inputs.read(self._ids, _names(inputs))
        self._ptr = pointers(inputs.n_atoms(self._ids))

    def read(self, ids: Int64[ndarray, " M"]) -> dict[str, NDArray[Any]]:
        rows = np.searchsorted(self._ids, ids)
        _, atoms = atom_rows(self._ptr, rows)
        return {name: values[atoms if FIELDS[name].level is Level.ATOM else rows] for name, values in self._columns.items()}
