"""What a rank is told: one small JSON text, on its command line or in the job entry. Nothing else crosses that border."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from campaign.errors import ContractError
from campaign.paths import CampaignPaths
from campaign.worker.processes import ProcessId

ClaimKind = Literal["mpi", "files"]


@dataclass(frozen=True, slots=True)
class RankJob:
    """One array task as its ranks see it. All ranks of a launcher get the same text.

    Attributes:
        directory: the campaign directory, absolute.
        round: which plan.
        array_task: which assignment of it; None where SLURM's array index says so (scripts submitted by hand).
        n_ranks: how many ranks the array task has. Found different, nobody starts.
        claims: how ranks claim positions.
        attempt: number of this attempt; None where the ranks agree on it themselves.
        rank: this rank, where a supervisor starts each one by hand; None where MPI or SLURM say so.
        supervisor: the process that started the ranks; when it is gone, they leave.
        time_limit_s: what the scheduler gives the job, unless its environment knows better.
        leave_before_s: how long before that limit the ranks leave.
        threads: CPU threads of a rank; None takes its share of the cores.
    """

    directory: str
    round: int
    array_task: int | None
    n_ranks: int
    claims: ClaimKind
    attempt: int | None = None
    rank: int | None = None
    supervisor: ProcessId | None = None
    time_limit_s: float | None = None
    leave_before_s: float = 0.0
    threads: int | None = None

    @property
    def paths(self) -> CampaignPaths:
        """Paths of the campaign."""
        return CampaignPaths(Path(self.directory))

    def deadline_unix_s(self, started_unix_s: float, end_unix_s: float | None) -> float | None:
        """When to leave, given when the job started and, if it says so, when the scheduler ends it; None for never."""
        if end_unix_s is None and self.time_limit_s is not None:
            end_unix_s = started_unix_s + self.time_limit_s
        return None if end_unix_s is None else end_unix_s - self.leave_before_s

    def to_json(self) -> str:
        """The job on one line of ASCII, which any shell and launcher passes on."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> RankJob:
        """Return the job in `text`.

        Raises:
            ContractError: it is no such job.

        >>> job = RankJob("/data/my campaign", 1, 0, n_ranks=2, claims="files")
        >>> RankJob.from_json(job.to_json()) == job
        True
        """
        try:
            values = json.loads(text)
            supervisor = values.pop("supervisor", None)
            job = cls(array_task=values.pop("array_task", None), supervisor=supervisor and ProcessId(**supervisor), **values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ContractError(
                f"the rank was started with {text!r}, which is no job ({error}). A job is a JSON object with the keys of RankJob; "
                "use the command that `campaign script` prints."
            ) from error
        if job.claims not in ("mpi", "files") or job.n_ranks < 1:
            raise ContractError(
                f"the rank was started with claims {job.claims!r} and {job.n_ranks} ranks; claims are 'mpi' or 'files', ranks count "
                "from 1. Use the command that `campaign script` prints."
            )
        return job


@dataclass(frozen=True, slots=True)
class Place:
    """Which rank of which attempt this process is; `local_rank` counts on its node."""

    round: int
    array_task: int
    attempt: int
    rank: int
    n_ranks: int
    local_rank: int
    local_size: int
