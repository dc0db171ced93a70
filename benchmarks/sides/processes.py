"""The sides by name, and a running one."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from environments import python_of
from figures import ONE_THREAD

from sides.exchange import Relaxed, Task, in_order, joined, read_relaxed
from sides.serving import SAYS


@dataclass(frozen=True, slots=True)
class Side:
    """One way to relax structures."""

    module: str
    packages: Sequence[str]
    """Whose versions matter."""
    workloads: str = "AB"
    """Those that it can do, and is asked to."""
    environment: str | None = None
    """The virtual environment it lives in; None is that of the benchmark itself."""
    mode: str = ""
    """What `Settings.mode` is set to."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables."""
    is_serial: bool = False
    """Whether structures are relaxed one by one, and slowly; such a side may be given fewer of them."""
    most_when_quick: int = sys.maxsize
    """It is left out of larger cases of a quick run."""

    @property
    def python(self) -> Path | None:
        """The interpreter; None if the environment is missing."""
        return Path(sys.executable) if self.environment is None else python_of(self.environment)


_OURS: Final = ("relax-campaign", "torch", "numpy", "warp-lang", "nvalchemi-toolkit-ops")
SIDES: Final = {
    "ours": Side("sides.ours", _OURS, "ABCDH"),
    "refilled": Side("sides.ours", _OURS, "D", mode="refilled"),
    "fixed": Side("sides.ours", _OURS, "D", mode="fixed"),
    "compiled": Side("sides.compiled", ("numba", "llvmlite", "numpy"), environment="compiled"),
    "nvalchemi": Side(
        "sides.nvalchemi_fire",
        ("nvalchemi-toolkit", "nvalchemi-toolkit-ops", "torch", "numpy", "warp-lang"),
        "ABH",
        environment="nvalchemi",
        variables={"TORCHDYNAMO_DISABLE": "1"},
        most_when_quick=16,
    ),
    "torch-sim": Side(
        "sides.torch_sim_fire",
        ("torch-sim-atomistic", "torch", "numpy", "vesin-torch", "nvalchemi-toolkit-ops"),
        environment="torch-sim",
        most_when_quick=16,
    ),
    "ase": Side("sides.ase_fire", ("ase", "numpy", "scipy"), "ABC", is_serial=True),
}


@dataclass(frozen=True)
class Answer:
    """What a side found, in the order in which it was asked, and how long it took each time."""

    relaxed: Relaxed
    """Of the middle repeat."""
    seconds: list[float]
    """Each repeat: from the first process that began to the last that ended; of a serial side, the mean over its processes, for it was
    given only some of its work, and with more the one that ended first would have gone on."""
    cpu_seconds: list[float]
    """Of all processes together, each repeat."""
    peak_memory_mib: float
    """Of all processes together, so far."""
    n_processes: int


class RunningSide:
    """The processes of a side: started once, asked many times.

    Args:
        side: the side; others that differ from it by their mode only may use the same processes.
        folder: for files that are exchanged.
        cores: how many it may use; a process runs on each.
    """

    def __init__(self, side: Side, folder: Path, cores: int) -> None:
        self._side = side
        self._folder = folder
        self._n_files = 0
        command = [str(side.python), "-m", side.module]
        variables = {**os.environ, **ONE_THREAD, **side.variables}
        root = Path(__file__).parents[1]
        self._processes = [
            subprocess.Popen(command, cwd=root, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(cores)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            if kind is not None:
                process.kill()
            process.communicate()

    def versions(self) -> dict[str, str]:
        """Return the versions of what it is made of; the first answer comes when it has started."""
        return dict(self._ask(self._processes, "versions", list(self._side.packages))[0])

    def relax(self, task: Task) -> Answer:
        """Let it relax structures, as often as the settings say. One at a time is the work of one process, everything else of all."""
        return self.relax_in_turn([task])[0]

    def relax_in_turn(self, tasks: Sequence[Task]) -> list[Answer]:
        """Let it do tasks of the same structures one after the other, then all of them again, as often as the settings of the first say."""
        settings, n_given = tasks[0].settings, len(tasks[0].structures)
        processes = self._processes[: 1 if settings.at_a_time < n_given else min(len(self._processes), n_given)]
        paths = [self._file("task.npz") for _ in tasks]
        for task, path in zip(tasks, paths, strict=True):
            task.write(path)
        self._ask(processes, "tasks", [str(path) for path in paths], len(processes))
        seconds: list[list[float]] = [[] for _ in tasks]
        cpu_seconds: list[list[float]] = [[] for _ in tasks]
        while len(seconds[0]) < settings.most_repeats and sum(seconds[0]) < settings.least_s:
            for which in range(len(tasks)):
                queue = self._file("queue")
                queue.touch()
                begun, ended, cpu_s = zip(*self._ask(processes, "run", which, str(queue), len(processes)), strict=True)
                spent = (sum(ended) - sum(begun)) / len(processes) if self._side.is_serial else max(ended) - min(begun)
                seconds[which].append(spent)
                cpu_seconds[which].append(sum(cpu_s))
        answers = zip(range(len(tasks)), tasks, seconds, cpu_seconds, strict=True)
        return [self._answer(processes, *answer) for answer in answers]

    def _answer(
        self, processes: Sequence[subprocess.Popen[str]], which: int, task: Task, seconds: list[float], cpu_seconds: list[float]
    ) -> Answer:
        middle = seconds.index(statistics.median_low(seconds))
        paths = [self._file("answer.npz") for _ in processes]
        peaks = [self._ask([process], "answer", which, middle, str(path))[0] for process, path in zip(processes, paths, strict=True)]
        relaxed = in_order(joined([read_relaxed(path) for path in paths]), task.structures)
        return Answer(relaxed, seconds, cpu_seconds, round(sum(peaks), 1), len(processes))

    def _file(self, what: str) -> Path:
        self._n_files += 1
        return self._folder / f"{self._side.module}-{self._n_files}-{what}"

    def _ask(self, processes: Sequence[subprocess.Popen[str]], *words: Any) -> list[Any]:
        """Ask processes the same thing, all before any has answered; return their answers."""
        for process in processes:
            try:
                print(json.dumps(words), file=process.stdin, flush=True)
            except BrokenPipeError:
                raise self._ended(process) from None
        return [self._answer_of(process) for process in processes]

    def _answer_of(self, process: subprocess.Popen[str]) -> Any:
        for line in process.stdout or ():
            if line.startswith(SAYS):
                return json.loads(line.removeprefix(SAYS))
        raise self._ended(process)

    def _ended(self, process: subprocess.Popen[str]) -> RuntimeError:
        return RuntimeError(f"a process of {self._side.module} ended with code {process.wait()}; see its error above")
