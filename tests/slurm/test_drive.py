"""Campaigns from plan to last outcome, by local and debug executors, with MPI and with claim files; and drivers that die."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from campaign.consolidate import run_consolidate
from campaign.errors import JobError
from campaign.progress import CampaignState, Progress
from campaign.spec import CampaignSpec
from campaign.store.digest import digest
from campaign.testing.real_campaign import create_campaign
from campaign.worker.processes import Life
from campaign.worker.records import RunState, read_rank_records
from slurm.cancel import cancel_campaign
from slurm.drive import relax_until_done
from slurm.submission import SubmissionState, read_submission

T = TypeVar("T")

DRIVER = """
import sys
from pathlib import Path
from campaign.spec import read_spec
from slurm.drive import relax_until_done
spec = read_spec(Path(sys.argv[1]))
relax_until_done(spec.paths, spec)
"""


def store_of(spec: CampaignSpec) -> dict[str, str]:
    run_consolidate(spec.paths)
    return digest(spec.paths.store)


@pytest.mark.long
def test_the_same_store_whoever_runs_it(tmp_path: Path) -> None:
    ways = {
        "mpi": 'array_tasks = 2\nranks_per_task = 2\nlauncher = "mpirun"',
        "claim files": 'ranks_per_task = 3\nlauncher = "none"',
        "debug": 'executor = "debug"\narray_tasks = 2\nmax_systems_in_batch = 3',
    }
    stores = {}
    for way, execution in ways.items():
        spec = create_campaign(tmp_path / f"{way} ä 'x'", execution=execution)
        steps: list[str] = []

        def step(name: str, arrow: Callable[[], T], steps: list[str] = steps) -> T:
            steps.append(name)
            return arrow()

        seen: list[Progress] = []
        progress = relax_until_done(spec.paths, spec, seen.append, step)
        assert progress.state is CampaignState.COMPLETE
        assert steps == ["plan", "submit", "watch"]
        assert [one.n_done for one in seen] == sorted(one.n_done for one in seen)
        records = read_rank_records(spec.paths, 1)
        assert {record.state for record in records} == {RunState.DONE}
        assert sum(sum(record.outcomes.values()) for record in records) == progress.n_inputs
        stores[way] = store_of(spec)
        print(way, progress.outcomes, {record.name.rank: record.n_claims for record in records})
    assert stores["mpi"] == stores["claim files"] == stores["debug"]


def test_nothing_to_do_does_nothing(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=3, execution='executor = "debug"')
    relax_until_done(spec.paths, spec)
    assert relax_until_done(spec.paths, spec).state is CampaignState.COMPLETE
    assert spec.paths.rounds() == [1]


def test_an_error_that_would_come_again_stops_at_once(tmp_path: Path) -> None:
    """A rank that demands a GPU where there is none: one round, and the error has what the rank said and the end of its log."""
    spec = create_campaign(tmp_path, n=3, execution='launcher = "none"')
    text = spec.paths.spec.read_text(encoding="utf-8")
    spec.paths.spec.write_text(text.replace('device = "cpu"', 'device = "cuda"'), encoding="utf-8")
    with pytest.raises(JobError) as caught:
        relax_until_done(spec.paths, spec)
    error = str(caught.value)
    print(error)
    assert "added no outcome: 1 of its 1 array tasks failed, array task 0 with" in error
    assert "rank 0: MissingDeviceError" in error
    assert "_log.err ends with" in error
    assert "Mend the cause, then `campaign resume`" in error
    assert spec.paths.rounds() == [1]


def test_rounds_are_not_endless(tmp_path: Path) -> None:
    """Ranks that are always killed: as many rounds as the spec allows, then it stops short, without an error."""
    spec = create_campaign(tmp_path, n=3, execution='launcher = "none"\nmax_rounds = 2')
    done = threading.Event()
    killer = threading.Thread(target=kill_ranks, args=(spec, done))
    killer.start()
    try:
        progress = relax_until_done(spec.paths, spec)
    finally:
        done.set()
        killer.join()
    assert progress.n_left == 3
    assert spec.paths.rounds() == [1, 2]


def kill_ranks(spec: CampaignSpec, done: threading.Event) -> None:
    import psutil

    while not done.wait(0.02):
        for process in psutil.process_iter():
            try:
                if "campaign.worker" in (command := process.cmdline()) and str(spec.paths.root) in command[-1]:
                    process.kill()
            except psutil.Error:
                continue


def test_a_cancelled_campaign_stops_and_keeps_what_is_finished(tmp_path: Path) -> None:
    # With a trajectory steps are done one by one, so that there is time to cancel something.
    execution = 'launcher = "none"\nmax_systems_in_batch = 1\n'
    spec = create_campaign(tmp_path, n=200, execution=execution, fmax=1e-5, extra="[trajectory]\nevery = 1000\n")
    cancelled: list[int] = []

    def cancel_when_something_is_done(progress: Progress) -> None:
        if progress.n_done and not cancelled:
            cancelled.append(cancel_campaign(spec.paths))

    progress = relax_until_done(spec.paths, spec, cancel_when_something_is_done)
    assert cancelled == [1]
    assert progress.state is CampaignState.CANCELLED
    assert 0 < progress.n_done < progress.n_inputs
    assert relax_until_done(spec.paths, spec).n_done == progress.n_done, "the request stands until it is withdrawn"
    (record,) = read_rank_records(spec.paths, 1)
    assert record.state is RunState.STOPPED
    assert record.reason == "the campaign was cancelled"
    spec.paths.cancel.unlink()
    assert relax_until_done(spec.paths, spec).state is CampaignState.COMPLETE


@pytest.mark.long
def test_another_driver_watches_what_the_dead_one_submitted(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=40, execution="ranks_per_task = 2", fmax=1e-4)
    first = subprocess.Popen([sys.executable, "-c", DRIVER, spec.paths.spec])
    while not spec.paths.rank_records(1).exists():
        time.sleep(0.05)
        assert first.poll() is None
    first.kill()
    first.wait()
    submission = read_submission(spec.paths, 1)
    assert submission is not None
    assert submission.state is SubmissionState.SUBMITTED
    progress = relax_until_done(spec.paths, spec)
    assert progress.state is CampaignState.COMPLETE
    assert spec.paths.rounds() == [1], "its jobs lived on and did all of it"
    after = read_submission(spec.paths, 1)
    assert after is not None
    assert after.state is SubmissionState.ENDED
    assert all(job.process is not None and job.process.life() is Life.GONE for job in after.jobs)
