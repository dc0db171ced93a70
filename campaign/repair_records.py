"""Which plans and records of a campaign cannot be read, and what a repair does about each. Nothing is changed here.

They are for people, and for going on; what is done is in the shards alone. So a damaged one is moved away. A plan whose round was
submitted keeps its number, with nothing in it, since shards and records of its jobs are named by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from campaign.errors import StoreError
from campaign.paths import CampaignPaths
from campaign.plan import RoundPlan
from campaign.worker.records import RankRecord, read_rank_record


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A file that cannot be read, and what takes its place: JSON, or nothing."""

    file: Path
    seen: str
    does: str
    replacement: dict[str, Any] | None = None


def damaged_records(paths: CampaignPaths) -> Iterator[DamagedRecord]:
    """Yield every plan, submission, record of a job or rank, and list of times that is there and cannot be read."""
    for round_ in paths.rounds():
        submission = paths.submission(round_)
        is_submitted = _is_json(submission, dict)
        plan = _damaged_plan(paths, round_, is_submitted)
        if plan is not None:
            yield plan
        if submission.exists() and not is_submitted:
            does = "It is moved away; `campaign resume` submits that round again, without what is done."
            yield DamagedRecord(submission, "it cannot be read", does)
        unreadable = [file for file in _files(paths.rank_records(round_)) if _rank_record(file) is None]
        unreadable += [file for file in _files(paths.job_records(round_)) if not _is_json(file, dict)]
        for file in unreadable:
            yield DamagedRecord(file, "it cannot be read", "It is moved away; what is done is in the shards.")
    if paths.timings.exists() and not _is_json(paths.timings, list):
        yield DamagedRecord(paths.timings, "it cannot be read", "It is moved away; times are counted anew.")


def readable_rank_records(paths: CampaignPaths) -> Iterator[RankRecord]:
    """Yield the records of ranks of all rounds, passing over those that cannot be read."""
    for round_ in paths.rounds():
        for file in _files(paths.rank_records(round_)):
            record = _rank_record(file)
            if record is not None:
                yield record


def _damaged_plan(paths: CampaignPaths, round_: int, is_submitted: bool) -> DamagedRecord | None:
    try:
        RoundPlan.read(paths.plan(round_))
        return None
    except StoreError:
        seen = "it is no plan that can be read"
    if not is_submitted:
        return DamagedRecord(paths.plan(round_), seen, "Its round was not submitted; `campaign resume` plans what is left.")
    empty = RoundPlan(round_, "0" * 32, 1, np.zeros(0, dtype=np.int64), (0,))
    does = "Its round gets a plan with nothing in it; `campaign resume` plans what is left."
    return DamagedRecord(paths.plan(round_), seen, does, empty.to_json())


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(file for file in folder.iterdir() if file.suffix == ".json" and not file.name.startswith("."))


def _rank_record(file: Path) -> RankRecord | None:
    try:
        return read_rank_record(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_json(file: Path, kind: type) -> bool:
    try:
        return isinstance(json.loads(file.read_bytes()), kind)
    except (OSError, ValueError):
        return False
