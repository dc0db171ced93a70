"""The commented `campaign.toml` that `campaign init` writes. A test parses it, so it cannot drift from `spec.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from campaign.errors import SpecError
from campaign.files import create_whole

TEMPLATE: Final = """\
# A relaxation campaign. Paths are relative to this file. Run it with: campaign run campaign.toml

[campaign]
name = "my-campaign"
directory = "runs/my-campaign"        # made by `campaign run`; holds inputs, shards, the store and the report

[inputs]
paths = ["structures/"]               # files, folders, globs such as "structures/**/*.cif", ASE databases, stores

[model]
name = "emt"                          # lj | morse | emt | sevennet | chgnet | mace | ase
# dtype = "float64"                   # float64 | float32; by default the model's own, see docs/models.md
device = "auto"                       # auto takes a GPU where there is one
# deterministic = false               # true: the bits of a structure do not depend on others, see docs/models.md

[model.options]                       # keyword arguments of the model, see docs/models.md

[relax]
preset = "matbench"                   # screening | matbench | phonon; every key below overrides it
optimizer = "fire"                    # fire | fire2 | lbfgs
# fmax_ev_per_ang = 0.02              # largest force on an atom
# smax_ev_per_ang3 = 0.002            # largest stress component, where the cell relaxes
# max_steps = 500
cell = "full"                         # fixed | isotropic | full | fixed_volume, along periodic directions only
# strain_mask = [true, true, true, true, true, true]   # free components of the strain: xx, yy, zz, yz, xz, xy
# pressure_gpa = 0.0                  # from outside, on what the cell can follow
# fix_symmetry = false                # keep the space group of each structure; needs spglib

[trajectory]
every = 0                             # store a frame every so many steps; 0 stores none

[execution]
executor = "local"                    # local | slurm | debug
array_tasks = 1
ranks_per_task = 2                    # one per GPU or core

# [execution.slurm]                   # read when executor = "slurm"
# partition = "gpu"
# account = "my-account"
# time_min = 240
# gpus_per_rank = 1
# cpus_per_rank = 8
# mem_gb = 32
# setup = ["module load openmpi"]
# launcher = "srun-pmix"              # srun-pmix | srun-pmi2 | mpirun | none

[consolidate]
workers = "auto"                      # auto | threads | local | scheduler | slurm
# n_workers = 0                       # 0: a thread or process for each core, a job for each array task
# scheduler = "tcp://10.0.0.1:8786"   # for workers = "scheduler"
memory_gb = 2.0                       # of this machine; with scheduler and slurm of each worker
"""


def create_template(path: Path) -> None:
    """Write the template.

    Raises:
        SpecError: there is a file already, or it cannot be written.
    """
    try:
        create_whole(path, TEMPLATE.encode())
    except FileExistsError:
        raise SpecError(f"{path} exists and is not overwritten. Give another name: campaign init OTHER.toml") from None
    except OSError as error:
        raise SpecError(f"cannot write {path}: {error.strerror or error}. Give a path in a folder that exists and is yours.") from error
