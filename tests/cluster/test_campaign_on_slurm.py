"""Campaigns on a real SLURM: the store is, byte for byte, the one that the same campaign gives on this machine without SLURM."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from conftest import Cluster

from campaign.paths import CampaignPaths
from campaign.store.digest import digest
from campaign.worker.records import read_rank_records

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.timeout(900)]

CAMPAIGN = [sys.executable, "-m", "campaign.cli"]
N_CRYSTALS = 20

SPEC = """\
[campaign]
name = "on a cluster"
directory = "run"
[inputs]
paths = ["crystals.extxyz"]
[model]
name = "emt"
device = "cpu"
[relax]
cell = "full"
[execution]
array_tasks = 2
ranks_per_task = 2
flush_s = 0.2
"""

SLURM = """\
executor = "slurm"
max_rounds = 1
[execution.slurm]
partition = "low"
time_min = 5
mem_gb = 0.9
"""

SRUN_PMIX = """\
launcher = "srun-pmix"
setup = ["export MPI4PY_MPIABI=openmpi"]
"""

TWO_NODES = """\
launcher = "srun-pmix"
setup = ["export MPI4PY_MPIABI=openmpi", "export OMPI_MCA_osc=^rdma"]
extra = { nodes = 2 }
"""

SRUN_PMI2 = 'launcher = "srun-pmi2"\n'
"""With MPICH from PyPI, which mpi4py finds beside Python."""

NO_MPI = 'launcher = "none"\n'


def crystals() -> list[Atoms]:
    """Strained and rattled crystals of copper and gold, 4 to 16 atoms."""
    random = np.random.default_rng(7)
    made = []
    for index in range(N_CRYSTALS):
        atoms = bulk("Cu", "fcc", a=3.65 + 0.02 * (index % 10), cubic=True).repeat((1 + index % 2, 1, 1 + index % 3 // 2))
        atoms.numbers[random.random(len(atoms)) < 0.5] = 79
        atoms.positions += random.normal(0.0, 0.05, atoms.positions.shape)
        made.append(atoms)
    return made


def write_campaign(folder: Path, execution: str) -> CampaignPaths:
    """Write the inputs and the spec, whose `[execution]` goes on with `execution`, but ingest nothing."""
    write(folder / "crystals.extxyz", crystals(), format="extxyz")
    (folder / "campaign.toml").write_text(SPEC + execution, encoding="utf-8")
    return CampaignPaths(folder / "run")


def status_of(cluster: Cluster, paths: CampaignPaths) -> tuple[str, dict[str, int]]:
    """Return the state and the outcomes that there are."""
    answer = cluster.run(*CAMPAIGN, "status", "--json", str(paths.root))
    assert answer.returncode == 0, answer.stderr
    status = json.loads(answer.stdout)
    return status["state"], {outcome: count for outcome, count in status["outcomes"].items() if count}


def assert_done(done: subprocess.CompletedProcess[str], paths: CampaignPaths) -> None:
    logs = "".join(f"\n== {file}\n{file.read_text(errors='replace')[-3000:]}" for file in paths.root.glob("jobs/*/*.[elo]*"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}{logs}"


def assert_as_local(cluster: Cluster, paths: CampaignPaths, local: dict[str, str]) -> None:
    """All converged, in one round of four ranks that SLURM started; it verifies; the bytes are those of the local run."""
    assert status_of(cluster, paths) == ("complete", {"converged": N_CRYSTALS})
    assert cluster.run(*CAMPAIGN, "verify", str(paths.root)).returncode == 0
    ranks = read_rank_records(paths, 1)
    assert [(rank.name.array_task, rank.name.rank) for rank in ranks] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {rank.process.host for rank in ranks} <= {"c1", "c2"}
    assert {str(rank.job_id).partition("_")[2] for rank in ranks} == {"0", "1"}
    assert paths.rounds() == [1]
    assert digest(paths.store) == local


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the same campaign run by the local executor."""
    folder = tmp_path_factory.mktemp("local")
    paths = write_campaign(folder, 'executor = "local"\n')
    done = subprocess.run([*CAMPAIGN, "run", str(folder / "campaign.toml")], capture_output=True, text=True, timeout=300, check=False)
    assert_done(done, paths)
    return digest(paths.store)


@pytest.mark.parametrize("launcher", [SRUN_PMIX, TWO_NODES, SRUN_PMI2, NO_MPI], ids=["pmix", "pmix, two nodes", "pmi2", "none"])
def test_a_campaign_on_slurm_gives_the_bytes_of_a_local_one(launcher: str, cluster: Cluster, local: dict[str, str], tmp_path: Path) -> None:
    paths = write_campaign(tmp_path, SLURM + launcher)
    assert_done(cluster.run(*CAMPAIGN, "run", str(tmp_path / "campaign.toml")), paths)
    assert_as_local(cluster, paths, local)
    if launcher == TWO_NODES:
        hosts = {(rank.name.array_task, rank.process.host) for rank in read_rank_records(paths, 1)}
        assert hosts == {(task, host) for task in (0, 1) for host in ("c1", "c2")}


@pytest.mark.parametrize("resume_at", ["its end", "once"])
def test_a_script_submitted_by_hand(resume_at: str, cluster: Cluster, local: dict[str, str], tmp_path: Path) -> None:
    paths = write_campaign(tmp_path, SLURM + SRUN_PMIX)
    ingest = "from campaign.ingest import run_ingest; from campaign.spec import read_spec; print(run_ingest(read_spec('campaign.toml')))"
    subprocess.run([sys.executable, "-c", ingest], cwd=tmp_path, check=True)
    script = cluster.run(*CAMPAIGN, "script", str(paths.root))
    assert script.returncode == 0, script.stderr
    (tmp_path / "round.sbatch").write_text(script.stdout, encoding="utf-8")
    submitted = cluster.run("sbatch", "--parsable", str(tmp_path / "round.sbatch"))
    assert submitted.returncode == 0, submitted.stderr
    if resume_at == "its end":
        deadline = time.monotonic() + 180
        while cluster.run("squeue", "--noheader", f"--jobs={submitted.stdout.strip()}").stdout.strip():
            assert time.monotonic() < deadline, "the jobs do not end"
            time.sleep(0.5)
        logs = {file.name: file.read_text() for file in paths.root.glob("jobs/*/*.log")}
        assert status_of(cluster, paths) == ("complete", {"converged": N_CRYSTALS}), logs
        assert not paths.store.exists()
    assert_done(cluster.run(*CAMPAIGN, "resume", str(paths.root)), paths)
    assert_as_local(cluster, paths, local)


@pytest.mark.parametrize(
    ("setup", "reason"),
    # MPICH from PyPI is what mpi4py finds beside Python; it ends the process by itself. Asked for by name, the loader does not see it.
    [("", "unsupported PMI version PMIx"), ('setup = ["export MPI4PY_MPIABI=mpich"]\n', "MPI cannot be loaded (libmpi.so.12")],
    ids=["another library", "no library"],
)
def test_ranks_whose_mpi_cannot_start_are_an_error_at_once(setup: str, reason: str, cluster: Cluster, tmp_path: Path) -> None:
    paths = write_campaign(tmp_path, SLURM.replace("max_rounds = 1", "max_rounds = 3") + 'launcher = "srun-pmix"\n' + setup)
    done = cluster.run(*CAMPAIGN, "run", str(tmp_path / "campaign.toml"))
    assert done.returncode == 1
    assert paths.rounds() == [1]
    assert reason in done.stderr
    assert "MPI4PY_MPIABI" in done.stderr
