"""Relaxed structures per second: our engine and its peers on the same structures, side by side.

    python benchmarks/relax_throughput.py            # all sizes, many minutes
    python benchmarks/relax_throughput.py --quick    # within a minute on two cores, without peers that need environments of their own
    python benchmarks/relax_throughput.py --check    # exit code 1 and a line for each target that is missed

Each side has all cores, is warmed up before anything is timed, and they take turns case by case. Before a time counts, ASE recomputes the
forces and energies of what the side returned. `make bench-peers` makes the environments of the peers. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from figures import ONE_THREAD, Target, hardware, print_missed, write_json
from sides import overhead
from sides.ase_calculators import disagreements
from sides.exchange import Settings, Task
from sides.measured import Case, Measured, ratios_of
from sides.processes import SIDES, RunningSide
from sides.targets import targets_of
from sides.workloads import RATTLE_ANG, WORKLOADS

FMAX_EV_PER_ANG: Final = 1e-3
MAX_STEPS: Final = 2000

FULL: Final = {"A": [1, 16, 128, 512], "B": [16, 128, 512], "C": [16, 128], "D": [512], "H": [128]}
QUICK: Final = {"A": [1, 16, 128], "B": [16], "C": [16], "D": [64], "H": [2]}
SERIAL_FULL: Final = {"A": 16, "B": 8, "C": 10}
SERIAL_QUICK: Final = {"A": 4, "B": 2, "C": 3}
"""The most structures of a workload that a serial side is given: its rate does not depend on how many there are."""
SINGLES: Final = {False: 8, True: 4}
"""Structures that are relaxed one at a time for N = 1, where a single one would say little, by whether the run is quick."""
PLACES: Final = {"D": 8}
"""Where not all structures are in flight together: how many there are for one that is."""


def main() -> int:
    """Run the benchmark; return the exit code."""
    options = _options()
    sizes = {**(QUICK if options.quick else FULL), **options.n}
    cases = [Case(workload, n, _count(workload, n, options)) for workload, listed in sizes.items() for n in listed]
    machine = hardware()
    print(f"{machine['cpu']}, {machine['usable_cores']} cores, load {machine['load_average']}; {options.cores} a side", flush=True)
    sides = [name for name in options.sides if _is_at_hand(name, cases)]
    versions: dict[str, dict[str, str]] = {}
    measured: list[Measured] = []
    hooked: list[Measured] = []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.output.parent) as folder, ExitStack() as closing:
        running: dict[str, RunningSide] = {}
        for name in sides:
            if SIDES[name].module not in running:
                running[SIDES[name].module] = closing.enter_context(RunningSide(SIDES[name], Path(folder), options.cores))
        for name in sides:
            versions[name] = running[SIDES[name].module].versions()
            print(f"  {name:<9} {', '.join(f'{package} {version}' for package, version in versions[name].items())}", flush=True)
        for case in cases:
            print(f"\n{case.name}: {WORKLOADS[case.workload].what}", flush=True)
            # Peers first: what follows a long wait finds a cooler and a busier machine, and that should not be to our advantage.
            for name in reversed(sides):
                if case.workload not in SIDES[name].workloads or (options.quick and case.n > SIDES[name].most_when_quick):
                    continue
                if case.workload == overhead.WORKLOAD:
                    found = _measure_hooks(case, name, running[SIDES[name].module], options, folder)
                    hooked.extend(found)
                    for one in overhead.overheads_of(found):
                        print(one.line(), flush=True)
                else:
                    measured.append(_measure(case, name, running[SIDES[name].module], options))
                    print(measured[-1].line(), flush=True)
    ratios, overheads = list(ratios_of(cases, measured)), list(overhead.overheads_of(hooked))
    targets = [*targets_of(cases, ratios), *overhead.targets_of(cases, overheads)]
    _print_summary(ratios, targets)
    write_json(
        options.output,
        "relax_throughput",
        options={
            "quick": options.quick,
            "cores": options.cores,
            "n": sizes,
            "n_serial": options.n_serial,
            "fmax_ev_per_ang": FMAX_EV_PER_ANG,
            "max_steps": MAX_STEPS,
            "rattle_ang": RATTLE_ANG,
            "threads": ONE_THREAD,
        },
        figures=[*(one.figure() for one in measured), *overhead.figures_of(hooked)],
        ratios=[*ratios, *overhead.ratios_of(overheads)],
        targets=targets,
        versions=versions,
        hardware=machine,
    )
    print(f"\nwrote {options.output}")
    wrong = [one for one in (*measured, *hooked) if one.wrong]
    for one in wrong:
        hook = f" with {one.task.settings.hook}" if one.task.settings.hook else ""
        print(f"WRONG {one.case.name} {one.side}{hook}: {one.wrong[0]} ({len(one.wrong)} in all)")
    missed = print_missed(targets) if options.check else 0
    return 1 if wrong else missed


def _is_at_hand(name: str, cases: Sequence[Case]) -> bool:
    """Return whether a side can and should run; say so where its environment is missing."""
    if not any(case.workload in SIDES[name].workloads for case in cases):
        return False
    if SIDES[name].python is None:
        print(f"  {name:<9} left out: it has no environment; `make bench-peers` makes it")
        return False
    return True


def _count(workload: str, n: int, options: argparse.Namespace) -> int:
    """Return how many structures a case has."""
    if workload == overhead.WORKLOAD:
        return n * int(options.cores)  # a whole batch for each process
    return SINGLES[options.quick] if n == 1 else n


def _measure(case: Case, name: str, running: RunningSide, options: argparse.Namespace) -> Measured:
    workload, side = WORKLOADS[case.workload], SIDES[name]
    count = min(case.count, options.n_serial[case.workload]) if side.is_serial else case.count
    task = Task(_settings(case, name, options), workload.structures(count))
    answer = running.relax(task)
    return Measured(case, name, task, answer, disagreements(task.structures, answer.relaxed, task.settings))


def _measure_hooks(case: Case, name: str, running: RunningSide, options: argparse.Namespace, folder: str) -> list[Measured]:
    settings = replace(_settings(case, name, options), at_a_time=case.count, in_flight=case.count, folder=folder)
    return overhead.measure(case, name, running, settings, WORKLOADS[case.workload].structures(case.count), options.quick)


def _settings(case: Case, name: str, options: argparse.Namespace) -> Settings:
    workload = WORKLOADS[case.workload]
    least_s, most_repeats = (0.3, 3) if options.quick else (2.0, 5)
    return Settings(
        potential=workload.potential,
        options=workload.options,
        fmax_ev_per_ang=FMAX_EV_PER_ANG,
        max_steps=MAX_STEPS,
        at_a_time=case.n,
        in_flight=max(1, case.n // PLACES.get(case.workload, 1)),
        mode=SIDES[name].mode,
        least_s=least_s,
        most_repeats=most_repeats,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--check", action="store_true", help="print each missed target and exit with code 1 if there is one")
    parser.add_argument("--n", nargs="+", default={}, metavar="A=16,128", type=_sizes, help="numbers of structures; A= leaves A out")
    parser.add_argument("--n-serial", nargs="+", default={}, metavar="A=8", type=_sizes, help="the most structures for a serial side")
    parser.add_argument("--cores", type=int, default=min(2, hardware()["usable_cores"]), help="of each side, a process on each")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/relax_throughput.json"))
    options = parser.parse_args()
    if options.cores < 1:
        parser.error(f"argument --cores: {options.cores} is not at least 1")
    options.n = dict(options.n)
    given = {workload: sizes[0] for workload, sizes in dict(options.n_serial).items() if sizes}
    options.n_serial = {**(SERIAL_QUICK if options.quick else SERIAL_FULL), **given}
    return options


def _sizes(text: str) -> tuple[str, list[int]]:
    workload, equals, sizes = text.partition("=")
    counts = [int(size) for size in sizes.split(",") if size]
    if not equals or workload not in WORKLOADS or min(counts, default=1) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like A=16,128 with one of {', '.join(WORKLOADS)} and sizes of at least 1")
    return workload, counts


def _print_summary(ratios: Sequence[Mapping[str, Any]], targets: Sequence[Target]) -> None:
    if ratios:
        print("\nratios: structures/s, structures/CPU-s, atom-steps/s, largest difference in steps")
    for ratio in ratios:
        values = [f"{ratio[key]:8.4g}" for key in ("structures_per_s", "structures_per_cpu_s", "atom_steps_per_s")]
        print(f"  {ratio['case']:<8} {ratio['of']:<18} {'  '.join(values)}  {ratio['largest_difference_in_steps']:.0f}")
    if targets:
        print("\ntargets")
    for target in targets:
        print("  " + target.line())


if __name__ == "__main__":
    sys.exit(main())
