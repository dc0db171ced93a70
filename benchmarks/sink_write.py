"""Structures per second into a store and out of it again: our sink next to nvalchemi-toolkit's, and next to a plain file.

    python benchmarks/sink_write.py            # all sizes, some minutes
    python benchmarks/sink_write.py --quick    # within a minute on two cores
    python benchmarks/sink_write.py --check    # exit code 1 and a line for each target that is missed

Structures of 40 atoms with ten fields each. Both sinks have one interface and get the same values; what is read back is compared with them
before a time counts. Ours is timed until all is durable. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from figures import Target, hardware, print_missed, versions, write_json
from sides.sinks import SinkTask

Figure = Mapping[str, Any]

MANY: Final = {False: 100_000, True: 8_000}
"""The most structures, by whether the run is quick."""
PER_WRITE: Final = (1, 4, 64, 512)
PACKAGES: Final = ("relax-campaign", "nvalchemi-toolkit", "torch", "numpy", "zarr", "numcodecs")


def tasks_of(side: str, quick: bool, many: int, their_most: int) -> list[SinkTask]:
    """Return what a side does. Theirs can do only so many in some seconds, and reads back a few dozen a second."""
    counts = {1: 40, 4: 200, 64: 320, 512: 1024} if quick else {1: 200, 4: 800, 64: 3200, 512: 5120}
    counts = {per_write: min(count, their_most) for per_write, count in counts.items()}
    if side == "nvalchemi":
        return [SinkTask(per_write, counts[per_write], reads=per_write == 4) for per_write in PER_WRITE]
    largest = [SinkTask(per_write, many, repeats=3 if per_write >= 64 else 1, compares_with_file=True) for per_write in PER_WRITE]
    return [
        *(SinkTask(per_write, counts[per_write], repeats=5) for per_write in (4, 64)),
        *largest,
        SinkTask(64, many, flushes="tenth"),
        SinkTask(4, min(counts[4], 40), flushes="write"),
    ]


def run_side(side: str, tasks: Sequence[SinkTask], folder: Path) -> Iterator[Figure]:
    """Do tasks in a process of its own, which the other side has not warmed up or burdened; yield figures."""
    command = [sys.executable, "-m", "sides.sinks", side, str(folder), json.dumps([asdict(task) for task in tasks])]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("@side "):
                yield _with_rates(json.loads(line.removeprefix("@side ")))
    if process.returncode:
        raise SystemExit(f"the process of {side} ended with code {process.returncode}; see its error above")


def _with_rates(figure: dict[str, Any]) -> Figure:
    seconds = statistics.median(figure["seconds"])
    figure |= {
        "structures_per_s": figure["count"] / seconds,
        "mb_per_s": figure["n_bytes"] / 1e6 / seconds,
        "last_over_first_tenth": figure["tenths_s"][-1] / figure["tenths_s"][0] if figure["tenths_s"] else None,
        "structures_per_file": figure["count"] / figure["n_files"],
    }
    figure["read_structures_per_s"] = figure["count"] / statistics.median(figure["read_s"]) if figure["read_s"] else None
    # Each repeat over the mean of the files before and after it: the disk of a busy machine is not the same for long.
    between = [(before + after) / 2 for before, after in zip(figure["file_s"], figure["file_s"][1:], strict=False)]
    figure["bandwidth_over_file"] = statistics.median(b / s for b, s in zip(between, figure["seconds"], strict=True)) if between else None
    return figure


def line_of(figure: Figure) -> str:
    """Return a figure in one line."""
    text = (
        f"  {figure['side']:<9} {figure['per_write']:>4} per write {figure['count']:>7} structures"
        f" {figure['structures_per_s']:>9.4g}/s {figure['mb_per_s']:>7.4g} MB/s {figure['n_files']:>6} files"
    )
    if figure["flushes"]:
        text += f", flushed each {figure['flushes']}"
    for key, what in (
        ("last_over_first_tenth", "last/first tenth {:.2f}"),
        ("read_structures_per_s", "read {:.4g}/s"),
        ("bandwidth_over_file", "{:.0%} of tofile + fsync"),
    ):
        if figure[key] is not None:
            text += ", " + what.format(figure[key])
    return text


def ratios_of(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return ours over theirs, by structures per write: with the same number of structures, and with the most of ours."""
    ratios = []
    for theirs in (figure for figure in figures if figure["side"] == "nvalchemi"):
        ours = [f for f in figures if f["side"] == "ours" and f["per_write"] == theirs["per_write"] and not f["flushes"]]
        for one in sorted(ours, key=lambda f: int(f["count"])):
            ratio = {"per_write": theirs["per_write"], "count": one["count"], "of": "ours / nvalchemi", "their_count": theirs["count"]}
            ratio["structures_per_s"] = one["structures_per_s"] / theirs["structures_per_s"]
            if theirs["read_s"]:
                ratio["read_structures_per_s"] = one["read_structures_per_s"] / theirs["read_structures_per_s"]
            ratios.append(ratio)
    return ratios


def targets_of(figures: Sequence[Figure], ratios: Sequence[Mapping[str, Any]]) -> list[Target]:
    """Return the targets that the figures say something about."""
    by_count = {(ratio["per_write"], ratio["count"] == ratio["their_count"]): ratio for ratio in ratios}
    targets = []
    if (4, True) in by_count:
        same, basis = by_count[4, True], f"over nvalchemi's ZarrData, both {by_count[4, True]['count']} structures"
        targets.append(Target("4 per write", 500, same["structures_per_s"], basis))
        targets.append(Target("reading all back", 500, same["read_structures_per_s"], basis))
    if (64, False) in by_count:
        most = by_count[64, False]
        basis = f"ours with {most['count']} structures over nvalchemi's ZarrData with {most['their_count']}"
        targets.append(Target("64 per write", 100, most["structures_per_s"], basis))
    for figure in (f for f in figures if f["side"] == "ours"):
        name = f"{figure['count']} structures, {figure['per_write']} per write"
        if figure["flushes"] == "tenth":
            targets.append(
                Target(f"{name}, first tenth over last", 1 / 1.2, 1 / figure["last_over_first_tenth"], "the time until each is durable")
            )
        if figure["compares_with_file"] and figure["per_write"] >= 64:
            targets.append(Target(f"{name}, bandwidth", 0.6, figure["bandwidth_over_file"], "over numpy.tofile and fsync"))
            if figure["count"] >= MANY[False]:
                targets.append(Target(f"{name}, structures per file", 1000, figure["structures_per_file"], "in the closed store"))
    return targets


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer structures")
    parser.add_argument("--check", action="store_true", help="print each missed target and exit with code 1 if there is one")
    parser.add_argument("--sides", nargs="+", default=["nvalchemi", "ours"], choices=["nvalchemi", "ours"])
    parser.add_argument("--many", type=int, metavar="N", help="the most structures that ours writes")
    parser.add_argument("--their-most", type=int, default=sys.maxsize, metavar="N", help="the most that nvalchemi's writes")
    parser.add_argument("--folder", type=Path, help="write below this folder: its disk is what is measured (default: the temporary folder)")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/sink_write.json"))
    options = parser.parse_args()
    many = options.many or MANY[options.quick]
    if many < 704:
        parser.error(f"argument --many: {many} is not at least 704, eleven writes of 64")
    machine = hardware()
    print(f"{machine['cpu']}, {machine['usable_cores']} cores, load {machine['load_average']}", flush=True)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for side in options.sides:
            for figure in run_side(side, tasks_of(side, options.quick, many, options.their_most), Path(folder)):
                figures.append(figure)
                print(line_of(figure), flush=True)
    ratios = ratios_of(figures)
    targets = targets_of(figures, ratios)
    for target in targets:
        print("  " + target.line())
    write_json(
        options.output,
        "sink_write",
        options={"quick": options.quick, "sides": options.sides, "many": many, "n_atoms": 40},
        figures=figures,
        ratios=ratios,
        targets=targets,
        versions={side: versions(PACKAGES) for side in options.sides},
        hardware=machine,
    )
    print(f"\nwrote {options.output}")
    return print_missed(targets) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
