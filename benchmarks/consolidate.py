"""Consolidating synthetic campaigns: ours next to `cp -r` of the same bytes, and to `dask.array.to_zarr` where that can do it.

    python benchmarks/consolidate.py            # 10^5 and 10^6 structures in 10, 1,000 and 10,000 shards: half an hour, 15 GB of disk
    python benchmarks/consolidate.py --quick    # within a minute on two cores
    python benchmarks/consolidate.py --check    # exit code 1 and a line for each target that is missed

Each side is a process of its own; it begins after a `sync`, with the files in the page cache as they were written, and ends with a `sync`
that is part of its time. Before a time counts, the store is checked: each system once, and the digest equal for all numbers of shards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from figures import ONE_THREAD, Target, hardware, print_missed, versions, write_json
from numpy.typing import NDArray

from campaign.fields import INPUT_FIELDS, RESULT_FIELDS
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.store import StoreReader
from campaign.store.consolidation_plan import DEFAULT_BUDGET_BYTES
from campaign.store.csr import atom_rows, pointers
from campaign.store.digest import digest
from campaign.testing.plain_store import write_plain_store
from campaign.testing.synthetic import SyntheticSystems, shard_attributes, synthetic_systems

FULL: Final = {100_000: [10, 1_000, 10_000], 1_000_000: [10, 1_000, 10_000]}
QUICK: Final = {20_000: [10, 100]}
DASK_AT_MOST: Final = 1_000
"""Shards beyond which dask.array, with some tasks per array and shard, takes longer to plan than everybody else to write."""

MEDIAN_ATOMS: Final = 14
SPREAD: Final = 0.9
MOST_ATOMS: Final = 600
"""Sizes are log-normal with this median and spread of the logarithm, cut here: 20 atoms on average, 110 in one of a hundred."""

PART: Final = 100_000
"""Structures that are made at a time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One side on one campaign."""

    n_structures: int
    n_shards: int
    side: str
    n_bytes: int
    seconds: float
    peak_mib: float

    @property
    def gb_per_s(self) -> float:
        """Bytes of shards and inputs over seconds."""
        return self.n_bytes / self.seconds / 1e9

    def line(self) -> str:
        """Return the figure in one line."""
        return f"  {self.side:<14} {self.seconds:8.2f} s  {self.gb_per_s:7.3f} GB/s  peak {self.peak_mib:7.0f} MiB"

    def figure(self) -> dict[str, Any]:
        """Return the figure for the JSON."""
        return {
            "case": f"N={self.n_structures} shards={self.n_shards}",
            "n_structures": self.n_structures,
            "n_shards": self.n_shards,
            "side": self.side,
            "n_bytes": self.n_bytes,
            "seconds": self.seconds,
            "gb_per_s": self.gb_per_s,
            "peak_memory_mib": self.peak_mib,
        }


def main() -> int:
    """Run the benchmark; return the exit code."""
    options = _options()
    if options.side:
        _SIDES[options.side](CampaignPaths(options.campaign), options)
        return 0
    machine = hardware()
    print(f"{machine['cpu']}, {machine['usable_cores']} cores, load {machine['load_average']}", flush=True)
    measured: list[Measured] = []
    wrong: list[str] = []
    for n_structures, counts in (QUICK if options.quick else _cases(options)).items():
        digests: dict[int, dict[str, str]] = {}
        for n_shards in counts:
            with tempfile.TemporaryDirectory(dir=options.folder, prefix="consolidate-") as folder:
                paths = CampaignPaths(Path(folder) / "campaign")
                begun = time.perf_counter()
                n_bytes = make_campaign(paths, n_structures, n_shards)
                print(
                    f"\n{n_structures} structures in {n_shards} shards, {n_bytes / 1e9:.2f} GB, made in {time.perf_counter() - begun:.0f} s"
                )
                for side in options.sides:
                    if side == "dask.array" and n_shards > DASK_AT_MOST:
                        continue
                    seconds, peak = _run(side, paths, options)
                    measured.append(Measured(n_structures, n_shards, side, n_bytes, seconds, peak))
                    print(measured[-1].line(), flush=True)
                    if side.startswith("ours"):
                        digests[n_shards] = digest(paths.store)
                        faults = wrong_rows(paths, n_structures)
                        if digests[n_shards] != digests[counts[0]]:
                            faults.append(f"bytes differ from those of {counts[0]} shards")
                        wrong += [f"N={n_structures} shards={n_shards} {side}: {fault}" for fault in faults]
                        shutil.rmtree(paths.store)
    ratios = ratios_of(measured)
    targets = targets_of(measured, options)
    for target in targets:
        print(target.line())
    write_json(
        options.output,
        "consolidate",
        options={"quick": options.quick, "budget_bytes": options.budget, "cores": options.cores, "median_atoms": MEDIAN_ATOMS},
        figures=[one.figure() for one in measured],
        ratios=ratios,
        targets=targets,
        versions={"ours": versions(["relax-campaign", "numpy", "zarr", "numcodecs", "dask", "distributed"])},
        hardware=machine,
    )
    print(f"\nwrote {options.output}")
    for fault in wrong:
        print(f"WRONG {fault}")
    missed = print_missed(targets) if options.check else 0
    return 1 if wrong else missed


def make_campaign(paths: CampaignPaths, n_structures: int, n_shards: int) -> int:
    """Write the inputs and the shards of a campaign that is done; return their bytes.

    Systems are spread over shards at random, as ranks finish them. Nothing but the way of writing differs from what ranks leave.
    """
    n_parts = -(-n_structures // PART)
    sizes = heavy_tailed_sizes(n_structures)
    owner = np.random.default_rng(1).permutation(np.arange(n_structures) % n_shards)
    parts = [_part(number, sizes[number * PART : (number + 1) * PART]) for number in range(n_parts)]
    columns = {field.name: np.concatenate([part.columns[field.name] for part in parts]) for field in (*INPUT_FIELDS, *RESULT_FIELDS)}
    columns["system_id"] = np.arange(n_structures, dtype=np.int64)[:, None]
    rejected = columns["outcome"][:, 0] == Outcome.INVALID
    inputs = {**columns, "outcome": np.where(rejected, Outcome.INVALID, -1).astype(np.int64)[:, None]}
    write_plain_store(paths.inputs, INPUT_FIELDS, sizes, inputs, {})
    paths.shards.mkdir()
    order = np.argsort(np.where(rejected, n_shards, owner), kind="stable")
    ends = np.cumsum(np.bincount(owner[~rejected], minlength=n_shards))
    ptr = pointers(sizes)
    global _SHARED
    # Forked workers see it without a copy.
    _SHARED = (columns, sizes, ptr)
    jobs = [
        (paths.shard(ShardName(1, number // 10, number % 10, 0)), order[end - count : end])
        for number, (end, count) in enumerate(zip(ends.tolist(), np.diff(ends, prepend=0).tolist(), strict=True))
    ]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=_fork()) as pool:
        for _ in pool.map(_write_shard, jobs, chunksize=max(len(jobs) // 64, 1)):
            pass
    _SHARED = None
    return sum(file.stat().st_size for file in paths.root.rglob("*") if file.is_file())


_SHARED: Any = None


def _fork() -> Any:
    import multiprocessing

    return multiprocessing.get_context("fork")


def _write_shard(job: tuple[Path, NDArray[np.int64]]) -> None:
    columns, sizes, ptr = _SHARED
    folder, rows = job
    at = atom_rows(ptr, rows)[1]
    own = {field.name: columns[field.name][at if field.level == "atom" else rows] for field in RESULT_FIELDS}
    write_plain_store(folder, RESULT_FIELDS, sizes[rows], own, {**shard_attributes(), "job_id": folder.name, "device_seconds": 1.0})


def heavy_tailed_sizes(n_structures: int) -> NDArray[np.int64]:
    """Return numbers of atoms."""
    drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN_ATOMS), SPREAD, n_structures)
    return np.clip(drawn, 1, MOST_ATOMS).astype(np.int64)


def _part(number: int, sizes: NDArray[np.int64]) -> SyntheticSystems:
    return synthetic_systems(len(sizes), seed=number, n_atoms=sizes)


def wrong_rows(paths: CampaignPaths, n_structures: int) -> list[str]:
    """Return what is wrong with the store: each system must be there once, with the energy that its composition gives."""
    reader = StoreReader.open(paths.store)
    faults = []
    if not np.array_equal(reader.read_system("system_id")[:, 0], np.arange(n_structures)):
        faults.append("not each system once, in order")
    name = paths.shard_names()[-1]
    shard = StoreReader.open(paths.shard(name))
    ids = shard.read_system("system_id")[:, 0]
    for field in RESULT_FIELDS:
        if not np.array_equal(reader.read(ids, [field.name])[field.name], shard.read(names=[field.name])[field.name], equal_nan=True):
            faults.append(f"{field.name} differs from that of {name}")
    return faults


def _run(side: str, paths: CampaignPaths, options: argparse.Namespace) -> tuple[float, float]:
    """Run a side in a process of its own; return its seconds, and the memory that it and its children had at most."""
    arguments = [sys.executable, __file__, "--side", side, "--campaign", str(paths.root), "--cores", str(options.cores)]
    arguments += ["--budget", str(options.budget)]
    _sync(paths)
    child = subprocess.Popen(arguments, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True)
    peaks = [0.0]
    watcher = threading.Thread(target=_watch, args=(child.pid, peaks), daemon=True)
    watcher.start()
    assert child.stdout is not None
    printed = child.stdout.read()
    child.stdout.close()
    if child.wait() != 0:
        raise SystemExit(f"{side} failed on {paths.root}")
    watcher.join()
    said = json.loads(printed.splitlines()[-1])
    return said["seconds"], max(peaks[0], said["peak_mib"])


def _watch(pid: int, peaks: list[float]) -> None:
    """Note the largest memory of a process and its children together until it ends."""
    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            family = [process, *process.children(recursive=True)]
            peaks[0] = max(peaks[0], sum(_resident(one) for one in family) / 2**20)
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _sync(paths: CampaignPaths) -> None:
    """Wait until all that was written to the file system of a campaign is on disk."""
    subprocess.run(["sync", "-f", str(paths.root)], check=True)


def _timed(begun: float, paths: CampaignPaths) -> None:
    """Print how long it took, until all is on disk, and the largest memory that this process had."""
    import resource

    _sync(paths)
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def _ours(paths: CampaignPaths, options: argparse.Namespace, kind: str = "threads") -> None:
    from campaign.consolidate import run_consolidate
    from campaign.dask_client import DaskWorkers

    begun = time.perf_counter()
    run_consolidate(paths, DaskWorkers(kind, options.cores), budget_bytes=options.budget)
    _timed(begun, paths)


def _copy(paths: CampaignPaths, options: argparse.Namespace) -> None:
    target = paths.root / "copy"
    target.mkdir()
    begun = time.perf_counter()
    subprocess.run(["cp", "-r", str(paths.inputs), str(paths.shards), str(target)], check=True)
    _timed(begun, paths)
    shutil.rmtree(target)


def _dask_array(paths: CampaignPaths, options: argparse.Namespace) -> None:
    """Concatenate the arrays of all shards one behind the other, in no order; the same chunks, codecs and output shards."""
    import dask
    import dask.array
    import zarr

    from campaign.store.consolidation_plan import choose_chunking
    from campaign.store.layout import field_array

    target = paths.root / "dask.zarr"
    begun = time.perf_counter()
    readers = [StoreReader.open(paths.shard(name)) for name in paths.shard_names()]
    counts = {"system": [reader.n_systems for reader in readers], "atom": [int(reader.atoms_ptr[-1]) for reader in readers]}
    chunking = choose_chunking(sum(counts["system"]), sum(counts["atom"]))
    for field in RESULT_FIELDS:
        spec = field_array(field, chunking)
        parts = [
            dask.array.from_zarr(reader.array(field.path))[:count]
            for reader, count in zip(readers, counts[field.level], strict=True)
            if count
        ]
        joined = dask.array.concatenate(parts).rechunk({0: spec.object_rows})
        document = spec.document(joined.shape[0])
        (target / field.path).mkdir(parents=True)
        (target / field.path / "zarr.json").write_text(json.dumps(document))
        with dask.config.set(scheduler="threads", num_workers=options.cores), warnings.catch_warnings():
            # It says that the last output shard is not full, which it need not be.
            warnings.filterwarnings("ignore", message="The input Dask array will be rechunked")
            dask.array.to_zarr(joined, zarr.open_array(target / field.path, mode="r+"))
    _timed(begun, paths)
    shutil.rmtree(target)


_SIDES: Final = {
    "cp -r": _copy,
    "ours": _ours,
    "ours processes": lambda paths, options: _ours(paths, options, "local"),
    "dask.array": _dask_array,
}


def ratios_of(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the speed of ours over that of each other side, campaign by campaign."""
    ratios = []
    for ours in measured:
        for other in measured:
            if ours.side == "ours" and other.side != "ours" and (ours.n_structures, ours.n_shards) == (other.n_structures, other.n_shards):
                ratios.append({"case": ours.figure()["case"], "of": f"ours / {other.side}", "speed": other.seconds / ours.seconds})
    for ratio in ratios:
        print(f"  {ratio['case']:<28} {ratio['of']:<24} {ratio['speed']:.3g}")
    return ratios


def targets_of(measured: Sequence[Measured], options: argparse.Namespace) -> list[Target]:
    """Return the targets for which something was measured."""
    targets = []
    by_case = {(one.n_structures, one.n_shards, one.side): one for one in measured}
    for (n, n_shards, side), one in by_case.items():
        if side != "ours":
            continue
        copy = by_case.get((n, n_shards, "cp -r"))
        if copy is not None and n_shards == 1_000:
            targets.append(
                Target(f"N={n} shards={n_shards}: speed over cp -r", 0.5, copy.seconds / one.seconds, "cp -r of the same bytes in this run")
            )
        targets.append(
            Target(
                f"N={n} shards={n_shards}: memory budget over peak", 1.0, options.budget / 2**20 / one.peak_mib, "budget stated by the plan"
            )
        )
        few = by_case.get((n, 10, "ours"))
        if few is not None and n_shards == 10_000:
            targets.append(Target(f"N={n}: time of 10 shards over that of 10,000", 1 / 3, few.seconds / one.seconds, "this run"))
    return targets


def _cases(options: argparse.Namespace) -> Mapping[int, Sequence[int]]:
    return {n: options.shards or FULL.get(n, [10, 1_000, 10_000]) for n in options.structures}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small campaign, in 10 and 100 shards")
    parser.add_argument("--check", action="store_true", help="print each missed target and exit with code 1 if there is one")
    parser.add_argument("--structures", nargs="+", type=int, default=list(FULL), help="structures of a campaign")
    parser.add_argument("--shards", nargs="+", type=int, default=[], help="shards of a campaign")
    parser.add_argument("--sides", nargs="+", default=["cp -r", "ours", "dask.array"], choices=list(_SIDES))
    parser.add_argument("--cores", type=int, default=min(2, hardware()["usable_cores"]))
    parser.add_argument("--budget", type=int, default=DEFAULT_BUDGET_BYTES, help="bytes of memory")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where campaigns are made, and removed after; by default the temporary folder"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/consolidate.json"))
    parser.add_argument("--side", choices=list(_SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--campaign", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
