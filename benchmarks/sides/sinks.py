"""One side of `sink_write.py` in a process of its own: a sink `ZarrData`, ours or nvalchemi-toolkit's, is written, timed and read back.

Both have one interface, so these lines are the same for both. A write counts when the sink has been closed, for ours that is: when all is
durable. What is read back is compared with what was written, value by value, before a time is told.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch

N_ATOMS: Final = 40
LATTICE: Final = np.stack(np.meshgrid(np.arange(5), np.arange(4), np.arange(2), indexing="ij"), -1).reshape(-1, 3)
ATOM_KEYS: Final = ("atomic_numbers", "positions", "atomic_masses", "atom_categories", "forces", "velocities")
SYSTEM_KEYS: Final = ("cell", "pbc", "energy", "stress")
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class SinkTask:
    """What to write, how often, and what to do with it."""

    per_write: int
    count: int
    repeats: int = 1
    reads: bool = True
    """Whether the sink itself reads it back and is timed; otherwise our reader looks at it, untimed."""
    compares_with_file: bool = False
    """Whether the same bytes are written by numpy before each repeat and after the last."""
    flushes: str = ""
    """Flush after each "tenth" of the writes, or after each "write"; only our sink can."""


def columns_of(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return what a batch of relaxed structures has: distorted crystals, noise as forces and velocities."""
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(2.2, 3.2, (count, 1, 1))
    kinds = rng.integers(0, 2, (count * N_ATOMS,))
    return {
        "atomic_numbers": np.array([29, 79])[kinds],
        "positions": (LATTICE * spacing + rng.normal(0, 0.05, (count, N_ATOMS, 3))).reshape(-1, 3),
        "atomic_masses": np.array([63.546, 196.966570])[kinds],
        "atom_categories": np.zeros(count * N_ATOMS, np.int64),
        "forces": rng.normal(0, 1e-3, (count * N_ATOMS, 3)),
        "velocities": rng.normal(0, 1e-3, (count * N_ATOMS, 3)),
        "cell": spacing * np.diag([5.0, 4.0, 2.0]),
        "pbc": np.ones((count, 3), bool),
        "energy": rng.normal(-140, 5, (count, 1)),
        "stress": rng.normal(0, 1e-4, (count, 3, 3)),
    }


def _part(columns: Columns, start: int, stop: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(values[slice(start * N_ATOMS, stop * N_ATOMS) if name in ATOM_KEYS else slice(start, stop)])
        for name, values in columns.items()
    }


def _batches(side: str, columns: Columns, count: int, per_write: int) -> Iterator[Any]:
    for start in range(0, count, per_write):
        stop = min(start + per_write, count)
        part = _part(columns, start, stop)
        if side == "ours":
            from campaign.data import Batch

            atoms, systems = ({name: part[name] for name in keys} for keys in (ATOM_KEYS, SYSTEM_KEYS))
            yield Batch.from_arrays([N_ATOMS] * (stop - start), atoms, systems)
        else:
            from nvalchemi.data import AtomicData, Batch

            singles = (_part(columns, at, at + 1) for at in range(start, stop))
            yield Batch.from_data_list([AtomicData(**single) for single in singles])


def _sink(side: str, place: Path) -> Any:
    if side == "ours":
        from campaign.dynamics.sinks import ZarrData
    else:
        from nvalchemi.dynamics.sinks import ZarrData
    return ZarrData(str(place), capacity=10**9)


def measure(side: str, task: SinkTask, folder: Path) -> dict[str, Any]:
    """Do a task; return its figures. Raises where something else was read back than was written."""
    columns = columns_of(task.count)
    n_bytes = sum(values.nbytes for values in columns.values())
    batches = list(_batches(side, columns, task.count, task.per_write))
    place = folder / f"{side}.zarr"
    seconds: list[float] = []
    read_s: list[float] = []
    file_s: list[float] = []
    for _ in range(task.repeats):
        if task.compares_with_file:
            file_s.append(_write_file(folder / "columns.bin", columns))
        shutil.rmtree(place, ignore_errors=True)
        sink = _sink(side, place)
        seconds_of_one, tenths_s, waited_s = _write(sink, batches, task.flushes, side == "ours")
        seconds.append(seconds_of_one)
        if task.reads:
            begun = perf_counter()
            batch = sink.read()
            read_s.append(perf_counter() - begun)
            found = {name: batch[name].numpy() for name in columns}
        else:
            from campaign.store.reader import StoreReader

            found = StoreReader.open(place).read(names=list(columns))
        _compare(columns, found)
    if task.compares_with_file:
        file_s.append(_write_file(folder / "columns.bin", columns))
    n_files = sum(len(files) for _, _, files in os.walk(place))
    return {
        "side": side,
        **asdict(task),
        "n_bytes": n_bytes,
        "stored_bytes": sum((Path(parent) / name).stat().st_size for parent, _, files in os.walk(place) for name in files),
        "n_files": n_files,
        "seconds": seconds,
        "tenths_s": tenths_s,
        "waited_s": waited_s,
        "read_s": read_s,
        "file_s": file_s,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def _write(sink: Any, batches: list[Any], flushes: str, closes: bool) -> tuple[float, list[float], float]:
    """Write all batches; return the seconds until all is durable, those of a write in each tenth, and those spent waiting.

    The first write, which creates the store, belongs to no tenth.
    """
    rest = len(batches) - 1
    ends = {1 + rest * tenth // 10 for tenth in range(1, 11)} if rest >= 10 else set()
    tenths_s: list[float] = []
    begun = perf_counter()
    for number, batch in enumerate(batches, 1):
        sink.write(batch)
        if flushes == "write" or (flushes == "tenth" and (number in ends or number == 1)):
            sink.flush()
        if number == 1:
            last, first = perf_counter(), 1
        if number in ends:
            now = perf_counter()
            tenths_s.append((now - last) / (number - first))
            last, first = now, number
    if closes:
        sink.close()
    seconds = perf_counter() - begun
    return seconds, tenths_s, sink._writer.waited_s if closes else 0.0


def _write_file(path: Path, columns: Columns) -> float:
    begun = perf_counter()
    with path.open("wb") as file:
        for values in columns.values():
            values.tofile(file)
        file.flush()
        os.fsync(file.fileno())
    seconds = perf_counter() - begun
    path.unlink()
    return seconds


def _compare(written: Columns, found: Columns) -> None:
    for name, values in written.items():
        if found[name].dtype != values.dtype or not np.array_equal(found[name], values):
            raise ValueError(f"{name!r} was read back otherwise than it was written")


def main() -> None:
    """Measure the tasks that are given as JSON: side, folder, and a list of tasks; print a line of JSON for each."""
    warnings.simplefilter("ignore")
    side, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    measure(side, SinkTask(2, 6), folder)
    for task in json.loads(sys.argv[3]):
        print("@side " + json.dumps(measure(side, SinkTask(**task), folder)), flush=True)


if __name__ == "__main__":
    main()
