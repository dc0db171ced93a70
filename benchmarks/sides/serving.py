"""The loop of a side's process: it is warmed up, runs when it is told to, and times itself. The same lines for all sides.

A line on standard input is a JSON list of a word and its arguments; the answer is a line on standard output that begins with `SAYS`.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, process_time
from typing import Any, Final

from figures import versions

from sides.exchange import Relaxed, RelaxFunction, Settings, Structures, Task, joined, write_relaxed
from sides.queue import Queue

SAYS: Final = "@side "
WARM_UP_STEPS: Final = 5


def serve(prepare: Callable[[Settings], RelaxFunction]) -> None:
    """Do what is asked until standard input is closed."""
    process = _Process(prepare)
    words: dict[str, Callable[..., Any]] = {"versions": versions, "tasks": process.take, "run": process.run, "answer": process.answer}
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        print(SAYS + json.dumps(words[word](*arguments)), flush=True)


class _Process:
    def __init__(self, prepare: Callable[[Settings], RelaxFunction]) -> None:
        self._prepare = prepare

    def take(self, paths: list[str], n_sharing: int) -> None:
        """Read tasks and warm up for them: kernels are compiled, files and caches read. A few steps of its share meet all of the code."""
        self._tasks = [Task.read(Path(path)) for path in paths]
        for task in self._tasks:
            few = task.structures.part(0, min(task.settings.at_a_time, Queue(len(task.structures), n_sharing=n_sharing).share))
            self._prepare(replace(task.settings, max_steps=WARM_UP_STEPS))(few, Queue(len(few)))
        self._relax = [self._prepare(task.settings) for task in self._tasks]
        self._relaxed: list[list[Relaxed]] = [[] for _ in self._tasks]

    def run(self, which: int, path: str, n_sharing: int) -> tuple[float, float, float]:
        """Do a task on what the queue gives; return when it began and ended, by the clock that all processes share, and its CPU time."""
        structures, relax = self._tasks[which].structures, self._relax[which]
        at_a_time = self._tasks[which].settings.at_a_time
        cpu_start, start = process_time(), monotonic()
        if at_a_time < len(structures):
            relaxed = joined([_alone(relax, structures, first, at_a_time) for first in range(0, len(structures), at_a_time)])
        else:
            relaxed = relax(structures, Queue(len(structures), Path(path), n_sharing))
        end, cpu_end = monotonic(), process_time()
        self._relaxed[which].append(relaxed)
        return start, end, cpu_end - cpu_start

    def answer(self, which: int, repeat: int, path: str) -> float:
        """Write what was relaxed in a repeat of a task; return the peak memory of the process so far, in MiB."""
        write_relaxed(self._relaxed[which][repeat], Path(path))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _alone(relax: RelaxFunction, structures: Structures, first: int, count: int) -> Relaxed:
    part = structures.part(first, min(first + count, len(structures)))
    relaxed = relax(part, Queue(len(part)))
    return replace(relaxed, index=relaxed.index + first)
