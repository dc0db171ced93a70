"""Reading a published store: a random structure, the per-system table, a sum over all atoms, next to what memory and disk allow.

    python benchmarks/store_read.py            # 10^6 structures
    python benchmarks/store_read.py --quick    # 10^5, within a minute on two cores
    python benchmarks/store_read.py --check    # exit code 1 and a line for each target that is missed

What is read is compared with what was written before a time counts. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from figures import Target, hardware, print_missed, versions, write_json

import campaign
from campaign.analysis import StoreView, Systems
from campaign.fields import FIELDS, STORE_FIELDS
from campaign.store import write_store
from campaign.store.audit import audit_store
from campaign.store.consolidation_plan import choose_chunking
from campaign.testing.synthetic import SyntheticSystems, synthetic_systems

TEMPLATE: Final = 50_000
"""Structures that are made up; more are copies of these, far enough apart that no compressor sees it."""

TEXT: Final = ("formula", "elements", "source", "error", "info")
"""Columns that are words, and words made from atoms; the others are numbers, and the outcome."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that was timed: the middle of `seconds`, and what one of them did."""

    name: str
    seconds: list[float]
    structures: int
    n_bytes: int = 0

    @property
    def middle_s(self) -> float:
        """The median."""
        return float(np.median(self.seconds))

    def to_json(self) -> dict[str, Any]:
        """The figure as the JSON has it."""
        return {
            "name": self.name,
            "middle_s": self.middle_s,
            "p90_s": float(np.quantile(self.seconds, 0.9)),
            "structures_per_s": self.structures / self.middle_s,
            "gb_per_s": self.n_bytes / 1e9 / self.middle_s,
            "seconds": self.seconds,
        }

    def line(self) -> str:
        """The figure in one line."""
        rate = f", {self.n_bytes / 1e9 / self.middle_s:.2f} GB/s" if self.n_bytes else ""
        return f"  {self.name:<34} {self.middle_s * 1e3:10.2f} ms, 90 % within {np.quantile(self.seconds, 0.9) * 1e3:.2f} ms{rate}"


def main() -> int:
    """Run the benchmark; return the exit code."""
    options = _options()
    machine = hardware()
    print(f"{machine['cpu']}, {machine['usable_cores']} cores, load {machine['load_average']}; {options.n} structures", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="store-read-", dir=options.folder))
    try:
        systems = tiled(options.n)
        write(folder / "store.zarr", systems)
        wrong = differences(campaign.open(folder / "store.zarr"), systems)
        figures = [] if wrong else list(measure(folder / "store.zarr", systems, options.repeats))
    finally:
        shutil.rmtree(folder)
    for text in wrong:
        print(f"WRONG {text}")
    for figure in figures:
        print(figure.line())
    ratios = ratios_of(figures)
    targets = targets_of(figures, ratios)
    for target in targets:
        print("  " + target.line())
    write_json(
        options.output,
        "store_read",
        options={"quick": options.quick, "n": options.n, "repeats": options.repeats, "n_atoms": int(systems.n_atoms.sum())},
        figures=[figure.to_json() for figure in figures],
        ratios=ratios,
        targets=targets,
        versions={"ours": versions(["relax-campaign", "zarr", "numcodecs", "numpy", "dask", "pandas"])},
        hardware=machine,
    )
    print(f"wrote {options.output}")
    missed = print_missed(targets) if options.check else 0
    return 1 if wrong else missed


def tiled(n_systems: int) -> SyntheticSystems:
    """Return made-up systems of 4 to 32 atoms, with ids that rise."""
    template = synthetic_systems(min(n_systems, TEMPLATE), odds=(0.95, 0.03, 0.01, 0.0, 0.01))
    copies = -(-n_systems // len(template))
    n_atoms = np.tile(template.n_atoms, copies)[:n_systems]
    rows = {"atom": int(n_atoms.sum()), "system": n_systems}
    columns = {}
    for name, values in template.columns.items():
        shape = (copies, *(1 for _ in values.shape[1:]))
        columns[name] = np.tile(values, shape)[: rows[FIELDS[name].level]]
    columns["system_id"] = np.arange(n_systems)[:, None]
    return SyntheticSystems(n_atoms, columns)


def write(target: Path, systems: SyntheticSystems) -> None:
    """Write the store with the chunks and output shards of a published one."""
    begun = time.perf_counter()
    chunking = choose_chunking(len(systems), int(systems.n_atoms.sum()))
    columns = {field.name: systems.columns[field.name] for field in STORE_FIELDS}
    write_store(target, STORE_FIELDS, systems.n_atoms, columns, chunking=chunking)
    n_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"  wrote {n_bytes / 1e9:.2f} GB in {time.perf_counter() - begun:.0f} s", flush=True)


def differences(store: StoreView, systems: SyntheticSystems, seed: int = 1) -> list[str]:
    """Say in what the store differs from what was written."""
    wrong = []
    starts = np.cumsum(systems.n_atoms) - systems.n_atoms
    for at in np.random.default_rng(seed).integers(0, len(systems), 20).tolist():
        atoms, span = store[at], slice(starts[at], starts[at] + systems.n_atoms[at])
        same = np.array_equal(atoms.positions, systems.columns["positions"][span])
        if not same or atoms.info["system_id"] != at or not np.array_equal(atoms.numbers, systems.columns["atomic_numbers"][span]):
            wrong.append(f"structure {at} is another one")
    frame = store.frame(["energy", "n_atoms"])
    if not np.array_equal(frame["energy"], systems.columns["energy"].ravel(), equal_nan=True):
        wrong.append("the table has other energies")
    sums = store.map_systems(squares, ["forces"], {"square": "float64"}).compute()["square"]
    if not np.allclose(sums, in_memory(systems.columns["forces"], starts), rtol=1e-12):
        wrong.append("the sums over atoms are other ones")
    return wrong


def measure(path: Path, systems: SyntheticSystems, repeats: int) -> list[Figure]:
    """Time everything."""
    store = campaign.open(path)
    n_systems, forces = len(systems), systems.columns["forces"]
    random = np.random.default_rng(2)
    numbers = [name for name in store.columns if name not in TEXT]
    starts = np.cumsum(systems.n_atoms) - systems.n_atoms
    files = sorted(file for file in (path / "core/forces").rglob("*") if file.is_file())
    mapped = store.map_systems(squares, ["forces"], {"square": "float64"})
    figures = [Figure("opening", timed(lambda: len(campaign.open(path)), repeats), n_systems)]
    store[0]
    figures += [
        Figure("a random structure", timed(lambda: store[int(random.integers(n_systems))], 200), 1),
        Figure("the next structure", timed(following(store), min(200, n_systems // 2)), 1),
        Figure("the table, numbers and outcome", timed(lambda: store.frame(numbers), repeats), n_systems),
        Figure("the table, all columns", timed(lambda: store.frame(), 1), n_systems),
        Figure("sum over atoms, warm", timed(lambda: mapped.compute(), repeats), n_systems, forces.nbytes),
        Figure("sum over atoms, cold", timed(lambda: mapped.compute(), repeats, lambda: forget(files)), n_systems, forces.nbytes),
        Figure("numpy's sum in memory", timed(lambda: in_memory(forces, starts), repeats), n_systems, forces.nbytes),
        Figure("reading the files, cold", timed(lambda: read(files), repeats, lambda: forget(files)), n_systems, forces.nbytes),
        Figure("reading the files, warm", timed(lambda: read(files), repeats), n_systems, forces.nbytes),
    ]
    n_bytes = audit_store(path, STORE_FIELDS, "").n_bytes
    figures.append(Figure("decoding every chunk (verify)", timed(lambda: audit_store(path, STORE_FIELDS, ""), 1), n_systems, n_bytes))
    return figures


def following(store: StoreView) -> Callable[[], object]:
    """Return a call that reads one structure after the other."""
    places = iter(range(min(1000, len(store) // 2), len(store)))
    return lambda: store[next(places)]


def timed(call: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None) -> list[float]:
    """Return the seconds of each call."""
    seconds = []
    for _ in range(repeats):
        before()
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return seconds


def squares(systems: Systems) -> dict[str, np.ndarray]:
    """Return Σ|F|² of each system."""
    forces = systems["forces"]
    return {"square": np.add.reduceat(np.einsum("ij,ij->i", forces, forces), systems.atoms_ptr[:-1])}


def in_memory(forces: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the same of an array in memory."""
    return np.add.reduceat(np.einsum("ij,ij->i", forces, forces), starts)


def forget(files: Sequence[Path]) -> None:
    """Ask the kernel to drop the pages of files, which are on disk already."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: Sequence[Path]) -> None:
    """Read files to their end."""
    for file in files:
        file.read_bytes()


def ratios_of(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Bandwidth of the sum over atoms over that of memory and of the disk."""
    by_name = {figure.name: figure for figure in figures}
    pairs = (
        ("sum over atoms, cold", "reading the files, cold"),
        ("sum over atoms, warm", "reading the files, warm"),
        ("sum over atoms, warm", "numpy's sum in memory"),
    )
    return [
        {"of": f"{ours} / {theirs}", "bandwidth": by_name[theirs].middle_s / by_name[ours].middle_s} for ours, theirs in pairs if by_name
    ]


def targets_of(figures: Sequence[Figure], ratios: Sequence[dict[str, Any]]) -> list[Target]:
    """The targets: rates, since more is better there."""
    by_name = {figure.name: figure for figure in figures}
    if not by_name:
        return []
    table = by_name["the table, numbers and outcome"]
    best = max(ratios, key=lambda ratio: ratio["bandwidth"])
    return [
        Target("random structures a second", 200.0, 1 / by_name["a random structure"].middle_s, "5 ms each, page cache warm"),
        Target("rows of the table a second", 1e6, table.structures / table.middle_s, "the table of 10^6 in 1 s"),
        Target("sum over atoms", 0.5, best["bandwidth"], f"of the bandwidth of memory or disk: {best['of']}"),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10^5 structures")
    parser.add_argument("--check", action="store_true", help="print each missed target and exit with code 1 if there is one")
    parser.add_argument("--n", type=int, default=0, help="structures")
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where the store is made; on the file system in question")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/store_read.json"))
    options = parser.parse_args()
    options.n = options.n or (100_000 if options.quick else 1_000_000)
    options.repeats = options.repeats or (3 if options.quick else 5)
    if options.n < 20:
        parser.error(f"argument --n: {options.n} is not at least 20")
    return options


if __name__ == "__main__":
    sys.exit(main())
