"""Where new systems come from while a batch is running: the protocol, and the sampler of the dynamics contract.

A sampler decides what comes next; how much room there is, is told by who runs the batch. `SizeAwareSampler` has the names and behaviour of
nvalchemi 0.2.0, with three differences: systems that bring a `system_id` keep it; shuffling takes a seed, so that it can be repeated; and
finding what fits is one pass over sizes, not one over a list per request.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from campaign.data import AtomicData, Batch
from campaign.errors import ArgumentError, OperandError, SamplerError

__all__ = ["BatchSampler", "Sampler", "SizeAwareSampler", "SizedDataset"]


@runtime_checkable
class Sampler(Protocol):
    """What a relaxation draws systems from.

    `next_batch` returns at most `max_systems` systems of at most `max_atoms` atoms in total, or None if the next one does not fit or there
    is none; once returned, they are the caller's and never come again. If nothing fits an empty batch, the caller asks for one system
    with no limit on atoms, which then runs alone. `exhausted` says that nothing will ever come again.
    """

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing left."""
        ...

    def next_batch(self, max_systems: int, max_atoms: int, device: torch.device) -> Batch | None:
        """Return systems that fit, or None."""
        ...


@runtime_checkable
class SizedDataset(Protocol):
    """Structures by position, with their sizes known before they are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[AtomicData, dict[str, object]]:
        """Return a structure and whatever else is known about it."""
        ...

    def get_metadata(self, index: int) -> tuple[int, int]:
        """Return the numbers of atoms and edges."""
        ...


class BatchSampler:
    """Hands out the systems of a batch in memory, in their order; nothing overtakes.

    >>> batch = Batch.from_arrays([2, 1], {"positions": torch.zeros(3, 3)}, {})
    >>> sampler = BatchSampler(batch)
    >>> sampler.next_batch(9, 2, torch.device("cpu")).num_graphs, sampler.exhausted
    (1, False)
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._next = 0

    @property
    def exhausted(self) -> bool:
        """Whether every system has been handed out."""
        return self._next >= self._batch.num_graphs

    def next_batch(self, max_systems: int, max_atoms: int, device: torch.device) -> Batch | None:
        """Return the next systems that fit, or None; see `Sampler`."""
        ptr = self._batch.atom_segments.ptr
        last = int(np.searchsorted(ptr, min(int(ptr[self._next]) + max_atoms, sys.maxsize), side="right")) - 1
        last = min(last, self._next + max_systems, self._batch.num_graphs)
        if last <= self._next:
            return None
        chosen = self._batch.index_select(slice(self._next, last))
        self._next = last
        return chosen if chosen.device == device else chosen.to(device)


class SizeAwareSampler:
    """Hands out the structures of a dataset, each once, in groups that stay within limits on atoms, edges and systems.

    Args:
        dataset: the structures.
        max_atoms: atoms of a batch; on a GPU also limited by its memory, at 300 bytes an atom, which only a caller with a better number
            can improve on.
        max_edges: edges of a batch.
        max_batch_size: systems of a batch.
        bin_width: structures whose sizes fall into one bin of so many atoms count as alike.
        shuffle: whether the order within bins is random.
        max_gpu_memory_fraction: share of the GPU's memory that the estimate above may use.
        seed: of the shuffling.

    Raises:
        ArgumentError: a limit is out of range, or neither `max_atoms` nor `max_batch_size` is given (a ValueError).
        OperandError: the dataset lacks a method (a TypeError).
        SamplerError: a structure is larger than a batch may be (a RuntimeError).
    """

    def __init__(
        self,
        dataset: SizedDataset,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        max_batch_size: int | None = None,
        bin_width: int = 1,
        shuffle: bool = False,
        max_gpu_memory_fraction: float = 0.8,
        seed: int = 0,
    ) -> None:
        if max_atoms is None and max_batch_size is None:
            raise ArgumentError("neither max_atoms nor max_batch_size is given; a batch needs a limit. Give at least one of them.")
        if max_batch_size is not None and max_batch_size < 1:
            raise ArgumentError(f"max_batch_size is {max_batch_size}; it must be at least 1. Correct it.")
        if bin_width < 1:
            raise ArgumentError(f"bin_width is {bin_width}; it must be at least 1. Correct it.")
        if not 0.0 < max_gpu_memory_fraction <= 1.0:
            raise ArgumentError(f"max_gpu_memory_fraction is {max_gpu_memory_fraction}; it is above 0 and at most 1. Correct it.")
        for method in ("__len__", "__getitem__", "get_metadata"):
            if not hasattr(dataset, method):
                raise OperandError(
                    f"the dataset, a {type(dataset).__name__}, has no {method}; it needs __len__, __getitem__ and get_metadata. Add it."
                )
        self._dataset = dataset
        self.max_atoms = max_atoms
        self.max_edges = max_edges
        self.max_batch_size = max_batch_size
        self._bin_width = bin_width
        self._max_gpu_memory_fraction = max_gpu_memory_fraction
        self._next_system_id = 0
        self._sizes = [dataset.get_metadata(index) for index in range(len(dataset))]
        self._refuse_too_large()
        bins: dict[int, deque[int]] = {}
        for index, (n_atoms, _) in enumerate(self._sizes):
            bins.setdefault(n_atoms // bin_width, deque()).append(index)
        self._bins = {key: bins[key] for key in sorted(bins)}
        if shuffle:
            order = random.Random(seed)
            for waiting in self._bins.values():
                order.shuffle(waiting)

    def _refuse_too_large(self) -> None:
        for index, sizes in enumerate(self._sizes):
            for size, limit, what in zip(sizes, (self.max_atoms, self.max_edges), ("atoms", "edges"), strict=True):
                if limit is not None and size > limit:
                    raise SamplerError(
                        f"structure {index} has {size} {what}; max_{what} allows {limit}, so it fits no batch. Raise it or leave it out."
                    )

    # The contract

    def build_initial_batch(self) -> Batch:
        """Return a first batch that mixes sizes: one structure of each bin in turn, until nothing fits; with `status` 0.

        Raises:
            SamplerError: there is nothing left, or nothing fits (a RuntimeError).
        """
        atoms, edges, systems = self._limit_on_atoms(), _or_endless(self.max_edges), _or_endless(self.max_batch_size)
        chosen: list[int] = []
        keys = list(self._bins)
        while keys and len(chosen) < systems:
            in_rotation = []
            for key in keys:
                index = self._take_from(key, atoms, edges) if len(chosen) < systems else None
                if index is not None:
                    atoms, edges = atoms - self._sizes[index][0], edges - self._sizes[index][1]
                    chosen.append(index)
                    in_rotation.append(key)
            keys = in_rotation
        if not chosen:
            raise SamplerError(f"no first batch: {len(self)} structures are left and none fits. Loosen the limits, or start a new sampler.")
        batch = Batch.from_data_list([self._load(index) for index in chosen])
        batch["status"] = torch.zeros(batch.num_graphs, 1, dtype=torch.int64, device=batch.device)
        return batch

    def request_replacement(self, num_atoms: int, num_edges: int) -> AtomicData | None:
        """Return the largest structure of at most so many atoms and edges, or None."""
        for key in range(num_atoms // self._bin_width, -1, -1):
            index = self._take_from(key, num_atoms, num_edges) if key in self._bins else None
            if index is not None:
                return self._load(index)
        return None

    def request_replacements(self, node_counts: Int64[Tensor, " M"], edge_counts: Int64[Tensor, " M"]) -> list[AtomicData | None]:
        """Return for each place, of so many atoms and edges, the first structure of the dataset that fits, or None."""
        found: list[AtomicData | None] = []
        waiting = sorted(index for indices in self._bins.values() for index in indices)
        for n_atoms, n_edges in zip(node_counts.tolist(), edge_counts.tolist(), strict=True):
            index = next((i for i in waiting if self._sizes[i][0] <= n_atoms and self._sizes[i][1] <= n_edges), None)
            if index is not None:
                waiting.remove(index)
                self._bins[self._sizes[index][0] // self._bin_width].remove(index)
            found.append(None if index is None else self._load(index))
        return found

    def request_replacements_budget(
        self, atom_budget: int | None = None, edge_budget: int | None = None, max_count: int | None = None
    ) -> list[AtomicData]:
        """Return structures, large ones first, that together have at most so many atoms and edges; None is no limit."""
        return [self._load(index) for index in self._within(atom_budget, edge_budget, max_count)]

    @property
    def exhausted(self) -> bool:
        """Whether every structure has been handed out."""
        return not any(self._bins.values())

    def __len__(self) -> int:
        """Return the number of structures that are left."""
        return sum(map(len, self._bins.values()))

    def __iter__(self) -> Iterator[int]:
        """Iterate over the positions of what is left, small bins first."""
        for waiting in self._bins.values():
            yield from waiting

    # Ours

    def next_batch(self, max_systems: int, max_atoms: int, device: torch.device, max_edges: int | None = None) -> Batch | None:
        """Return structures, large ones first, within limits, or None; see `Sampler`."""
        chosen = self._within(max_atoms, max_edges, max_systems)
        return Batch.from_data_list([self._load(index) for index in chosen], device=device) if chosen else None

    def _within(self, max_atoms: int | None, max_edges: int | None, max_systems: int | None) -> list[int]:
        atoms, edges, systems = _or_endless(max_atoms), _or_endless(max_edges), _or_endless(max_systems)
        chosen: list[int] = []
        for key in reversed(self._bins):
            while len(chosen) < systems:
                index = self._take_from(key, atoms, edges)
                if index is None:
                    break
                atoms, edges = atoms - self._sizes[index][0], edges - self._sizes[index][1]
                chosen.append(index)
        return chosen

    def _take_from(self, key: int, max_atoms: int, max_edges: int) -> int | None:
        """Remove from a bin, and return, the first structure that fits."""
        waiting = self._bins[key]
        # Nothing in this bin can be smaller than its lower edge.
        if not waiting or key * self._bin_width > max_atoms:
            return None
        for place, index in enumerate(waiting):
            if self._sizes[index][0] <= max_atoms and self._sizes[index][1] <= max_edges:
                del waiting[place]
                return index
        return None

    def _load(self, index: int) -> AtomicData:
        data, _ = self._dataset[index]
        if getattr(data, "system_id", None) is None:
            data.add_system_property("system_id", torch.tensor([[self._next_system_id]], dtype=torch.int64))
        self._next_system_id += 1
        return data

    def _limit_on_atoms(self) -> int:
        limit = _or_endless(self.max_atoms)
        if torch.cuda.is_available():
            total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            # 20 % for the model's parameters and the CUDA context.
            limit = min(limit, max(int(total * (self._max_gpu_memory_fraction - 0.2)) // 300, 1))
        return limit


def _or_endless(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit
