"""A campaign of a few structures for the tests of the arrows: real inputs, and shards as ranks leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import write

from campaign.fields import RESULT_FIELDS, encode_error
from campaign.ingest import run_ingest
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.spec import CampaignSpec, parse_spec
from campaign.store import ShardWriter, StoreReader

SPEC = """
[campaign]
name = "small"
directory = "run"
[inputs]
paths = [{paths}]
[model]
name = "emt"
[relax]
cell = "full"
[execution]
array_tasks = 2
ranks_per_task = 2
"""


def spec_of(folder: Path, *paths: str) -> CampaignSpec:
    """A spec in `folder` over some paths."""
    quoted = ", ".join('"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"' for path in paths)
    return parse_spec(SPEC.replace("{paths}", quoted), folder)


def structures(n: int) -> list[Atoms]:
    """Copper-gold crystals of 1, 2, 3, … atoms in a row of cells."""
    frames = []
    for number in range(n):
        atoms = bulk("Cu", "fcc", a=3.7).repeat((number + 1, 1, 1))
        atoms.numbers[0] = 79
        atoms.rattle(0.01, seed=number)
        atoms.info = {"number": number, "text": 'say "hi"'}
        atoms.set_tags(np.arange(number + 1))
        frames.append(atoms)
    if n > 2:
        frames[2].set_constraint(FixAtoms([0]))
    return frames


def make_campaign(folder: Path, n: int = 6) -> tuple[CampaignPaths, CampaignSpec]:
    """A campaign with `n` inputs and, as the last one, an empty file."""
    (folder / "in").mkdir()
    write(folder / "in" / "a b.extxyz", structures(n), format="extxyz", columns=["symbols", "positions", "tags", "move_mask"])
    (folder / "in" / "z empty.xyz").touch()
    spec = spec_of(folder, "in")
    run_ingest(spec)
    return spec.paths, spec


def write_shard(paths: CampaignPaths, name: ShardName, ids: Sequence[int], outcomes: Sequence[Outcome] | None = None) -> None:
    """A shard with a made-up result for `ids`: energies are −id."""
    inputs = StoreReader.open(paths.inputs)
    paths.shards.mkdir(exist_ok=True)
    outcomes = outcomes or [Outcome.CONVERGED] * len(ids)
    with ShardWriter.create(paths.shard(name), RESULT_FIELDS) as writer:
        for system_id, outcome in zip(ids, outcomes, strict=True):
            n_atoms, positions = inputs.read_atoms("positions", [system_id])
            one = inputs.read([system_id], ["atomic_numbers", "cell", "pbc"])
            text = "" if outcome is Outcome.CONVERGED else f"it is {outcome.label}"
            scalars = dict.fromkeys(
                ("initial_energy", "energy_per_atom", "fmax", "smax", "shortest_distance_ratio", "volume_ratio"), np.full((1, 1), 0.5)
            )
            writer.append(
                n_atoms,
                {
                    **one,
                    **scalars,
                    "positions": positions + 0.125,
                    "system_id": np.array([[system_id]]),
                    "energy": np.array([[-float(system_id) if outcome is not Outcome.DIVERGED else np.nan]]),
                    "forces": np.full_like(positions, 0.25),
                    "stress": np.full((1, 3, 3), 0.0625),
                    "outcome": np.array([[int(outcome)]]),
                    "error": np.frombuffer(encode_error(text), np.uint8)[None],
                    "n_steps": np.array([[7]]),
                    "n_fragments": np.array([[1]]),
                },
            )
