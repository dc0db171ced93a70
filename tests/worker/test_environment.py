from __future__ import annotations

import os

import pytest

from campaign.worker.environment import prepare_for_determinism, read_environment, thread_variables, threads_of

SRUN = {
    "SLURM_JOB_ID": "4713",
    "SLURM_ARRAY_JOB_ID": "4711",
    "SLURM_ARRAY_TASK_ID": "2",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_JOB_END_TIME": "1800000000",
    "CUDA_VISIBLE_DEVICES": "1",
}


def test_a_rank_under_srun() -> None:
    seen = read_environment(SRUN)
    assert (seen.job_id, seen.array_task, seen.restart_count) == ("4711_2", 2, 1)
    assert (seen.rank, seen.n_ranks, seen.local_rank, seen.local_size) == (3, 4, 1, 2)
    assert (seen.cores, seen.cores_are_own) == (8, True)
    assert (seen.end_unix_s, seen.cuda_visible_devices) == (1.8e9, "1")


def test_a_local_job_inside_an_allocation_is_not_slurms() -> None:
    seen = read_environment({**SRUN, "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "815"})
    assert (seen.job_id, seen.rank, seen.n_ranks, seen.restart_count, seen.end_unix_s) == ("815", None, None, 0, None)


def test_nothing_set() -> None:
    seen = read_environment({})
    assert (seen.job_id, seen.array_task, seen.rank, seen.local_size, seen.restart_count) == (None, None, None, None, 0)
    assert seen.cores == len(os.sched_getaffinity(0))
    assert not seen.cores_are_own


@pytest.mark.parametrize(
    ("per_node", "node", "size"),
    [
        ("4", "0", 4),
        ("2(x3),1", "2", 2),
        ("2(x3),1", "3", 1),  # the last node has less
        ("2(x3),1", "4", None),  # there is no such node
        ("many", "0", None),
    ],
)
def test_ranks_of_a_node(per_node: str, node: str, size: int | None) -> None:
    assert read_environment({"SLURM_TASKS_PER_NODE": per_node, "SLURM_NODEID": node}).local_size == size


def test_threads() -> None:
    own = read_environment(SRUN)
    assert threads_of(own, local_size=2) == 8
    assert threads_of(own, local_size=2, wanted=3) == 3
    shared = read_environment({})
    assert threads_of(shared, local_size=1) == shared.cores
    assert threads_of(shared, local_size=10**6) == 1
    assert set(thread_variables(3).values()) == {"3"}


def test_a_workspace_for_cublas_unless_one_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare_for_determinism()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    prepare_for_determinism()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
