"""What a side is asked and what it answers: the same words for all sides.

Only numpy is imported here, so that each side can run in an environment that has little else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from sides.queue import Queue

_Array = ndarray[Any, Any]


@dataclass(frozen=True)
class Structures:
    """Structures one after another; eV, Å."""

    n_atoms: _Array
    """[N]"""
    numbers: _Array
    """[A]"""
    positions: _Array
    """[A, 3]"""
    cell: _Array
    """[N, 3, 3]"""
    pbc: _Array
    """[N, 3]"""

    def __len__(self) -> int:
        return len(self.n_atoms)

    @cached_property
    def ptr(self) -> _Array:
        """[N + 1] The first atom of each structure."""
        return np.concatenate([[0], np.cumsum(self.n_atoms)])

    def part(self, first: int, last: int) -> Structures:
        """Return structures `first` to `last`, without the latter."""
        atoms = slice(self.ptr[first], self.ptr[last])
        return Structures(self.n_atoms[first:last], self.numbers[atoms], self.positions[atoms], self.cell[first:last], self.pbc[first:last])


@dataclass(frozen=True)
class Relaxed:
    """Structures after relaxation."""

    index: _Array
    """[N] Which of those that were given."""
    positions: _Array
    """[A, 3]"""
    energy: _Array
    """[N]"""
    forces: _Array
    """[A, 3]"""
    n_steps: _Array
    """[N]"""
    converged: _Array
    """[N]"""
    parts_s: dict[str, float] = field(default_factory=dict)
    """Seconds by part of the work, if the side knows them."""
    place_steps: float = 0.0
    """Places in the batch times steps of the batch, if the side knows: steps that could have been done."""
    is_shifted: bool = True
    """Whether a pair has no energy at the cutoff, as with ASE."""
    n_writes: int = 0
    """Calls of the sink of the hook that was asked for …"""
    n_written: int = 0
    """… and systems that are in it."""


@dataclass(frozen=True)
class Settings:
    """How a side relaxes and how often it repeats that."""

    potential: str
    options: dict[str, float]
    fmax_ev_per_ang: float
    max_steps: int
    at_a_time: int
    """Structures handed over together."""
    in_flight: int
    """Structures in the batches of all processes of a side together, if it refills them."""
    mode: str
    """One of several ways in which a side can do it; empty is its best."""
    least_s: float
    """Repeat until so much time was measured …"""
    most_repeats: int
    """… or so often."""
    has_ballast: bool = False
    """Whether a network is evaluated beside the potential, see `ballast.py`."""
    hook: str = ""
    """What listens: empty is nobody, see `overhead.py`."""
    folder: str = ""
    """Where the hook's stores go."""


@dataclass(frozen=True)
class Task:
    """Structures and how to relax them."""

    settings: Settings
    structures: Structures

    def write(self, path: Path) -> None:
        """Write the task to one file."""
        arrays = {name: getattr(self.structures, name) for name in Structures.__annotations__}
        np.savez(path, settings=np.array(json.dumps(asdict(self.settings))), **arrays)

    @classmethod
    def read(cls, path: Path) -> Task:
        """Return what was written."""
        with np.load(path, allow_pickle=False) as file:
            settings = Settings(**json.loads(str(file["settings"])))
            return cls(settings, Structures(**{name: file[name] for name in Structures.__annotations__}))


_ARRAYS = ("index", "positions", "energy", "forces", "n_steps", "converged")


def write_relaxed(relaxed: Relaxed, path: Path) -> None:
    """Write what one process relaxed to one file."""
    facts = {name: getattr(relaxed, name) for name in ("parts_s", "place_steps", "is_shifted", "n_writes", "n_written")}
    np.savez(path, facts=np.array(json.dumps(facts)), **{name: getattr(relaxed, name) for name in _ARRAYS})


def read_relaxed(path: Path) -> Relaxed:
    """Return what was written."""
    with np.load(path, allow_pickle=False) as file:
        return Relaxed(**{name: file[name] for name in _ARRAYS}, **json.loads(str(file["facts"])))


def joined(parts: Sequence[Relaxed]) -> Relaxed:
    """Return parts as one, one after another."""
    if not parts:
        none = np.empty(0)
        return Relaxed(none.astype(int), np.empty((0, 3)), none, np.empty((0, 3)), none.astype(int), none.astype(bool))
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    names = dict.fromkeys(name for part in parts for name in part.parts_s)
    parts_s = {name: sum(part.parts_s.get(name, 0.0) for part in parts) for name in names}
    # A process that came too late for anything knows nothing about energies.
    is_shifted = all(part.is_shifted for part in parts if len(part.index))
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("place_steps", "n_writes", "n_written")}
    return Relaxed(**arrays, parts_s=parts_s, is_shifted=is_shifted, **sums)


def in_order(relaxed: Relaxed, structures: Structures) -> Relaxed:
    """Return what several processes relaxed in the order in which it was given.

    Raises:
        RuntimeError: a structure is missing, or came twice.
    """
    order = np.argsort(relaxed.index, kind="stable")
    if not np.array_equal(relaxed.index[order], np.arange(len(structures))):
        raise RuntimeError(f"{len(relaxed.index)} structures came back, {len(structures)} were given; each must come once")
    n_atoms = structures.n_atoms[relaxed.index]
    first = np.cumsum(n_atoms) - n_atoms
    atoms = np.concatenate([np.arange(first[i], first[i] + n_atoms[i]) for i in order])
    by_structure = {name: getattr(relaxed, name)[order] for name in ("index", "energy", "n_steps", "converged")}
    return replace(relaxed, **by_structure, positions=relaxed.positions[atoms], forces=relaxed.forces[atoms])


RelaxFunction = Callable[[Structures, Queue], Relaxed]
"""What is timed: relaxes what it takes from the queue, until that is empty."""


def in_blocks(relax: Callable[[Structures], Relaxed], size: int | None = None) -> RelaxFunction:
    """Return a relaxation that takes `size` structures at a time, or an even share, and lets `relax` work on those."""

    def relax_all(structures: Structures, queue: Queue) -> Relaxed:
        parts = []
        while block := queue.take(size or queue.share):
            part = relax(structures.part(block.start, block.stop))
            parts.append(replace(part, index=part.index + block.start))
        return joined(parts)

    return relax_all
