"""kill -9 of a rank, of a job or of the driver at random moments, then the same call again: the same store, nothing lost, nothing twice.

The seed is printed; `CAMPAIGN_FAULT_SEED` repeats a run. `CAMPAIGN_FAULT_KILLS` sets how many kills there are, ten by default.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from campaign.consolidate import run_consolidate
from campaign.progress import CampaignState, read_progress
from campaign.spec import CampaignSpec
from campaign.store.digest import digest
from campaign.store.reader import StoreReader
from campaign.testing.real_campaign import create_campaign
from campaign.verify import run_verify
from slurm.drive import relax_until_done

N_KILLS = int(os.environ.get("CAMPAIGN_FAULT_KILLS", "10"))
SEED = int(os.environ.get("CAMPAIGN_FAULT_SEED", "20261124"))
N_SYSTEMS = 300
FMAX = 1e-4

WAYS = {
    "mpi": 'array_tasks = 2\nranks_per_task = 2\nlauncher = "mpirun"\nmax_rounds = 50\nmax_systems_in_batch = 4',
    "claim files": 'array_tasks = 2\nranks_per_task = 2\nlauncher = "none"\nmax_rounds = 50\nmax_systems_in_batch = 4',
}

DRIVER = """
import sys
from pathlib import Path
from campaign.spec import read_spec
from slurm.drive import relax_until_done
spec = read_spec(Path(sys.argv[1]))
relax_until_done(spec.paths, spec)
"""

VICTIMS = {
    # what is killed → words, one of which its command line has
    "rank": ("campaign.worker",),
    "mpiexec": ("mpiexec",),
    "entry": ("submitit.core._submit",),
    "job": ("submitit.local._local",),
    "driver": ("from slurm.drive import",),
}


def processes_of(spec: CampaignSpec, kind: str | None = None) -> list[psutil.Process]:
    """Processes of this campaign, of one kind or of all; each has the campaign's directory on its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        words = VICTIMS[kind] if kind else [word for every in VICTIMS.values() for word in every]
        if alive and str(spec.paths.root) in command and any(word in command for word in words):
            # mpiexec's command line has its ranks' in it.
            if kind == "rank" and "mpiexec" in command:
                continue
            found.append(process)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    spec = create_campaign(tmp_path_factory.mktemp("undisturbed"), n=N_SYSTEMS, execution='executor = "debug"', fmax=FMAX)
    relax_until_done(spec.paths, spec)
    run_consolidate(spec.paths)
    return digest(spec.paths.store)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
def test_kills_at_random_moments_change_nothing(way: str, undisturbed: dict[str, str], tmp_path: Path) -> None:
    random_moment = random.Random(f"{SEED} {way}")
    n_kills = n_campaigns = 0
    log: list[str] = []
    while n_kills < N_KILLS // len(WAYS):
        n_campaigns += 1  # a campaign may end before anything was killed
        spec = create_campaign(tmp_path / f"run {n_campaigns}", n=N_SYSTEMS, execution=WAYS[way], fmax=FMAX)
        n_kills += disturb(spec, random_moment, N_KILLS // len(WAYS) - n_kills, log)
        progress = read_progress(spec.paths)
        print(f"seed {SEED}, {way}: {log}, {len(spec.paths.rounds())} rounds, {len(spec.paths.shard_names())} shards")
        assert progress.state is CampaignState.COMPLETE, log
        run_consolidate(spec.paths)
        assert run_verify(spec.paths).ok
        ids = StoreReader.open(spec.paths.store).read_system("system_id").flatten().tolist()
        assert ids == list(range(N_SYSTEMS)), "nothing lost, nothing twice"
        assert digest(spec.paths.store) == undisturbed, log
        assert_nothing_lives_on(spec)


def disturb(spec: CampaignSpec, random_moment: random.Random, most_kills: int, log: list[str]) -> int:
    """Drive a campaign to its end and kill something now and then; a dead driver is replaced. Return the number of kills."""
    n_kills = 0
    kinds = random_moment.sample(list(VICTIMS), len(VICTIMS))
    driver = start_driver(spec)
    while driver.poll() is None:
        if n_kills == most_kills:
            assert driver.wait(600) == 0
            break
        wait_for_moment(spec, driver, random_moment)
        kind = kinds[n_kills % len(kinds)]
        victims = processes_of(spec, kind)
        if victims:
            victim = random_moment.choice(sorted(victims, key=lambda process: process.pid))
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
            n_kills += 1
            log.append(f"{kind} with {read_progress(spec.paths).n_done} done")
            if kind == "driver":
                driver.wait()
        if driver.poll() == -signal.SIGKILL:
            driver = start_driver(spec)
    assert driver.returncode == 0, log
    return n_kills


def wait_for_moment(spec: CampaignSpec, driver: subprocess.Popen[bytes], random_moment: random.Random) -> None:
    """Every other time, on average, at any time from the start of a driver on, else while outcomes are being written."""
    n_done = read_progress(spec.paths).n_done
    at_work = random_moment.random() < 0.5
    pause_s = random_moment.uniform(0.0, 1.0 if at_work else 12.0)
    while at_work and read_progress(spec.paths).n_done == n_done and driver.poll() is None:
        time.sleep(0.05)
    deadline = time.monotonic() + pause_s
    while time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.02)


def start_driver(spec: CampaignSpec) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(spec.paths.spec)])


def assert_nothing_lives_on(spec: CampaignSpec) -> None:
    """Whatever was killed, all that belonged to it has ended soon after."""
    deadline = time.monotonic() + 30
    while left := processes_of(spec):
        assert time.monotonic() < deadline, [process.cmdline() for process in left]
        time.sleep(0.2)
