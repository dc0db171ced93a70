"""The number of an attempt. Whoever creates something exclusively under a number has it; nothing is ever written twice under one."""

from __future__ import annotations

from campaign.errors import JobError
from campaign.paths import DIRECTORY_MODE, CampaignPaths

MOST_ATTEMPTS = 1000
"""Names have three digits."""


def claim_attempt(paths: CampaignPaths, round_: int, array_task: int, first: int = 0) -> int:
    """Return the first free number, from `first` on, of an attempt at an array task, and take it by making its folder of claims.

    Raises:
        JobError: all numbers are taken.
    """
    for attempt in range(first, MOST_ATTEMPTS):
        folder = paths.claims(round_, array_task, attempt)
        folder.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=DIRECTORY_MODE)
        except FileExistsError:
            continue
        return attempt
    raise JobError(
        f"array task {array_task} of round {round_} in {paths.root} was started {MOST_ATTEMPTS} times. An array task has at most that many "
        "attempts; cancel the job and look at its log."
    )
