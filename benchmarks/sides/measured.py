"""What one side did in one case, in figures, and ours over the others."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sides.exchange import Task
from sides.processes import Answer


@dataclass(frozen=True, slots=True)
class Case:
    """N structures of a workload."""

    workload: str
    n: int
    count: int
    """Structures to relax: N, or for N = 1 several, one at a time."""

    @property
    def name(self) -> str:
        """Name to print."""
        return f"{self.workload} N={self.n}"


@dataclass(frozen=True)
class Measured:
    """What one side did in one case."""

    case: Case
    side: str
    task: Task
    answer: Answer
    wrong: list[str]
    """What ASE disagrees with; no rate counts then."""

    @property
    def seconds(self) -> float:
        """The middle repeat; of two, the lower, as in the side, whose answer belongs to it."""
        return statistics.median_low(self.answer.seconds)

    @property
    def work(self) -> Any:
        """Atoms × steps of each structure."""
        return self.answer.relaxed.n_steps * self.task.structures.n_atoms

    def rates(self) -> dict[str, float]:
        """Return what is done per second."""
        count = len(self.task.structures)
        return {
            "structures_per_s": count / self.seconds,
            "structures_per_cpu_s": count / max(statistics.median_low(self.answer.cpu_seconds), 1e-9),
            "atom_steps_per_s": float(self.work.sum()) / self.seconds,
        }

    @property
    def idle_share(self) -> float | None:
        """The share of the places in the batch, step by step, in which nothing moved: ended, or nobody there; None if not known."""
        relaxed = self.answer.relaxed
        return 1 - float(relaxed.n_steps.sum()) / relaxed.place_steps if relaxed.place_steps else None

    def figure(self) -> dict[str, Any]:
        """Return it for the JSON; rates are None where the answer is wrong."""
        relaxed = self.answer.relaxed
        rates = self.rates()
        known_s = self.seconds * self.answer.n_processes
        return {
            "case": self.case.name,
            "workload": self.case.workload,
            "n": self.case.n,
            "side": self.side,
            "n_structures": len(self.task.structures),
            "n_processes": self.answer.n_processes,
            "mean_atoms": float(self.task.structures.n_atoms.mean()),
            **(dict.fromkeys(rates) if self.wrong else rates),
            "atom_steps": int(self.work.sum()),
            "steps": {name: float(np.quantile(relaxed.n_steps, q)) for name, q in (("min", 0), ("median", 0.5), ("max", 1))},
            "n_converged": int(relaxed.converged.sum()),
            "idle_share": self.idle_share,
            "seconds": self.answer.seconds,
            "cpu_seconds": self.answer.cpu_seconds,
            "part_shares": {part: part_s / known_s for part, part_s in relaxed.parts_s.items()},
            "peak_memory_mib": self.answer.peak_memory_mib,
            "disagreements": self.wrong,
        }

    def line(self) -> str:
        """Return it for people."""
        if self.wrong:
            return f"  {self.side:<9} WRONG: {self.wrong[0]}"
        figure = self.figure()
        steps = figure["steps"]
        text = (
            f"  {self.side:<9} {figure['structures_per_s']:9.4g} structures/s {figure['atom_steps_per_s']:9.3g} atom-steps/s"
            f" {figure['structures_per_cpu_s']:9.4g} structures/CPU-s | {figure['n_converged']} of {figure['n_structures']} converged,"
            f" steps {steps['min']:.0f}–{steps['median']:.0f}–{steps['max']:.0f} | {figure['peak_memory_mib']:.0f} MiB"
        )
        if self.idle_share is not None:
            text += f" | {self.idle_share:.0%} of the places idle"
        shares = sorted(figure["part_shares"].items(), key=lambda part: -part[1])
        listed = ", ".join(f"{part} {share:.0%}" for part, share in shares if share >= 0.005)
        return text + (f"\n            {listed}" if listed else "")


def ratios_of(cases: Sequence[Case], measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Yield ours over each peer, and refilled over fixed batches.

    Per structure where both did the same; a peer that was given fewer is compared on the work of those.
    """
    for case in cases:
        sides = {one.side: one for one in measured if one.case == case and not one.wrong}
        if {"refilled", "fixed"} <= set(sides):
            yield _ratio(case, sides["refilled"], sides["fixed"])
        if "ours" in sides:
            for peer in set(sides) - {"ours", "refilled", "fixed"}:
                yield _ratio(case, sides["ours"], sides[peer])


def _ratio(case: Case, ours: Measured, theirs: Measured) -> dict[str, Any]:
    count = len(theirs.task.structures)
    # 1 if both did all: what their structures cost us, over what ours cost us on average.
    harder = float(ours.work[:count].mean() / ours.work.mean())
    of_ours, of_theirs = ours.rates(), theirs.rates()
    return {
        "case": case.name,
        "of": f"{ours.side} / {theirs.side}",
        "structures_per_s": of_ours["structures_per_s"] / of_theirs["structures_per_s"] / harder,
        "structures_per_cpu_s": of_ours["structures_per_cpu_s"] / of_theirs["structures_per_cpu_s"] / harder,
        "atom_steps_per_s": of_ours["atom_steps_per_s"] / of_theirs["atom_steps_per_s"],
        "processes": [ours.answer.n_processes, theirs.answer.n_processes],
        "largest_difference_in_steps": int(np.abs(ours.answer.relaxed.n_steps[:count] - theirs.answer.relaxed.n_steps).max()),
    }
