"""A disk that others fill while a campaign runs: one clear error, what is committed stays, and with room again `resume` does the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import mounted_disk

from campaign.errors import StoreNotFoundError
from campaign.paths import CampaignPaths
from campaign.store.reader import StoreReader
from campaign.testing.real_campaign import create_campaign
from campaign.verify import run_verify

N_SYSTEMS = 80
CAMPAIGN = Path(sys.executable).with_name("campaign")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Some megabytes of tmpfs; needs the right to mount."""
    with mounted_disk(tmp_path / "disk", 16) as place:
        yield place


def n_committed(paths: CampaignPaths) -> int:
    total = 0
    for name in paths.shard_names():
        try:
            total += StoreReader.open(paths.shard(name)).n_systems
        except StoreNotFoundError:  # in this moment it is being made
            continue
    return total


def fill(disk: Path) -> Path:
    """Write until nothing more fits, down to the last page."""
    file = disk / "of somebody else"
    with file.open("wb", buffering=0) as open_file:
        for size in (2**20, 4096):
            try:
                while True:
                    open_file.write(bytes(size))
            except OSError:
                continue
    return file


def test_resume_completes_what_a_full_disk_stopped(small_disk: Path) -> None:
    execution = 'executor = "debug"\nlauncher = "none"\narray_tasks = 1\nranks_per_task = 1\nmax_systems_in_batch = 4\nmax_rounds = 1'
    spec = create_campaign(small_disk / "c", n=N_SYSTEMS, execution=execution, fmax=1e-4, flush_s=0.05)
    paths = spec.paths
    running = subprocess.Popen([CAMPAIGN, "resume", str(paths.root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not n_committed(paths):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    filler = fill(small_disk)
    said, _ = running.communicate(timeout=200)
    print(said)
    n_done = n_committed(paths)
    assert running.returncode == 1
    assert "the disk is full" in said and str(paths.root) in said.replace("\n", ""), "neither path nor cause"
    assert 0 < n_done < N_SYSTEMS, "the disk was full too late to try anything"
    for name in paths.shard_names():
        reader = StoreReader.open(paths.shard(name))
        assert len(reader.read()["system_id"]) == reader.n_systems, "what is committed can be read"

    filler.unlink()
    done = subprocess.run([CAMPAIGN, "resume", str(paths.root)], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    ids = [StoreReader.open(paths.shard(name)).read_system("system_id").flatten().tolist() for name in paths.shard_names()]
    assert sorted(number for numbers in ids for number in numbers) == list(range(N_SYSTEMS)), "each once, nothing lost"
    assert run_verify(paths).ok
