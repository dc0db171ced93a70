"""Parsing what SLURM says, and its commands with programs in PATH that say it. Real SLURM is tested in tests/cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from slurm.scheduler import cancel_jobs, find_jobs, parse_states, read_states
from slurm.states import JobState


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ("12|RUNNING", ["12"]),
        ("12_3|RUNNING", ["12_3"]),
        ("12_[3]|PENDING", ["12_3"]),
        ("12_[0-2]|PENDING", ["12_0", "12_1", "12_2"]),
        ("12_[0-1,5,7-8%2]|PENDING", ["12_0", "12_1", "12_5", "12_7", "12_8"]),
        ("12.batch|RUNNING", []),  # a step
        ("12_3.0|RUNNING", []),
        ("12+0|RUNNING", []),  # heterogeneous, which is not ours
        ("", []),
        ("slurm_load_jobs error: Invalid job id", []),
    ],
)
def test_ids(line: str, ids: list[str]) -> None:
    assert list(parse_states(line)) == ids


def test_one_question_for_all_jobs_and_the_queue_wins(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "7_1|PENDING\n7_2|RUNNING\n99|RUNNING\n")
    slurm.says("sacct", "7_0|COMPLETED\n7_1|PREEMPTED\n7_2|RUNNING\n")
    states = read_states(["7_0", "7_1", "7_2", "7_3"])
    assert states == {
        "7_0": JobState.COMPLETED,
        "7_1": JobState.PENDING,  # requeued: accounting shows the end of its first run
        "7_2": JobState.RUNNING,
        "7_3": JobState.UNKNOWN,  # nobody knows it, which does not mean that it has ended
    }
    assert len(slurm.asked("squeue")) == 1
    assert [line.split()[-1] for line in slurm.asked("sacct")] == ["--jobs=7"]


def test_accounting_is_not_asked_while_all_are_in_the_queue(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "7_0|RUNNING\n")
    slurm.says("sacct", "", 1)
    assert read_states(["7_0"]) == {"7_0": JobState.RUNNING}
    assert slurm.asked("sacct") == []


def test_a_queue_that_does_not_answer_is_not_an_empty_one(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "", 1)
    slurm.says("sacct", "7|COMPLETED\n")
    assert read_states(["7"]) == {"7": JobState.UNKNOWN}


def test_accounting_that_is_down_leaves_jobs_unknown(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "")
    slurm.says("sacct", "", 1)
    assert read_states(["7"]) == {"7": JobState.UNKNOWN}


def test_jobs_are_found_by_name(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "31_[1-3]|PENDING\n31_0|RUNNING\n")
    slurm.says("sacct", "30_0|COMPLETED\n31_0|RUNNING\n")
    assert find_jobs("cu-au-0f", since_unix_s=0.0) == ["30", "31"]
    slurm.says("squeue", "")
    slurm.says("sacct", "")
    assert find_jobs("cu-au-0f", since_unix_s=0.0) == []
    slurm.says("sacct", "", 1)
    assert find_jobs("cu-au-0f", since_unix_s=0.0) is None


def test_cancel(slurm: FakeSlurm) -> None:
    slurm.says("scancel", "")
    assert cancel_jobs(["7_0", "7_1"], only_pending=True)
    assert cancel_jobs(["7_0"], only_pending=False)
    assert slurm.asked("scancel") == ["--state=PENDING 7_0 7_1", "7_0"]


def test_no_slurm_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_states(["7"]) == {"7": JobState.UNKNOWN}
    assert find_jobs("x", since_unix_s=0.0) is None
    assert not cancel_jobs(["7"], only_pending=True)
