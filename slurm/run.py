"""The whole campaign: every arrow in its order, once. The command line and the Prefect flow are two ways to call this.

What an arrow does is in `campaign/`; this file only knows their order, times each one and tells a listener. `Step` lets a caller
wrap each arrow, for example in a Prefect task, without knowing the order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from campaign.consolidate import ConsolidateReport, run_consolidate
from campaign.dask_client import Connection
from campaign.errors import CampaignExistsError
from campaign.files import writing
from campaign.ingest import run_ingest
from campaign.paths import CampaignPaths
from campaign.progress import Progress, read_progress
from campaign.report import run_report
from campaign.spec import CampaignSpec, read_frozen_spec
from campaign.timings import append_timing
from campaign.verify import VerifyReport, run_verify
from slurm.dask_workers import asked_workers
from slurm.drive import relax_until_done
from slurm.steps import Step, call

T = TypeVar("T")


class Observer(Protocol):
    """Who wants to know how far a campaign is."""

    def started(self, arrow: str) -> None:
        """An arrow begins."""

    def progress(self, progress: Progress) -> None:
        """The relaxation has come further; called about once a second."""

    def ingested(self, n_done: int, n_total: int | None) -> None:
        """Ingest has read `n_done` structures."""

    def consolidated(self, n_done: int, n_total: int) -> None:
        """Consolidation has written `n_done` of so many bytes."""

    def connected(self, connection: Connection) -> None:
        """Consolidation has its workers."""

    def finished(self, arrow: str, seconds: float) -> None:
        """An arrow has ended."""


class Silent:
    """An observer that does nothing."""

    def started(self, arrow: str) -> None:
        """Say nothing."""

    def progress(self, progress: Progress) -> None:
        """Say nothing."""

    def ingested(self, n_done: int, n_total: int | None) -> None:
        """Say nothing."""

    def consolidated(self, n_done: int, n_total: int) -> None:
        """Say nothing."""

    def connected(self, connection: Connection) -> None:
        """Say nothing."""

    def finished(self, arrow: str, seconds: float) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """What a campaign ended with. `consolidated` and `verified` are None when inputs are left without an outcome."""

    paths: CampaignPaths
    progress: Progress
    consolidated: ConsolidateReport | None
    verified: VerifyReport | None
    report: Path

    @property
    def complete(self) -> bool:
        """Every input has an outcome, and the store was found right."""
        return self.verified is not None and self.verified.ok


def start_campaign(spec: CampaignSpec, observer: Observer | None = None, step: Step = call) -> CampaignResult:
    """Run a new campaign from its inputs to its report.

    Raises:
        CampaignExistsError: the directory holds a campaign already.
        CampaignError: whatever an arrow raises; what was committed stays and `resume_campaign` goes on.
    """
    if spec.paths.spec.exists():
        raise CampaignExistsError(
            f"{spec.paths.root} is a campaign already. A campaign is never overwritten: go on with `campaign resume`, "
            "or give another directory in the spec."
        )
    return _run(spec, observer or Silent(), step)


def resume_campaign(paths: CampaignPaths, observer: Observer | None = None, step: Step = call) -> CampaignResult:
    """Do what is left of a campaign; nothing if nothing is. Withdraws an earlier request to cancel.

    It works on the directory as given: one that was moved or copied goes on at its new place.

    Raises:
        CampaignError: whatever an arrow raises.
    """
    with writing(paths.cancel):
        paths.cancel.unlink(missing_ok=True)
    return _run(read_frozen_spec(paths), observer or Silent(), step)


def consolidate(
    paths: CampaignPaths, spec: CampaignSpec, observer: Observer, scheduler: str | None = None, **options: Any
) -> ConsolidateReport:
    """Consolidate with the workers and the memory that the spec asks for, or those of the scheduler at an address.

    `options` are those of `run_consolidate`.

    Raises:
        CampaignError: whatever `run_consolidate` raises.
    """
    budget_bytes = int(spec.consolidate.memory_gb * 2**30)
    with asked_workers(spec, scheduler) as workers:
        return run_consolidate(
            paths, workers, budget_bytes=budget_bytes, on_progress=observer.consolidated, on_connected=observer.connected, **options
        )


def _run(spec: CampaignSpec, observer: Observer, step: Step) -> CampaignResult:
    paths = spec.paths

    def timed(name: str, arrow: Callable[[], T]) -> T:
        observer.started(name)
        start = time.monotonic()
        result = step(name, arrow)
        seconds = time.monotonic() - start
        append_timing(paths, name, seconds)
        observer.finished(name, seconds)
        return result

    if not paths.inputs.exists():
        timed("ingest", lambda: run_ingest(spec, on_progress=observer.ingested))
    progress = read_progress(paths)
    if progress.n_left:
        progress = relax_until_done(paths, spec, on_progress=observer.progress, step=timed)
    consolidated, verified = None, None
    if not progress.n_left:
        consolidated = timed("consolidate", lambda: consolidate(paths, spec, observer))
        verified = timed("verify", lambda: run_verify(paths))
    report = timed("report", lambda: run_report(paths))
    return CampaignResult(paths, read_progress(paths), consolidated, verified, report)
