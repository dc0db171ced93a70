from __future__ import annotations

import subprocess
import sys

import pytest

from campaign.errors import ContractError, JobError
from campaign.paths import CampaignPaths, ShardName
from campaign.worker import attempts
from campaign.worker.attempts import claim_attempt
from campaign.worker.job import RankJob
from campaign.worker.processes import ProcessId
from campaign.worker.records import EXIT_STOPPED, RankRecord, RunState, read_rank_records

JOBS = [
    RankJob("/data/a", 1, 0, n_ranks=2, claims="mpi"),
    RankJob("/data/Cu–Au 'x' \"y\" $z", 12, None, n_ranks=1, claims="files"),
    RankJob("/data/a", 1, 3, 4, "files", attempt=2, rank=1, supervisor=ProcessId.this(), time_limit_s=60.0, leave_before_s=15.0, threads=2),
]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_survives_a_command_line(job: RankJob) -> None:
    text = job.to_json()
    assert text.isascii()
    assert "\n" not in text
    shown = subprocess.run([sys.executable, "-c", "import sys; print(sys.argv[1])", text], capture_output=True, text=True, check=True)
    assert RankJob.from_json(shown.stdout.strip()) == job


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"directory": "/d", "round": 1, "n_ranks": 1, "claims": "mpi", "other": 1}', "null"])
def test_what_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match=r"(?s)the rank was started with .*keys of RankJob.*campaign script"):
        RankJob.from_json(text)


@pytest.mark.parametrize("change", ['"claims": "carrier pigeon"', '"n_ranks": 0'])
def test_impossible_values_are_refused(change: str) -> None:
    key = change.split(":")[0]
    values = {'"claims"': '"claims": "mpi"', '"n_ranks"': '"n_ranks": 1', key: change}
    with pytest.raises(ContractError, match=r"claims are 'mpi' or 'files', ranks count from 1.*campaign script"):
        RankJob.from_json(f'{{"directory": "/d", "round": 1, {", ".join(values.values())}}}')


def test_when_to_leave() -> None:
    never = JOBS[0]
    assert never.deadline_unix_s(1000.0, None) is None
    limited = JOBS[2]
    assert limited.deadline_unix_s(1000.0, None) == 1045.0
    assert limited.deadline_unix_s(1000.0, 1030.0) == 1015.0, "the scheduler knows better"


def test_attempts_are_numbered_by_who_comes_first(tmp_path_campaign: CampaignPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = tmp_path_campaign
    assert [claim_attempt(paths, 1, 0) for _ in range(3)] == [0, 1, 2]
    assert claim_attempt(paths, 1, 1) == 0
    assert claim_attempt(paths, 1, 0, first=7) == 7
    monkeypatch.setattr(attempts, "MOST_ATTEMPTS", 3)
    with pytest.raises(JobError, match=r"array task 0 of round 1 .* started 3 times.*at most that many.*look at its log"):
        claim_attempt(paths, 1, 0)


def test_records_come_back(tmp_path_campaign: CampaignPaths) -> None:
    paths = tmp_path_campaign
    assert read_rank_records(paths, 1) == []
    started = RankRecord(ShardName(1, 0, 1, 0), RunState.RUNNING, ProcessId.this(), "12_0", 1000.0)
    started.write(paths)
    ended = RankRecord(
        ShardName(1, 0, 0, 0),
        RunState.DONE,
        ProcessId.this(),
        None,
        1000.0,
        1010.0,
        outcomes={"converged": 30, "failed": 10},
        seconds={"model": 8.0},
        n_steps=400,
    )
    ended.write(paths)
    assert read_rank_records(paths, 1) == [ended, started]
    assert ended.structures_per_s == 4.0
    assert started.structures_per_s == 0.0


def test_exit_codes_tell_how_a_run_ended() -> None:
    codes = {state: state.exit_code for state in RunState if state is not RunState.RUNNING}
    assert codes == {RunState.DONE: 0, RunState.STOPPED: EXIT_STOPPED, RunState.FAILED: 1, RunState.KILLED: 1}
