"""Compare text with a committed golden. A missing one fails; accepting a change is a deliberate command:

python tests/slurm/goldens.py            # writes all goldens of this folder's tests
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from campaign.spec import CampaignSpec, parse_spec
from slurm.dask_workers import jobqueue_parameters
from slurm.parameters import sbatch_flags, slurm_parameters, srun_arguments
from slurm.script import script_text

FOLDER = Path(__file__).parents[1] / "golden"
TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
ACCEPT = "python tests/slurm/goldens.py"

CASES: dict[str, str] = {
    # nothing said: one rank, one hour, 4 GB
    "defaults": "",
    # a GPU each, on one node; everything that has a key of its own
    "gpus": """
array_tasks = 100
ranks_per_task = 4
threads_per_rank = 8
[execution.slurm]
partition = "gpu"
account = "proj-1"
qos = "long"
constraint = "a100|h100"
time_min = 720
gpus_per_rank = 1
cpus_per_rank = 8
mem_gb = 24
max_running = 20
setup = ["module load cuda", "export OMP_PLACES='cores'"]
""",
    # two nodes; flags of a site; a flag switched off
    "two_nodes": """
array_tasks = 3
ranks_per_task = 8
[execution.slurm]
time_min = 5
launcher = "srun-pmi2"
mem_gb = 1.5
cpus_per_rank = 4
extra = { nodes = 2, mail-type = "END", exclusive = true, hint = "nomultithread", contiguous = false }
""",
    # mpiexec starts the ranks, which share the node's GPUs
    "mpirun": """
ranks_per_task = 2
[execution.slurm]
launcher = "mpirun"
gpus_per_rank = 2
setup = ["module load openmpi"]
""",
    # no MPI; memory as the site wants it
    "none": """
array_tasks = 2
ranks_per_task = 3
[execution.slurm]
launcher = "none"
time_min = 1
extra = { mem = "0" }
""",
}


def spec_of(execution: str, directory: str = "/data/Cu–Au (α) 'quoted'", name: str = "Cu–Au (α)") -> CampaignSpec:
    head = (
        f'[campaign]\nname = {json.dumps(name)}\ndirectory = {json.dumps(directory)}\n[inputs]\npaths = ["a.cif"]\n[model]\nname = "emt"\n'
    )
    return parse_spec(f'{head}[relax]\n[execution]\nexecutor = "slurm"\n{execution}', Path("/data"))


def parameters_text() -> str:
    found: dict[str, Any] = {}
    for name, execution in CASES.items():
        spec = spec_of(execution)
        found[name] = {
            "submitit": slurm_parameters(spec, TOKEN),
            "sbatch": sbatch_flags(spec, TOKEN),
            "dask-jobqueue": jobqueue_parameters(spec),
        }
        if spec.execution.slurm.launcher != "mpirun":
            found[name]["srun"] = srun_arguments(spec)
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def script_texts() -> dict[str, str]:
    texts = {}
    for name, execution in CASES.items():
        spec = spec_of(execution)
        log_folder = spec.paths.round_jobs(3)
        texts[f"sbatch_{name}.sh"] = script_text(spec, 3, TOKEN, spec.execution.array_tasks, "/opt/my env/bin/python", log_folder)
    return texts


def all_texts() -> dict[str, str]:
    return {"slurm_parameters.json": parameters_text(), **script_texts()}


def check(name: str, text: str) -> None:
    """Fail with a diff, and the command that accepts it, if `text` is not the golden."""
    golden = FOLDER / name
    assert golden.is_file(), f"there is no golden {golden}; if the text is right, accept it: {ACCEPT}"
    want = golden.read_text(encoding="utf-8")
    diff = "".join(difflib.unified_diff(want.splitlines(True), text.splitlines(True), str(golden), "now"))
    assert text == want, f"{diff}\nIf this is meant, accept it: {ACCEPT}"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, content in all_texts().items():
        (FOLDER / file).write_text(content, encoding="utf-8")
        print(f"wrote {FOLDER / file}")
