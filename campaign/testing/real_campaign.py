"""A small campaign of real structures, ingested and ready to run: rattled clusters and crystals of copper and gold with the EMT potential.

For tests of whoever runs a campaign; seconds of work, and results whose bytes must not depend on how it was run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.cluster import Octahedron
from ase.io import write

from campaign.ingest import run_ingest
from campaign.spec import CampaignSpec, parse_spec

SPEC = """\
[campaign]
name = "real"
directory = {directory}
[inputs]
paths = [{inputs}]
[model]
name = "emt"
device = "cpu"
[relax]
fmax_ev_per_ang = {fmax}
max_steps = 300
cell = "full"
[execution]
flush_s = {flush_s}
"""


def structures(n: int, seed: int = 0) -> list[Atoms]:
    """Return `n` structures of 2 to 32 atoms, no two alike."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(n):
        kind = index % 3
        if kind == 0:
            atoms = bulk("Cu", "fcc", a=3.7, cubic=True).repeat((1 + index % 2, 1, 1 + index % 3))
        elif kind == 1:
            atoms = Octahedron("Au", 3, cutoff=1)
        else:
            atoms = molecule("H2")
            atoms.positions *= 2.5 / atoms.get_distance(0, 1)
            atoms.numbers[:] = 29
        swapped = random.random(len(atoms)) < 0.4
        atoms.numbers[swapped] = 79
        atoms.positions += random.normal(0.0, 0.08, atoms.positions.shape)
        made.append(atoms)
    return made


def create_campaign(
    folder: Path, n: int = 24, execution: str = "", fmax: float = 0.01, flush_s: float = 0.2, extra: str = ""
) -> CampaignSpec:
    """Write structures and ingest them; `folder` gets the campaign as `run`, `execution` stands in the spec's `[execution]`.

    `extra` is appended to the spec. Example: `create_campaign(tmp_path, execution='executor = "debug"')`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "inputs.extxyz"
    write(file, structures(n), format="extxyz")
    directory = json.dumps(str(folder / "run"), ensure_ascii=False)
    text = SPEC.format(directory=directory, inputs=json.dumps(str(file), ensure_ascii=False), fmax=fmax, flush_s=flush_s)
    spec = parse_spec(f"{text}{execution}\n{extra}", folder)
    run_ingest(spec)
    return spec
