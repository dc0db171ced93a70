"""The virtual environments of the peers, one each, under runs/benchmarks/environments.

    python benchmarks/environments.py             # make those that are missing
    python benchmarks/environments.py compiled    # make one anew

What goes into them is pinned in benchmarks/constraints.txt. torch comes first and alone, for the pinned release has a CPU wheel.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "runs" / "benchmarks" / "environments"
CONSTRAINTS: Final = Path(__file__).with_name("constraints.txt")
MADE: Final = "made"
"""A file in an environment that is complete."""
NEWER_PYTHON: Final = (3, 12)


@dataclass(frozen=True, slots=True)
class Environment:
    """What is installed, and how."""

    installs: Sequence[Sequence[str]]
    """Arguments of one `pip install` after the other."""
    imports: str
    """A module that must then be importable."""
    has_torch: bool = True
    wants_newer_python: bool = False


ENVIRONMENTS: Final = {
    "compiled": Environment([["numba"]], "numba", has_torch=False),
    "torch-sim": Environment([["torch-sim-atomistic"]], "torch_sim", wants_newer_python=True),
    "nvalchemi": Environment(
        [
            [
                *("nvalchemi-toolkit-ops", "numpy", "warp-lang", "dm-tree", "jaxtyping", "loguru", "periodictable", "plotext", "pydantic"),
                *("plum-dispatch", "requests", "rich", "s3fs", "tensordict", "termcolor", "tqdm", "treelib", "zarr"),
            ],
            # What physicsnemo declares is several GB; what its one use here, to mark what is profiled, imports is in the line above.
            ["--no-deps", "nvalchemi-toolkit", "nvidia-physicsnemo"],
        ],
        "nvalchemi.dynamics",
    ),
}


def python_of(name: str) -> Path | None:
    """Return the interpreter of an environment; None if it is missing or incomplete."""
    return FOLDER / name / "bin" / "python" if (FOLDER / name / MADE).exists() else None


def main() -> int:
    """Make environments; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)}: make it anew")
    names = parser.parse_args().names
    if unknown := set(names) - set(ENVIRONMENTS):
        parser.error(f"unknown environments: {', '.join(sorted(unknown))}")
    failed = []
    for name in names or ENVIRONMENTS:
        if not names and python_of(name):
            print(f"{name}: is there")
        elif not _make(name):
            failed.append(name)
    if failed:
        print(f"not made: {', '.join(failed)}; what pip said is above. The benchmark runs without them.")
    return 1 if failed else 0


def _make(name: str) -> bool:
    """Make an environment; return whether it is complete."""
    environment = ENVIRONMENTS[name]
    newer = _newer_python() if environment.wants_newer_python else None
    if newer and _made_with(newer, name, cpu_only=True):
        return True
    if newer:
        print(f"{name}: no CPU wheel of torch for {newer}; the older version of the peer, with this Python, must do", flush=True)
    return _made_with(sys.executable, name)


def _made_with(python: str, name: str, cpu_only: bool = False) -> bool:
    environment, folder = ENVIRONMENTS[name], FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: making {folder} with {python}", flush=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    own = str(folder / "bin" / "python")

    def installs(*arguments: str) -> bool:
        command = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(CONSTRAINTS), *arguments]
        # A wheel for CPUs that is not there is no error: the caller says what follows.
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL if cpu_only else None).returncode == 0

    # On Linux a wheel for CPUs is called that; the others bring several GB. Elsewhere all wheels are for CPUs.
    done = not environment.has_torch or installs(f"torch=={_torch_version()}+cpu" if cpu_only and sys.platform == "linux" else "torch")
    done = done and all(installs(*arguments) for arguments in environment.installs)
    done = done and subprocess.run([own, "-W", "ignore", "-c", f"import {environment.imports}"], check=False).returncode == 0
    if done:
        (folder / MADE).touch()
    return done


def _torch_version() -> str:
    """Return the version that is pinned."""
    pins = dict(line.partition("==")[::2] for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    return pins["torch"]


def _newer_python() -> str | None:
    """Return an interpreter of the newer version: this one, one on the path, or one that is installed beside this one."""
    if sys.version_info[:2] >= NEWER_PYTHON:
        return sys.executable
    version = ".".join(map(str, NEWER_PYTHON))
    beside = sorted(Path(sys.base_prefix).parent.glob(f"{version}*/bin/python{version}"))
    for candidate in (f"python{version}", *map(str, beside)):
        command = [candidate, "-c", "import ensurepip, venv"]
        try:
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                return candidate
        except FileNotFoundError:
            continue
    return None


if __name__ == "__main__":
    sys.exit(main())
