"""What a job entry says about one attempt of an array task: a small JSON file, so that nobody has to load submitit's pickled results."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from campaign.files import write_json
from campaign.paths import CampaignPaths
from campaign.worker.processes import ProcessId
from campaign.worker.records import RunState


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One attempt at an array task, seen by the process that started its ranks."""

    round: int
    array_task: int
    attempt: int
    state: RunState
    job_id: str | None
    process: ProcessId
    error: str = ""

    def write(self, paths: CampaignPaths) -> None:
        """Write the record, replacing an earlier one of this attempt."""
        file = paths.job_record(self.round, self.array_task, self.attempt)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(self))


def read_job_records(paths: CampaignPaths, round_: int) -> dict[int, JobRecord]:
    """Return the record of the latest attempt at each array task that has one.

    Raises:
        OSError: a record cannot be read.
    """
    folder = paths.job_records(round_)
    if not folder.is_dir():
        return {}
    latest: dict[int, JobRecord] = {}
    for file in sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
        values = json.loads(file.read_text(encoding="utf-8"))
        record = JobRecord(**{**values, "state": RunState(values["state"]), "process": ProcessId(**values["process"])})
        latest[record.array_task] = record  # names sort by array task, then attempt
    return latest
