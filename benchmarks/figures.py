"""What every benchmark shares: what it ran on, targets that are met or missed, and its JSON.

The JSON of each benchmark has `benchmark`, `options`, `figures`, `ratios`, `targets`, `versions` and `hardware`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ONE_THREAD: Final = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")}
"""Environment in which numerical libraries use one thread; it must be set before they are imported."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that must be reached."""

    name: str
    at_least: float
    measured: float
    basis: str
    """What the figure was measured against, and where that comes from."""

    @property
    def is_met(self) -> bool:
        """Whether it was reached; NaN reaches nothing."""
        return self.measured >= self.at_least

    def line(self) -> str:
        """Return the target in one line."""
        return f"{'met   ' if self.is_met else 'MISSED'} {self.name}: {self.measured:.3g}, at least {self.at_least:g} ({self.basis})"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return what the benchmark runs on, and how busy that was when it began."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    names = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": next(names, "") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable or 1,
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def write_json(
    path: Path,
    benchmark: str,
    *,
    options: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    ratios: Sequence[Mapping[str, Any]],
    targets: Sequence[Target],
    versions: Mapping[str, Mapping[str, str]],
    hardware: Mapping[str, Any],
) -> None:
    """Write what a benchmark found."""
    contents = {
        "benchmark": benchmark,
        "options": options,
        "figures": figures,
        "ratios": ratios,
        "targets": [{**asdict(target), "is_met": target.is_met} for target in targets],
        "versions": versions,
        "hardware": hardware,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def print_missed(targets: Sequence[Target]) -> int:
    """Print each missed target and return the exit code of `--check`."""
    missed = [target for target in targets if not target.is_met]
    for target in missed:
        print(target.line())
    print(f"{len(targets) - len(missed)} of {len(targets)} targets met")
    return 1 if missed else 0
