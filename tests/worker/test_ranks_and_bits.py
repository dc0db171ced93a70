"""One campaign on one rank and on four: the same bytes in every array, of structures that have nothing in common.

Some of them keep their space group, which an ASE database says; it comes back out of the store and of what is exported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixSymmetry
from ase.db import connect

import campaign
from campaign.consolidate import run_consolidate
from campaign.export import run_export
from campaign.ingest import run_ingest
from campaign.paths import CampaignPaths
from campaign.plan import RoundPlan, run_plan
from campaign.spec import CampaignSpec, parse_spec
from campaign.store import StoreReader
from campaign.store.digest import digest
from campaign.structures.files import iter_frames
from campaign.structures.paths import InputFile
from campaign.testing.real_campaign import structures
from campaign.verify import run_verify
from campaign.worker.claims import plan_blocks
from campaign.worker.claims.files import FileClaims
from campaign.worker.environment import read_environment
from campaign.worker.job import Place, RankJob
from campaign.worker.records import RunState
from campaign.worker.run import run_rank
from campaign.worker.stop import StopRequests

MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
SPEC = """
[campaign]
name = "ranks"
directory = "{directory}"
[inputs]
paths = ["inputs.db"]
[model]
name = "emt"
device = "cpu"
[relax]
optimizer = "{optimizer}"
fmax_ev_per_ang = 1e-3
max_steps = 1000
cell = "full"
[execution]
array_tasks = {array_tasks}
"""

# spglib and ASE's use of it tell of what spglib will do in its next version.
pytestmark = pytest.mark.filterwarnings("ignore:.*OLD_ERROR_HANDLING.*:DeprecationWarning")


def symmetric(kept: bool = True) -> list[Atoms]:
    """Structures that leave their group when nothing keeps them in it."""
    found = [bulk("CuAu", "rocksalt", a=5.0, cubic=True), bulk("Cu", "sc", a=2.4) * (2, 2, 2)]
    for atoms in found:
        atoms.rattle(3e-3, seed=1)
        if kept:
            atoms.set_constraint(FixSymmetry(atoms, symprec=0.02))
    return found


def strangers() -> list[Atoms]:
    """Structures of other sizes, elements, cells and periodicities; the last two are those of `symmetric`, and free."""
    slab = fcc111("Pt", (2, 2, 3), vacuum=6.0)
    slab.set_constraint(FixAtoms(range(4)))
    wire = bulk("Ni", cubic=True) * (1, 1, 2)
    wire.pbc = (False, False, True)
    skewed = bulk("Ag", a=4.2) * (3, 1, 2)
    for seed, atoms in enumerate((slab, wire, skewed)):
        atoms.rattle(0.05, seed=seed)
    return [*structures(30), slab, wire, skewed, *symmetric(kept=False)]


def campaign_of(folder: Path, name: str, optimizer: str, array_tasks: int = 1) -> tuple[CampaignSpec, RoundPlan]:
    file = folder / "inputs.db"
    if not file.exists():
        with connect(file) as database:
            for atoms in (*symmetric(), *strangers()):
                database.write(atoms)
    spec = parse_spec(SPEC.format(directory=name, optimizer=optimizer, array_tasks=array_tasks), folder)
    assert run_ingest(spec).n_rejected == 0
    plan = run_plan(spec.paths, spec)
    assert plan is not None
    return spec, plan


def run_here(folder: Path, name: str, optimizer: str, array_tasks: int) -> CampaignPaths:
    """Relax in this process, one rank for each array task."""
    spec, plan = campaign_of(folder, name, optimizer, array_tasks)
    for array_task in range(array_tasks):
        claims = FileClaims(spec.paths.claims(1, array_task, 0), plan_blocks(len(plan.assignment(array_task)), 1), 0)
        state = run_rank(
            RankJob(str(spec.paths.root), 1, array_task, 1, "files"),
            claims,
            Place(1, array_task, 0, 0, 1, 0, 1),
            plan=plan,
            environment=read_environment({}),
            stop=StopRequests(),
            started_unix_s=time.time(),
        )
        assert state is RunState.DONE
    run_consolidate(spec.paths)
    assert run_verify(spec.paths).ok
    return spec.paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def by_fire(folder: Path) -> CampaignPaths:
    """The campaign on one rank."""
    return run_here(folder, "fire-1", "fire", 1)


def test_four_array_tasks_give_the_bytes_of_one(by_fire: CampaignPaths, folder: Path) -> None:
    four = run_here(folder, "fire-4", "fire", 4)
    assert [StoreReader.open(four.shard(name)).n_systems > 3 for name in four.shard_names()] == [True] * 4
    assert digest(by_fire.store) == digest(four.store)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["fire2", "lbfgs"])
def test_with_each_optimizer(optimizer: str, folder: Path) -> None:
    one, four = (run_here(folder, f"{optimizer}-{array_tasks}", optimizer, array_tasks) for array_tasks in (1, 4))
    assert digest(one.store) == digest(four.store)


def test_four_ranks_of_mpi_give_the_bytes_of_one(by_fire: CampaignPaths, folder: Path) -> None:
    spec, _ = campaign_of(folder, "mpi-4", "fire")
    job = RankJob(str(spec.paths.root), 1, 0, 4, "mpi")
    command = [MPIEXEC, "-n", "4", sys.executable, "-m", "campaign.worker", job.to_json()]
    subprocess.run(command, check=True, timeout=300, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print("systems by rank:", [StoreReader.open(spec.paths.shard(name)).n_systems for name in spec.paths.shard_names()])
    assert len(spec.paths.shard_names()) == 4
    run_consolidate(spec.paths)
    assert digest(by_fire.store) == digest(spec.paths.store)


def test_symmetry_goes_from_a_database_to_the_store_and_back(by_fire: CampaignPaths, tmp_path: Path) -> None:
    paths = by_fire
    store = campaign.open(paths)
    assert set(store.frame(["outcome"])["outcome"]) == {"converged"}
    steps = StoreReader.open(paths.store).read_system("n_steps")[:, 0]
    for row, atoms in enumerate(symmetric()):
        before, after = atoms.constraints[0], store[row].constraints[0]
        assert isinstance(after, FixSymmetry)
        assert (after.symprec, len(after.rotations)) == (0.02, len(before.rotations))
        assert store[row].info["symprec"] == 0.02
        assert np.array_equal(store[row].positions, StoreReader.open(paths.store).read_atoms("positions", [row])[1]), "not refined"
        free = store[row - 2 + len(store)]
        assert not free.constraints and "symprec" not in free.info
        assert free.get_potential_energy() < store[row].get_potential_energy() - 0.1
    assert len(set(steps.tolist())) > 4
    for form, name in (("ase-db", "out.db"), ("aselmdb", "out.aselmdb")):
        run_export(paths, form, tmp_path / name)
        again = [frame.atoms for frame in iter_frames(InputFile(str(tmp_path / name), name))]
        assert [[type(one).__name__ for one in atoms.constraints] for atoms in again if atoms is not None] == [
            [type(one).__name__ for one in atoms.constraints] for atoms in store
        ]
