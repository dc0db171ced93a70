"""What a spec's [consolidate] becomes: Dask workers here, at an address, or in SLURM jobs whose scripts dask-jobqueue writes."""

from __future__ import annotations

import sys

import pytest
from goldens import CASES, spec_of

from campaign.dask_client import DaskWorkers
from campaign.errors import SpecError
from slurm.dask_workers import asked_workers, jobqueue_parameters, n_jobs


@pytest.mark.parametrize("case", CASES)
def test_dask_jobqueue_takes_the_parameters(case: str) -> None:
    from dask_jobqueue.slurm import SLURMJob

    parameters = jobqueue_parameters(spec_of(CASES[case]))
    del parameters["scheduler_options"]
    script = SLURMJob("tcp://10.0.0.1:1", name="w", **parameters).job_script()
    print(script)
    lines = script.splitlines()
    flags = [line.removeprefix("#SBATCH ").replace("=", " ").split(" ")[0] for line in lines if line.startswith("#SBATCH")]
    assert len(flags) == len(set(flags))
    assert {"-J", "-n", "--cpus-per-task", "--mem", "-t"} <= set(flags)
    assert not {"--nodes", "--gpus-per-task", "--array"} & set(flags)
    for line in parameters["job_script_prologue"]:
        assert line in lines


def test_memory_and_jobs_are_those_of_the_spec() -> None:
    spec = spec_of('array_tasks = 7\n[execution.slurm]\ntime_min = 90\n[consolidate]\nworkers = "slurm"\nmemory_gb = 4')
    assert (jobqueue_parameters(spec)["memory"], jobqueue_parameters(spec)["walltime"], n_jobs(spec)) == ("6144 MiB", "01:30:00", 7)
    assert n_jobs(spec_of("array_tasks = 7\n[consolidate]\nn_workers = 3")) == 3


def test_other_workers_need_no_slurm() -> None:
    with asked_workers(spec_of("[consolidate]\nworkers = 'local'\nn_workers = 3")) as workers:
        assert workers == DaskWorkers("local", 3)
    with asked_workers(spec_of("[consolidate]\nworkers = 'scheduler'\nscheduler = 'tcp://a:1'")) as workers:
        assert workers == DaskWorkers("scheduler", 0, "tcp://a:1")
    with asked_workers(spec_of(""), scheduler="tcp://b:2") as workers:
        assert workers == DaskWorkers("scheduler", 0, "tcp://b:2")


def test_slurm_without_dask_jobqueue_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask_jobqueue", "dask_jobqueue.slurm"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SpecError, match=r"needs dask-jobqueue\. Install it"), asked_workers(spec_of('[consolidate]\nworkers = "slurm"')):
        pass


def test_slurm_where_there_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SpecError, match=r"there is no sbatch on this machine"), asked_workers(spec_of('[consolidate]\nworkers = "slurm"')):
        pass


@pytest.mark.parametrize(
    ("section", "seen"),
    [
        ('workers = "scheduler"', "consolidate.scheduler is missing; give its address"),
        ('scheduler = "tcp://a:1"', 'does nothing unless consolidate.workers is "scheduler"'),
        ('workers = "slrum"', "Did you mean 'slurm'"),
        ("memory_gb = 0", "consolidate.memory_gb"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(section: str, seen: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(f"[consolidate]\n{section}")
    print(caught.value)
    assert seen in str(caught.value)
