"""What compresses the columns of a store, and what writes whole files of it: the table that docs/decisions/0006-codec.md rests on.

    python benchmarks/store_codecs.py            # a minute or two
    python benchmarks/store_codecs.py --quick    # smaller chunks, fewer repeats
    python benchmarks/store_codecs.py --check    # exit code 1 and a line for each target that is missed

Clusters and crystals of argon are relaxed first, so that the numbers are those that a campaign stores. Everything decodes to the bits that
went in, or no figure is given. The pipeline of the package zarrs is measured where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from figures import ONE_THREAD, Target, hardware, print_missed, versions, write_json

os.environ.update(ONE_THREAD)

import numpy as np
import torch
import zarr
from numcodecs import LZ4, Blosc, Zstd, blosc
from sides.ours import QueueSampler
from sides.queue import Queue
from sides.workloads import WORKLOADS

from campaign.data import Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.fields import FIELDS
from campaign.models.registry import create_model
from campaign.store.chunk_codec import codec_of
from campaign.store.layout import Chunking, field_array

Array = np.ndarray[Any, Any]

CODECS: Final = {
    "none": None,
    "zstd -1": Zstd(-1),
    "zstd 0": Zstd(0),
    "zstd 1": Zstd(1),
    "zstd 3": Zstd(3),
    "lz4": LZ4(1),
    "shuffle + lz4 1": Blosc("lz4", 1, Blosc.SHUFFLE),
    "shuffle + lz4 5": Blosc("lz4", 5, Blosc.SHUFFLE),
    "bits + lz4 1": Blosc("lz4", 1, Blosc.BITSHUFFLE),
    "shuffle + zstd 1": Blosc("zstd", 1, Blosc.SHUFFLE),
    "shuffle + zstd 3": Blosc("zstd", 3, Blosc.SHUFFLE),
}
CHOSEN: Final = "shuffle + lz4 5"
BEFORE: Final = "zstd 3"


def relaxed_columns(rows: int) -> dict[str, Array]:
    """Return columns of `rows` rows: of relaxed structures, and what is beside them in a store."""
    parts = [_relaxed(name, rows // 2) for name in ("A", "B")]
    positions, forces, numbers, energy = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    rng = np.random.default_rng(0)
    few = np.zeros_like(positions)
    few[: rows // 50] = positions[: rows // 50]
    return {
        "positions": positions,
        "forces": forces,
        "atomic_numbers": rng.choice([29, 79], len(numbers)),
        "energy": energy,
        "cell": rng.uniform(8, 12, (rows // 16, 1, 1)) * np.eye(3),
        "n_steps": rng.integers(20, 300, (rows // 16, 1)),
        "error": np.zeros((rows // 16, 192), np.uint8),
        "random float64": rng.random((rows, 3)),
        "one row in 50, then zeros": few,
    }


def _relaxed(name: str, n_atoms: int) -> tuple[Array, ...]:
    workload = WORKLOADS[name]
    structures = workload.structures(n_atoms // 30)
    structures = structures.part(0, int(np.searchsorted(np.cumsum(structures.n_atoms), n_atoms)) + 1)
    model = create_model(workload.potential, torch.float64, torch.device("cpu"), workload.options)
    systems = {"cell": structures.cell, "pbc": structures.pbc, "system_id": np.arange(len(structures)).reshape(-1, 1)}
    batch = Batch.from_arrays(structures.n_atoms, {"positions": structures.positions, "atomic_numbers": structures.numbers}, systems)
    sink = HostMemory(capacity=len(structures))
    sampler = QueueSampler(batch, Queue(len(structures)))
    Relaxation(model, RelaxSettings(fmax_ev_per_ang=1e-3, max_steps=500), sampler, [sink], [], len(structures), batch.num_nodes).run()
    found = sink.read()
    atoms = (found[key].numpy()[:n_atoms] for key in ("positions", "forces", "atomic_numbers"))
    return (*atoms, found["energy"].numpy())


def codec_figure(column: str, values: Array, name: str, repeats: int) -> dict[str, Any]:
    """Return how small a codec makes a column, and how fast, on one thread."""
    codec = CODECS[name]
    encode_s, decode_s = [], []
    for _ in range(repeats):
        begun = perf_counter()
        encoded = values.tobytes() if codec is None else codec.encode(values)
        encode_s.append(perf_counter() - begun)
        begun = perf_counter()
        decoded = bytearray(encoded) if codec is None else codec.decode(encoded)
        decode_s.append(perf_counter() - begun)
    if bytes(decoded) != values.tobytes():
        raise SystemExit(f"{name} gave back {column} otherwise than it was")
    megabytes = values.nbytes / 1e6
    return {
        "column": column,
        "codec": name,
        "n_bytes": values.nbytes,
        "ratio": len(encoded) / values.nbytes,
        "encode_mb_per_s": megabytes / min(encode_s),
        "decode_mb_per_s": megabytes / min(decode_s),
    }


def pipeline_figures(positions: Array, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Return how fast whole files of 16 chunks, two of them, are written: encoding and the file system, nothing synced."""
    rows = np.tile(positions, (32, 1))
    chunk_rows = len(positions)
    spec = field_array(FIELDS["positions"], Chunking.of_shards(atom_rows=chunk_rows))

    def ours(place: Path) -> None:
        codec = codec_of(spec)
        chunks = codec.encode_all(rows)
        for number in range(2):
            path = place / spec.chunk_key(number)
            path.parent.mkdir(parents=True)
            path.write_bytes(codec.join(chunks[number * 16 : number * 16 + 16]))

    def by_zarr(place: Path) -> None:
        from zarr.storage import LocalStore, StorePath

        array = zarr.Array.from_dict(StorePath(LocalStore(place), spec.path), spec.document(len(rows)))
        array[:] = rows

    def by_zarrs(place: Path) -> None:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            by_zarr(place)

    pipelines: dict[str, Callable[[Path], None]] = {"ours": ours, "zarr-python": by_zarr}
    if find_spec("zarrs") is not None:
        import zarrs  # noqa: F401

        pipelines["zarrs"] = by_zarrs
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for repeat in range(repeats):
        for name, pipeline in pipelines.items():
            place = folder / f"{name} {repeat}"
            begun = perf_counter()
            pipeline(place)
            seconds[name].append(perf_counter() - begun)
            (place / spec.path).mkdir(parents=True, exist_ok=True)
            (place / spec.path / "zarr.json").write_text(json.dumps(spec.document(len(rows))))
            if not np.array_equal(zarr.open_array(place / spec.path, mode="r")[:], rows):
                raise SystemExit(f"{name} wrote other numbers")
    return [{"pipeline": name, "n_bytes": rows.nbytes, "mb_per_s": rows.nbytes / 1e6 / min(seconds[name])} for name in pipelines]


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller chunks, fewer repeats")
    parser.add_argument("--check", action="store_true", help="print each missed target and exit with code 1 if there is one")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/store_codecs.json"))
    options = parser.parse_args()
    machine = hardware()
    torch.set_num_threads(1)
    blosc.use_threads = False
    repeats = 3 if options.quick else 10
    columns = relaxed_columns(8192 if options.quick else 65536)
    figures = []
    print(f"{machine['cpu']}, load {machine['load_average']}\n\n{'column':<26} {'codec':<18} ratio   encode   decode  MB/s, one thread")
    for column, values in columns.items():
        for name in CODECS:
            figure = codec_figure(column, values, name, repeats)
            figures.append(figure)
            rates = f"{figure['encode_mb_per_s']:8.0f} {figure['decode_mb_per_s']:8.0f}"
            print(f"{column:<26} {name:<18} {figure['ratio']:.3f} {rates}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pipelines = pipeline_figures(columns["positions"], Path(folder), repeats)
    print()
    for figure in pipelines:
        print(f"whole files by {figure['pipeline']:<12} {figure['mb_per_s']:8.0f} MB/s")
    found = {(figure["column"], figure["codec"]): figure for figure in figures}
    chosen, before = found["positions", CHOSEN], found["positions", BEFORE]
    rate = {figure["pipeline"]: figure["mb_per_s"] for figure in pipelines}
    ratios = [
        {"of": f"{CHOSEN} / {BEFORE}, encoding positions", "ratio": chosen["encode_mb_per_s"] / before["encode_mb_per_s"]},
        {"of": f"{BEFORE} / {CHOSEN}, bytes of positions", "ratio": before["ratio"] / chosen["ratio"]},
        {"of": "our files / zarr-python's", "ratio": rate["ours"] / rate["zarr-python"]},
    ]
    targets = [
        Target(str(ratio["of"]), at_least, float(ratio["ratio"]), "in this run") for ratio, at_least in zip(ratios, (2, 1, 1), strict=True)
    ]
    for target in targets:
        print("  " + target.line())
    packages = ("relax-campaign", "numcodecs", "numpy", "zarr", "zarrs")
    write_json(
        options.output,
        "store_codecs",
        options={"quick": options.quick},
        figures=[*figures, *pipelines],
        ratios=ratios,
        targets=targets,
        versions={"ours": versions(packages)},
        hardware=machine,
    )
    print(f"\nwrote {options.output}")
    return print_missed(targets) if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
