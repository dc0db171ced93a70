"""What a hook costs: runs with and without one, which take turns, and the time of the first over that of the second.

A batch of N structures of B in each process, once with Lennard-Jones alone and once with a network beside it (`ballast.py`). All that a
hook causes is in its time: making the store, every write, and the wait until all is on disk at the end.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from figures import Target

from sides.ase_calculators import disagreements
from sides.exchange import Settings, Structures, Task
from sides.listening import FREQUENCY, HOOKS
from sides.measured import Case, Measured
from sides.processes import RunningSide

WORKLOAD: Final = "H"
MOST_OVERHEAD: Final = {"snapshot": 0.03, "converged": 0.01}
"""With a network, at N ≥ `TARGET_N`."""
TARGET_N: Final = 128
REPEATS: Final = {False: 7, True: 3}
"""By whether there is a network."""
REPEATS_OF_PEERS: Final = {False: 2, True: 1}
REPEATS_QUICK: Final = {False: 2, True: 2}
HOOKS_WITH_NETWORK: Final = tuple(hook for hook in HOOKS if hook != "listener")
"""Nobody can go by many steps at once there, so one who listens and does nothing is nobody."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """A hook beside none."""

    case: str
    side: str
    hook: str
    has_network: bool
    ms_per_step: float
    """Of one batch, without a hook."""
    wall: float
    """Share by which the fastest run with the hook took longer than the fastest without."""
    cpu: float
    """The same of CPU time."""
    noise: float | None
    """Share by which the middle run without a hook took longer than the fastest; None if there was one only …"""
    cpu_noise: float | None
    """… and the same of CPU time."""
    systems_per_write: float
    ms_per_write: float | None
    """What the hook added to the time of a process, over its writes; None without any."""

    def line(self) -> str:
        """Return it for people."""
        writes = "" if self.ms_per_write is None else f"; {self.ms_per_write:.3g} ms for each write of {self.systems_per_write:.3g} systems"
        noise = "" if self.noise is None else f", noise {self.noise:.2%} and {self.cpu_noise:.2%}"
        return (
            f"  {self.side:<9} {self.hook:<9} {self.wall:+7.2%}, in CPU time {self.cpu:+.2%}{noise}{writes};"
            f" {self.ms_per_step:.3g} ms a step {'with a network' if self.has_network else 'of Lennard-Jones alone'}"
        )


def measure(case: Case, name: str, running: RunningSide, settings: Settings, structures: Structures, is_quick: bool) -> list[Measured]:
    """Run a side with each hook and without, in turn, first with a network and then without one."""
    measured = []
    for has_network, hooks in ((True, HOOKS_WITH_NETWORK), (False, HOOKS)):
        repeats = REPEATS_QUICK if is_quick else REPEATS if name == "ours" else REPEATS_OF_PEERS
        common = replace(settings, has_ballast=has_network, most_repeats=repeats[has_network], least_s=float("inf"))
        tasks = [Task(replace(common, hook=hook), structures) for hook in hooks]
        answers = running.relax_in_turn(tasks)
        for task, answer in zip(tasks, answers, strict=True):
            wrong = disagreements(structures, answer.relaxed, task.settings)
            if not np.array_equal(answer.relaxed.n_steps, answers[0].relaxed.n_steps):
                wrong.append("there are other steps than without the hook")
            one = Measured(case, name, task, answer, wrong)
            wrong.extend(_wrongly_written(one))
            measured.append(one)
    return measured


def _wrongly_written(measured: Measured) -> Iterator[str]:
    relaxed, hook = measured.answer.relaxed, measured.task.settings.hook
    least = most = 0
    if hook == "converged":
        least = most = int(relaxed.converged.sum())
    elif hook == "snapshot":
        least, most = int(np.ceil(relaxed.n_steps / FREQUENCY).sum()), relaxed.n_writes * len(relaxed.index)
    if not least <= relaxed.n_written <= most:
        yield f"{relaxed.n_written} systems are in the store of the hook, and between {least} and {most} should be"


def overheads_of(measured: Sequence[Measured]) -> Iterator[Overhead]:
    """Yield each hook beside none, where both were right."""
    without = {_kind(one): one for one in measured if not one.task.settings.hook and not one.wrong}
    for one in measured:
        if one.task.settings.hook and not one.wrong and _kind(one) in without:
            yield _overhead(one, without[_kind(one)])


def _kind(measured: Measured) -> tuple[str, str, bool]:
    return measured.case.name, measured.side, measured.task.settings.has_ballast


def _overhead(hooked: Measured, without: Measured) -> Overhead:
    best_s, best_cpu_s = min(without.answer.seconds), max(min(without.answer.cpu_seconds), 1e-9)
    added_s = min(hooked.answer.seconds) - best_s
    relaxed, is_repeated = hooked.answer.relaxed, len(without.answer.seconds) > 1
    return Overhead(
        case=hooked.case.name,
        side=hooked.side,
        hook=hooked.task.settings.hook,
        has_network=hooked.task.settings.has_ballast,
        ms_per_step=1e3 * best_s / max(1, int(without.answer.relaxed.n_steps.max())),
        wall=added_s / best_s,
        cpu=min(hooked.answer.cpu_seconds) / best_cpu_s - 1,
        noise=statistics.median(without.answer.seconds) / best_s - 1 if is_repeated else None,
        cpu_noise=statistics.median(without.answer.cpu_seconds) / best_cpu_s - 1 if is_repeated else None,
        systems_per_write=relaxed.n_written / relaxed.n_writes if relaxed.n_writes else 0.0,
        ms_per_write=1e3 * added_s * hooked.answer.n_processes / relaxed.n_writes if relaxed.n_writes else None,
    )


def figures_of(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return them for the JSON."""
    return [
        {
            **one.figure(),
            "hook": one.task.settings.hook,
            "has_network": one.task.settings.has_ballast,
            "n_writes": one.answer.relaxed.n_writes,
            "n_written": one.answer.relaxed.n_written,
        }
        for one in measured
    ]


def ratios_of(overheads: Sequence[Overhead]) -> list[dict[str, Any]]:
    """Return them for the JSON."""
    return [{**asdict(one), "of": f"{one.side} with {one.hook} / without"} for one in overheads]


def targets_of(cases: Sequence[Case], overheads: Sequence[Overhead]) -> Iterator[Target]:
    """Yield what our hooks must reach, as shares of the rate without them."""
    large = {case.name for case in cases if case.workload == WORKLOAD and case.n >= TARGET_N}
    for one in overheads:
        if one.case in large and one.side == "ours" and one.has_network and one.hook in MOST_OVERHEAD:
            most = MOST_OVERHEAD[one.hook]
            name = f"{one.case} with {one.hook}, as a share of the rate without"
            basis = f"in this run: {one.wall:.2%} of the time more, {most:.0%} at most, noise {one.noise or 0:.2%}"
            yield Target(name, 1 / (1 + most), 1 / (1 + one.wall), basis)
