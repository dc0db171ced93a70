"""Relaxed structures per second: our engine and its peers on the same structures, side by side.

    python benchmarks/relax_throughput.py            # all sizes, some minutes
    python benchmarks/relax_throughput.py --quick    # within a minute on two cores
    python benchmarks/relax_throughput.py --check    # exit code 1 and a line for each target that is missed

Each side is one process with one thread, warmed up before anything is timed, and they take turns case by case. Before a time counts, ASE
recomputes the forces and energies of what the side returned. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from figures import ONE_THREAD, Target, hardware, print_missed, versions, write_json
from sides.ase_calculators import disagreements
from sides.exchange import Answer, Settings, Task
from sides.processes import SIDES, RunningSide
from sides.workloads import RATTLE_ANG, WORKLOADS

FMAX_EV_PER_ANG: Final = 1e-3
MAX_STEPS: Final = 2000
SINGLES: Final = 8
"""Structures that are relaxed one at a time for N = 1, where a single one would say little."""

FULL: Final = {"A": [1, 16, 128, 512], "B": [16, 128, 512], "C": [16, 128]}
QUICK: Final = {"A": [1, 16, 128], "B": [16], "C": [16]}
SERIAL_FULL: Final = {"A": 16, "B": 8, "C": 9}
SERIAL_QUICK: Final = {"A": 4, "B": 2, "C": 3}
"""The most structures of a workload that a serial side is given: its rate does not depend on how many there are."""

RECORDED: Final[dict[tuple[str, int], dict[str, float]]] = {
    ("A", 1): {"torch-sim": 3.1, "nvalchemi": 11.1},
    ("A", 16): {"torch-sim": 20, "nvalchemi": 66, "compiled": 3900},
    ("A", 128): {"torch-sim": 36, "nvalchemi": 171, "compiled": 3850},
    ("A", 512): {"torch-sim": 34, "nvalchemi": 204, "compiled": 3750},
    ("B", 16): {"torch-sim": 13, "nvalchemi": 31, "compiled": 590},
    ("B", 128): {"torch-sim": 16, "nvalchemi": 36, "compiled": 600},
}
"""Structures/s of others, recorded on one machine with two cores; `compiled` on one core. At N = 1: of one structure, size unknown."""
RECORDED_ASE: Final = {"A": 10.6, "B": 6.0}
"""Structures/s of plain ASE on that machine: the yardstick that carries the figures above to the machine of today."""
PEERS: Final = ("ase", "torch-sim", "nvalchemi")
LEAST: Final = {"A": 12.0, "B": 10.0}
"""Times the best peer, at N ≥ 16."""
LEAST_SINGLE: Final = 20.0
LEAST_OF_COMPILED: Final = 0.5
LEAST_ALLOY: Final = 50.0
"""Times ASE, on C."""


@dataclass(frozen=True, slots=True)
class Case:
    """N structures of a workload."""

    workload: str
    n: int

    @property
    def name(self) -> str:
        """Name to print."""
        return f"{self.workload} N={self.n}"

    @property
    def count(self) -> int:
        """Structures to relax."""
        return SINGLES if self.n == 1 else self.n


def main() -> int:
    """Run the benchmark; return the exit code."""
    options = _options()
    workloads = QUICK if options.quick else FULL
    cases = [Case(workload, n) for workload, sizes in {**workloads, **options.n}.items() for n in sizes]
    serial = {**(SERIAL_QUICK if options.quick else SERIAL_FULL), **options.n_serial}
    least_s, most_repeats = (0.3, 3) if options.quick else (2.0, 5)
    machine = hardware()
    print(f"{machine['cpu']}, {machine['usable_cores']} cores, load {machine['load_average']}; one thread a side", flush=True)
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        running = [closing.enter_context(RunningSide(name, Path(folder))) for name in options.sides]
        for side in running:
            side.wait_until_ready()
        for case in cases:
            workload = WORKLOADS[case.workload]
            print(f"\n{case.name}: {workload.what}", flush=True)
            structures = workload.structures(case.count)
            settings = Settings(workload.potential, workload.options, FMAX_EV_PER_ANG, MAX_STEPS, case.n, least_s, most_repeats)
            # Peers first: what follows a long wait finds a cooler and a busier machine, and that should not be to our advantage.
            for side in reversed(running):
                count = min(case.count, serial[case.workload]) if SIDES[side.name].is_serial else case.count
                task = Task(settings, structures.part(0, count))
                answer = side.ask(task)
                measured.append(Measured(case, side.name, task, answer, disagreements(task.structures, answer.relaxed, settings)))
                print(measured[-1].line(), flush=True)
    ratios = list(_ratios(cases, measured))
    targets = list(_targets(cases, ratios))
    _print_summary(ratios, targets)
    write_json(
        options.output,
        "relax_throughput",
        options={
            "quick": options.quick,
            "n": {**workloads, **options.n},
            "n_serial": serial,
            "fmax_ev_per_ang": FMAX_EV_PER_ANG,
            "max_steps": MAX_STEPS,
            "rattle_ang": RATTLE_ANG,
            "threads": ONE_THREAD,
            "singles": SINGLES,
        },
        figures=[one.figure() for one in measured],
        ratios=ratios,
        targets=targets,
        versions={name: versions(SIDES[name].packages) for name in options.sides},
        hardware=machine,
    )
    print(f"\nwrote {options.output}")
    wrong = [one for one in measured if one.wrong]
    for one in wrong:
        print(f"WRONG {one.case.name} {one.side}: {one.wrong[0]} ({len(one.wrong)} in all)")
    missed = print_missed(targets) if options.check else 0
    return 1 if wrong else missed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--check", action="store_true", help="print each missed target and exit with code 1 if there is one")
    parser.add_argument("--n", nargs="+", default={}, metavar="A=16,128", type=_sizes, help="numbers of structures; A= leaves A out")
    parser.add_argument("--n-serial", nargs="+", default={}, metavar="A=8", type=_sizes, help="the most structures for a serial side")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/relax_throughput.json"))
    options = parser.parse_args()
    options.n = dict(options.n)
    options.n_serial = {workload: sizes[0] for workload, sizes in dict(options.n_serial).items() if sizes}
    return options


def _sizes(text: str) -> tuple[str, list[int]]:
    workload, equals, sizes = text.partition("=")
    counts = [int(size) for size in sizes.split(",") if size]
    if not equals or workload not in WORKLOADS or min(counts, default=1) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like A=16,128 with one of {', '.join(WORKLOADS)} and sizes of at least 1")
    return workload, counts


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

    def figure(self) -> dict[str, Any]:
        """Return it for the JSON; rates are None where the answer is wrong."""
        relaxed = self.answer.relaxed
        rates = self.rates()
        return {
            "case": self.case.name,
            "workload": self.case.workload,
            "n": self.case.n,
            "side": self.side,
            "n_structures": len(self.task.structures),
            "mean_atoms": float(self.task.structures.n_atoms.mean()),
            **(dict.fromkeys(rates) if self.wrong else rates),
            "atom_steps": int(self.work.sum()),
            "steps": {name: float(np.quantile(relaxed.n_steps, q)) for name, q in (("min", 0), ("median", 0.5), ("max", 1))},
            "n_converged": int(relaxed.converged.sum()),
            "seconds": self.answer.seconds,
            "cpu_seconds": self.answer.cpu_seconds,
            "part_shares": {part: part_s / self.seconds for part, part_s in relaxed.parts_s.items()},
            "peak_memory_mib": self.answer.peak_memory_mib,
            "disagreements": self.wrong,
        }

    def line(self) -> str:
        """Return it for people."""
        if self.wrong:
            return f"  {self.side:<5} WRONG: {self.wrong[0]}"
        figure = self.figure()
        steps = figure["steps"]
        text = (
            f"  {self.side:<5} {figure['structures_per_s']:9.4g} structures/s {figure['atom_steps_per_s']:9.3g} atom-steps/s"
            f" {figure['structures_per_cpu_s']:9.4g} structures/CPU-s | {figure['n_converged']} of {figure['n_structures']} converged,"
            f" steps {steps['min']:.0f}–{steps['median']:.0f}–{steps['max']:.0f} | {figure['peak_memory_mib']:.0f} MiB"
        )
        shares = sorted(figure["part_shares"].items(), key=lambda part: -part[1])
        return text + ("\n        " + ", ".join(f"{part} {share:.0%}" for part, share in shares) if shares else "")


def _ratios(cases: Sequence[Case], measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Yield ours over each peer. Per structure where both did the same; a peer that was given fewer is compared on the work of those."""
    for case in cases:
        sides = {one.side: one for one in measured if one.case == case and not one.wrong}
        ours = sides.pop("ours", None)
        if ours is None:
            continue
        for peer, theirs in sides.items():
            count = len(theirs.task.structures)
            # 1 if both did all: what their structures cost us, over what ours cost us on average.
            harder = float(ours.work[:count].mean() / ours.work.mean())
            of_ours, of_theirs = ours.rates(), theirs.rates()
            yield {
                "case": case.name,
                "of": f"ours / {peer}",
                "structures_per_s": of_ours["structures_per_s"] / of_theirs["structures_per_s"] / harder,
                "structures_per_cpu_s": of_ours["structures_per_cpu_s"] / of_theirs["structures_per_cpu_s"] / harder,
                "atom_steps_per_s": of_ours["atom_steps_per_s"] / of_theirs["atom_steps_per_s"],
                "largest_difference_in_steps": int(np.abs(ours.answer.relaxed.n_steps[:count] - theirs.answer.relaxed.n_steps).max()),
            }


def _targets(cases: Sequence[Case], ratios: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    """Yield the targets of the cases that were run.

    A peer that did not run is represented by its recorded figure, carried to this machine by plain ASE: recorded peer / recorded ASE is
    taken for what it does here, in units of ASE.
    """
    for case in cases:
        over = {ratio["of"].removeprefix("ours / "): ratio["structures_per_s"] for ratio in ratios if ratio["case"] == case.name}
        if "ase" not in over:
            continue
        if case.workload == "C":
            yield Target(f"{case.name} over ASE", LEAST_ALLOY, over["ase"], "both in this run")
            continue
        recorded_n = max((n for workload, n in RECORDED if workload == case.workload and n <= case.n), default=None)
        recorded = RECORDED.get((case.workload, recorded_n or 0), {})
        times_ase = {side: rate / RECORDED_ASE[case.workload] for side, rate in recorded.items()}
        basis = {peer: (over[peer], "in this run") for peer in PEERS if peer in over}
        for peer in set(PEERS) & set(times_ase) - set(over):
            basis[peer] = (over["ase"] / times_ase[peer], f"as recorded at N={recorded_n}: {times_ase[peer]:.3g} times ASE")
        best = min(basis, key=lambda peer: basis[peer][0])
        least = LEAST_SINGLE if case.n == 1 else LEAST[case.workload]
        yield Target(f"{case.name} over the best peer", least, basis[best][0], f"{best} {basis[best][1]}")
        if case.n >= 128 and "compiled" in times_ase:
            share = over["ase"] / times_ase["compiled"]
            text = f"one core, as recorded at N={recorded_n}: {times_ase['compiled']:.3g} times ASE"
            yield Target(f"{case.name} as a share of compiled code", LEAST_OF_COMPILED, share, text)


def _print_summary(ratios: Sequence[Mapping[str, Any]], targets: Sequence[Target]) -> None:
    if ratios:
        print("\nratios: structures/s, structures/CPU-s, atom-steps/s, largest difference in steps")
    for ratio in ratios:
        values = [f"{ratio[key]:8.4g}" for key in ("structures_per_s", "structures_per_cpu_s", "atom_steps_per_s")]
        print(f"  {ratio['case']:<8} {ratio['of']}: {'  '.join(values)}  {ratio['largest_difference_in_steps']:.0f}")
    if targets:
        print("\ntargets")
    for target in targets:
        print("  " + target.line())


if __name__ == "__main__":
    sys.exit(main())
