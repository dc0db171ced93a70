"""The sides by name, and a running one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from figures import ONE_THREAD

from sides.exchange import READY, Answer, Task


@dataclass(frozen=True, slots=True)
class Side:
    """One way to relax structures."""

    module: str
    packages: Sequence[str]
    """Whose versions matter."""
    is_serial: bool = False
    """Whether structures are relaxed one by one; such a side may be given fewer of them."""


SIDES: Final = {
    "ours": Side("sides.ours", ("relax-campaign", "torch", "numpy", "warp-lang", "nvalchemi-toolkit-ops")),
    "ase": Side("sides.ase_fire", ("ase", "numpy", "scipy"), is_serial=True),
}


class RunningSide:
    """A side's process: started once, asked many times."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._n_tasks = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", SIDES[name].module],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **ONE_THREAD},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._process.communicate()
        else:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self) -> None:
        """Wait until it has started, or answered.

        Raises:
            RuntimeError: it ended instead; what it had to say is on standard error.
        """
        for line in self._process.stdout or ():
            if line.strip() == READY:
                return
        raise RuntimeError(f"the side {self.name!r} ended with code {self._process.wait()}; see its error above")

    def ask(self, task: Task) -> Answer:
        """Return the answer to a task."""
        self._n_tasks += 1
        task_path, answer_path = (self._folder / f"{self.name}-{self._n_tasks}-{what}.npz" for what in ("task", "answer"))
        task.write(task_path)
        print(json.dumps([str(task_path), str(answer_path)]), file=self._process.stdin, flush=True)
        self.wait_until_ready()
        return Answer.read(answer_path)
