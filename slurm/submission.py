"""The record of what was submitted for a round: written before the scheduler is asked, completed after, closed when all has ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from campaign.errors import StoreDamagedError
from campaign.files import create_whole, write_json
from campaign.paths import CampaignPaths
from campaign.worker.processes import ProcessId


class SubmissionState(StrEnum):
    """How far a round is."""

    SUBMITTING = "submitting"
    """The scheduler is being asked, or whoever asked died before writing down the answer."""
    SUBMITTED = "submitted"
    """The jobs are known."""
    BY_HAND = "by_hand"
    """A person got a script and submits it, or not."""
    ENDED = "ended"
    """Nothing of it runs any more, as far as anyone can know."""


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """Job of one array task; `process` is the local one."""

    array_task: int
    job_id: str
    process: ProcessId | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """What was submitted for a round. `job_name` has the token of its plan."""

    round: int
    executor: str
    job_name: str
    state: SubmissionState
    array_tasks: tuple[int, ...]
    driver: ProcessId
    submitted_unix_s: float
    jobs: tuple[SubmittedJob, ...] = ()

    def create(self, paths: CampaignPaths) -> None:
        """Write the record of a new submission.

        Raises:
            FileExistsError: the round has one.
        FileWriteError: it cannot be written.
        """
        create_whole(paths.submission(self.round), json.dumps(asdict(self), indent=1).encode())

    def write(self, paths: CampaignPaths) -> None:
        """Replace the record."""
        write_json(paths.submission(self.round), asdict(self))


def read_submission(paths: CampaignPaths, round_: int) -> Submission | None:
    """Return the record of a round, or None if nothing was ever submitted for it.

    Raises:
        StoreDamagedError: it cannot be read.
    """
    file = paths.submission(round_)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        jobs = tuple(
            SubmittedJob(job["array_task"], job["job_id"], job["process"] and ProcessId(**job["process"])) for job in values["jobs"]
        )
        fixed = {
            "state": SubmissionState(values["state"]),
            "array_tasks": tuple(values["array_tasks"]),
            "driver": ProcessId(**values["driver"]),
            "jobs": jobs,
        }
        return Submission(**{**values, **fixed})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreDamagedError(
            f"{file} is no record of a submission ({type(error).__name__}: {error}). Records are written whole. If no job of this round "
            'runs any more, write {"state": "ended"} over its state, or remove the file and its plan.'
        ) from error
