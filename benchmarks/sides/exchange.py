"""What a side is asked, what it answers, and the loop in which it is warmed up and timed: the same lines for all sides.

Only numpy is imported here, so that each side can run in an environment that has little else.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
from numpy import ndarray

READY: Final = "@side ready"
"""Line with which a side says that it has started, or has answered."""
WARM_UP_STEPS: Final = 5


@dataclass(frozen=True)
class Structures:
    """Structures one after another; eV, Å."""

    n_atoms: ndarray[Any, Any]
    """[N]"""
    numbers: ndarray[Any, Any]
    """[A]"""
    positions: ndarray[Any, Any]
    """[A, 3]"""
    cell: ndarray[Any, Any]
    """[N, 3, 3]"""
    pbc: ndarray[Any, Any]
    """[N, 3]"""

    def __len__(self) -> int:
        return len(self.n_atoms)

    def part(self, first: int, last: int) -> Structures:
        """Return structures `first` to `last`, without the latter."""
        ptr = np.concatenate([[0], np.cumsum(self.n_atoms)])
        atoms = slice(ptr[first], ptr[last])
        return Structures(self.n_atoms[first:last], self.numbers[atoms], self.positions[atoms], self.cell[first:last], self.pbc[first:last])


@dataclass(frozen=True)
class Relaxed:
    """Structures after relaxation, in the order in which they were given."""

    positions: ndarray[Any, Any]
    """[A, 3]"""
    energy: ndarray[Any, Any]
    """[N]"""
    forces: ndarray[Any, Any]
    """[A, 3]"""
    n_steps: ndarray[Any, Any]
    """[N]"""
    converged: ndarray[Any, Any]
    """[N]"""
    parts_s: dict[str, float] = field(default_factory=dict)
    """Seconds by part of the work, if the side knows them."""


@dataclass(frozen=True)
class Settings:
    """How a side relaxes and how often it repeats that."""

    potential: str
    options: dict[str, float]
    fmax_ev_per_ang: float
    max_steps: int
    at_a_time: int
    """Structures handed over together."""
    least_s: float
    """Repeat until so much time was measured …"""
    most_repeats: int
    """… or so often."""


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


@dataclass(frozen=True)
class Answer:
    """What a side found and how long it took each time."""

    relaxed: Relaxed
    seconds: list[float]
    cpu_seconds: list[float]
    peak_memory_mib: float
    """Of the whole process so far."""

    def write(self, path: Path) -> None:
        """Write the answer to one file."""
        facts = {"parts_s": self.relaxed.parts_s, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak": self.peak_memory_mib}
        np.savez(path, facts=np.array(json.dumps(facts)), **{name: getattr(self.relaxed, name) for name in _ARRAYS})

    @classmethod
    def read(cls, path: Path) -> Answer:
        """Return what was written."""
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            relaxed = Relaxed(**{name: file[name] for name in _ARRAYS}, parts_s=facts["parts_s"])
            return cls(relaxed, facts["seconds"], facts["cpu_seconds"], facts["peak"])


_ARRAYS = ("positions", "energy", "forces", "n_steps", "converged")

RelaxFunction = Callable[[Structures], Relaxed]
"""What is timed."""


def serve(prepare: Callable[[Settings], RelaxFunction]) -> None:
    """Answer tasks named on standard input, two paths a line, until it is closed."""
    print(READY, flush=True)
    for line in sys.stdin:
        task_path, answer_path = (Path(path) for path in json.loads(line))
        task = Task.read(task_path)
        _measure(task, prepare).write(answer_path)
        print(READY, flush=True)


def _measure(task: Task, prepare: Callable[[Settings], RelaxFunction]) -> Answer:
    settings, structures = task.settings, task.structures
    parts = [
        structures.part(first, min(first + settings.at_a_time, len(structures))) for first in range(0, len(structures), settings.at_a_time)
    ]
    # Warm-up: kernels are compiled, files and caches read. A few steps of a small structure meet all of the code.
    smallest = int(np.argmin(parts[0].n_atoms))
    prepare(replace(settings, max_steps=WARM_UP_STEPS))(parts[0].part(smallest, smallest + 1))
    relax = prepare(settings)
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    relaxed: list[list[Relaxed]] = []
    while len(seconds) < settings.most_repeats and sum(seconds) < settings.least_s:
        cpu_start, start = process_time(), perf_counter()
        relaxed.append([relax(part) for part in parts])
        seconds.append(perf_counter() - start)
        cpu_seconds.append(process_time() - cpu_start)
    # The answer is that of the repeat whose time counts.
    middle = int(np.argsort(seconds)[(len(seconds) - 1) // 2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Answer(_joined(relaxed[middle]), seconds, cpu_seconds, round(peak, 1))


def _joined(parts: Sequence[Relaxed]) -> Relaxed:
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    names = dict.fromkeys(name for part in parts for name in part.parts_s)
    return Relaxed(**arrays, parts_s={name: sum(part.parts_s.get(name, 0.0) for part in parts) for name in names})
