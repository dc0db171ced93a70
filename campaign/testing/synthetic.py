"""Campaign directories without a campaign: real files with made-up numbers, for tests of whatever reads them.

The physics is a regular solution, whose formation energy is known in closed form, so that hulls and figures can be checked; positions are
random and forces small. Everything follows from the seed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.fields import FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS, Field, encode_error
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.store import ShardWriter, write_store
from campaign.worker.processes import ProcessId
from campaign.worker.records import RankRecord, RunState

REFERENCE_EV: Final = {13: -3.36, 28: -4.45, 29: -3.51, 47: -2.95, 79: -3.22}
"""Energy per atom of the elements that can be used."""

MIXING_EV: Final = -0.3
"""Formation energy per atom of a solution is this times x(1-x), summed over pairs of elements, plus 0 to 30 meV of noise."""

_REASON: Final = {
    Outcome.CONVERGED: "",
    Outcome.MAX_STEPS: "fmax is 0.08 eV/Å after 500 steps; 0.02 was asked for. Raise relax.max_steps.",
    Outcome.DIVERGED: "energy is not finite in step 12. Look at the starting structure.",
    Outcome.INVALID: "atoms 3 and 7 are 0.00 Å apart; one spot holds one atom. Remove one of them.",
    Outcome.FAILED: "the model raised ValueError for this system: too many neighbours.",
}

STARTED_UNIX_S: Final = 1_772_443_800.0
"""When the first rank began: 2 March 2026, 9:30 UTC."""

SPEC: Final = """\
[campaign]
name = {name}
directory = {directory}
[inputs]
paths = ["structures"]
[model]
name = "emt"
dtype = "float64"
device = "cpu"
[model.options]
[relax]
preset = "matbench"
optimizer = "fire"
fmax_ev_per_ang = 0.02
smax_ev_per_ang3 = 0.002
max_steps = 500
cell = "full"
[execution]
executor = "local"
array_tasks = 2
ranks_per_task = 2
"""


@dataclass(frozen=True, eq=False)
class SyntheticSystems:
    """N systems: all columns of a store, as `write_store` takes them."""

    n_atoms: Int64[ndarray, " N"]
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.n_atoms)

    def take(self, rows: NDArray[np.int64]) -> SyntheticSystems:
        """Return some of the systems, in the order of `rows`."""
        starts = np.cumsum(self.n_atoms) - self.n_atoms
        at = np.concatenate([np.zeros(0, np.int64), *(np.arange(starts[row], starts[row] + self.n_atoms[row]) for row in rows)])
        taken = {name: values[at if FIELDS[name].level == "atom" else rows] for name, values in self.columns.items()}
        return SyntheticSystems(self.n_atoms[rows], taken)

    def outcomes(self) -> Int64[ndarray, " N"]:
        """Outcome of each system."""
        values: NDArray[np.int64] = self.columns["outcome"].ravel()
        return values


def synthetic_systems(
    n_systems: int,
    elements: Sequence[int] = (29, 79),
    seed: int = 0,
    sizes: Sequence[int] = (4, 8, 16, 32),
    odds: Sequence[float] = (0.93, 0.03, 0.01, 0.02, 0.01),
    clusters: float = 0.1,
    sources: Sequence[str] = ("structures/solid-solutions.extxyz", "structures/ordered.cif"),
    n_atoms: NDArray[np.int64] | None = None,
) -> SyntheticSystems:
    """Return systems of `elements`, of any of the `sizes`, or of `n_atoms` atoms each.

    `odds` are those of the outcomes in the order of their numbers, `clusters` the part without a cell.

    The first systems are the bulk elements, converged, as long as `odds` lets any converge.
    """
    rng = np.random.default_rng(seed)
    n_atoms = rng.choice(np.array(sizes, np.int64), n_systems) if n_atoms is None else n_atoms
    outcome = rng.choice(len(odds), n_systems, p=np.array(odds) / np.sum(odds))
    is_cluster = rng.random(n_systems) < clusters
    first = np.arange(n_systems) < len(elements)
    if odds[0] > 0:
        outcome[first] = Outcome.CONVERGED
    is_cluster[first] = clusters >= 1
    row = np.repeat(np.arange(n_systems), n_atoms)
    # Fractions in eighths for one element after the other, so that many structures share a composition, as in a real study.
    threshold = rng.integers(0, 9, n_systems) / 8
    place = (np.arange(len(row)) - np.repeat(np.cumsum(n_atoms) - n_atoms, n_atoms)) / n_atoms[row]
    other = np.array(elements)[(np.arange(n_systems) + 1) % len(elements)]
    own = np.array(elements)[np.arange(n_systems) % len(elements)]
    numbers = np.where(first[row] | (place >= threshold[row]), own[row], other[row]).astype(np.int64)
    edge = np.cbrt(n_atoms * 15.0)
    cell = np.einsum("n,ij->nij", edge, np.eye(3)) * ~is_cluster[:, None, None]
    energy = _energies(numbers, row, n_atoms, is_cluster, first, rng)
    columns = {
        "atomic_numbers": numbers,
        "positions": rng.random((len(row), 3)) * edge[row, None],
        "atomic_masses": np.full(len(row), 63.5),
        "cell": cell,
        "pbc": np.repeat(~is_cluster[:, None], 3, axis=1),
        "system_id": np.arange(n_systems)[:, None],
        "fixed": np.zeros((len(row), 3), bool),
        "symprec": np.zeros((n_systems, 1)),
        "tags": np.zeros(len(row), np.int64),
        "initial_charges": np.zeros(len(row)),
        "initial_magmoms": np.zeros(len(row)),
        "source": np.array([sources[at % len(sources)] for at in range(n_systems)], object),
        "frame": (np.arange(n_systems) // len(sources))[:, None],
        "info": np.array([json.dumps({"prototype": "L1_2" if at % 3 else "solution"}) for at in range(n_systems)], object),
        "energy": energy[:, None],
        "forces": rng.normal(0, 0.005, (len(row), 3)),
        "stress": rng.normal(0, 1e-4, (n_systems, 3, 3)),
        "outcome": outcome[:, None].astype(np.int64),
        "error": np.array([np.frombuffer(encode_error(_REASON[code]), np.uint8) for code in Outcome])[outcome],
        "n_steps": np.minimum(rng.gamma(3.0, 25.0, n_systems).astype(np.int64), 500)[:, None],
        "fmax": (0.02 * rng.beta(4, 1.2, n_systems))[:, None],
        "smax": (0.002 * rng.beta(3, 1.5, n_systems) * ~is_cluster)[:, None],
        "energy_per_atom": (energy / n_atoms)[:, None],
        "n_fragments": rng.choice([1, 2], n_systems, p=[0.97, 0.03])[:, None],
        "initial_energy": (energy + 0.05 * n_atoms)[:, None],
        "shortest_distance_ratio": rng.normal(0.95, 0.02, (n_systems, 1)),
        "volume_ratio": np.where(is_cluster, 1.0, rng.normal(1.0, 0.02, n_systems))[:, None],
    }
    _apply_outcomes(columns, outcome)
    return SyntheticSystems(n_atoms, columns)


def write_synthetic_campaign(
    root: Path, systems: SyntheticSystems, consolidated: bool = True, n_ranks: int = 4, records: bool = True, name: str = "synthetic"
) -> CampaignPaths:
    """Write a campaign directory in which `systems` are done: spec, inputs, a shard and a record per rank, and the store.

    The system with index i was done by rank i modulo `n_ranks`, half of the ranks in each of two array tasks.
    """
    paths = CampaignPaths(root)
    root.mkdir(parents=True)
    # Strings of JSON are strings of TOML.
    quoted = {"name": json.dumps(name, ensure_ascii=False), "directory": json.dumps(str(root), ensure_ascii=False)}
    paths.spec.write_text(SPEC.format(**quoted), encoding="utf-8")
    invalid = systems.outcomes() == Outcome.INVALID
    inputs = {field.name: systems.columns[field.name] for field in INPUT_FIELDS}
    inputs["outcome"] = np.where(invalid, Outcome.INVALID, -1).astype(np.int64)[:, None]
    write_store(paths.inputs, INPUT_FIELDS, systems.n_atoms, inputs)
    paths.shards.mkdir()
    paths.plans.mkdir()
    for rank in range(n_ranks):
        shard = ShardName(1, rank * 2 // n_ranks, rank % max(n_ranks // 2, 1), 0)
        done = systems.take(np.flatnonzero((np.arange(len(systems)) % n_ranks == rank) & ~invalid))
        write_shard(paths, shard, done)
        if records:
            write_rank_record(paths, shard, done, start_s=0.4 * rank, seconds=40.0 + 3.0 * rank)
    if consolidated:
        write_store(paths.store, STORE_FIELDS, systems.n_atoms, _columns(systems, STORE_FIELDS), shard_attributes())
    return paths


def write_shard(paths: CampaignPaths, shard: ShardName, done: SyntheticSystems) -> None:
    """Write one per-rank shard."""
    with ShardWriter.create(paths.shard(shard), RESULT_FIELDS, shard_attributes()) as writer:
        writer.append(done.n_atoms, _columns(done, RESULT_FIELDS))


def write_rank_record(paths: CampaignPaths, shard: ShardName, done: SyntheticSystems, start_s: float, seconds: float) -> None:
    """Write what a rank says about its run."""
    started = STARTED_UNIX_S + start_s
    # Progress takes the last change of a shard for the time of its last commit.
    os.utime(paths.shard(shard) / "zarr.json", (started + seconds, started + seconds))
    codes, counts = np.unique(done.outcomes(), return_counts=True)
    steps = done.columns["n_steps"].ravel()
    parts = {"startup": 0.06, "model": 0.52, "neighbours": 0.17, "optimizer": 0.12, "sink": 0.04, "other": 0.05}
    RankRecord(
        shard,
        RunState.DONE,
        ProcessId(4000 + shard.rank, started, f"node{shard.array_task + 1:02d}"),
        f"81723_{shard.array_task}",
        started,
        started + seconds,
        device="cpu",
        outcomes={Outcome(code).label: int(count) for code, count in zip(codes, counts, strict=True)},
        n_steps=int(steps.sum()),
        atom_steps=int((steps * done.n_atoms).sum()),
        seconds={part: share * seconds for part, share in parts.items()},
        device_seconds=seconds,
        peak_memory_bytes=412 * 2**20,
    ).write(paths)


def shard_attributes() -> dict[str, Any]:
    """Root attributes such as the worker writes."""
    return {
        "model": {"name": "emt", "dtype": "float64", "device": "cpu"},
        "model_fingerprint": "9f2c" * 16,
        "versions": {"relax-campaign": "0.1.0", "torch": "2.13.0", "numpy": "2.3.0"},
        "hardware": {"cpu": "AMD EPYC 7763", "cores": 64},
    }


def _columns(systems: SyntheticSystems, fields: Sequence[Field]) -> dict[str, NDArray[Any]]:
    return {field.name: systems.columns[field.name] for field in fields}


def _energies(
    numbers: NDArray[np.int64],
    row: NDArray[np.int64],
    n_atoms: NDArray[np.int64],
    is_cluster: NDArray[np.bool_],
    first: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    reference = np.zeros(120)
    reference[list(REFERENCE_EV)] = list(REFERENCE_EV.values())
    fractions = [np.bincount(row, numbers == z, len(n_atoms)) / n_atoms for z in np.unique(numbers)]
    pairs = (1 - sum(x * x for x in fractions)) / 2
    noise = np.where(first, 0.0, 0.03 * rng.beta(1.5, 3, len(n_atoms)))
    per_atom = np.bincount(row, reference[numbers], len(n_atoms)) / n_atoms + MIXING_EV * pairs + noise + 0.9 * is_cluster
    return np.asarray(per_atom * n_atoms)


def _apply_outcomes(columns: dict[str, NDArray[Any]], outcome: NDArray[np.int64]) -> None:
    columns["fmax"][outcome == Outcome.MAX_STEPS] = 0.08
    columns["n_steps"][outcome == Outcome.MAX_STEPS] = 500
    for code in (Outcome.DIVERGED, Outcome.FAILED, Outcome.INVALID):
        for name in ("energy", "fmax", "smax"):
            columns[name][outcome == code] = np.nan
    columns["n_steps"][outcome == Outcome.INVALID] = 0
