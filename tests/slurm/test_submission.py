from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from campaign.errors import StoreDamagedError
from campaign.paths import CampaignPaths
from campaign.worker.processes import ProcessId
from slurm.submission import Submission, SubmissionState, SubmittedJob, read_submission


def submission_of(state: SubmissionState = SubmissionState.SUBMITTING, executor: str = "local") -> Submission:
    return Submission(1, executor, "cu-au-0f1e", state, (0, 1), ProcessId.this(), 1000.0)


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    paths = CampaignPaths(tmp_path / "a 'b' ä")
    paths.round_jobs(1).mkdir(parents=True)
    return paths


def test_a_record_comes_back(paths: CampaignPaths) -> None:
    assert read_submission(paths, 1) is None
    submission = submission_of()
    submission.create(paths)
    assert read_submission(paths, 1) == submission
    jobs = (SubmittedJob(0, "12_0"), SubmittedJob(1, "12_1", ProcessId.this()))
    submitted = replace(submission, state=SubmissionState.SUBMITTED, jobs=jobs)
    submitted.write(paths)
    assert read_submission(paths, 1) == submitted


def test_one_of_two_creates_it(paths: CampaignPaths) -> None:
    submission_of().create(paths)
    with pytest.raises(FileExistsError):
        submission_of().create(paths)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"jobs": [], "state": "lost"}'])
def test_what_is_no_record_is_damage(paths: CampaignPaths, text: str) -> None:
    paths.submission(1).write_text(text)
    with pytest.raises(StoreDamagedError, match=r"is no record of a submission.*written whole.*remove the file and its plan"):
        read_submission(paths, 1)
