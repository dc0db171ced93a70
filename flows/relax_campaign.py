"""The flow `relax-campaign`: the campaign of `slurm.run`, each arrow as a Prefect task, its progress as artifacts.

Prefect is a view. Files are the truth: a second run of the flow finds nothing to do, and a run whose server went away leaves a
campaign that `campaign resume` finishes. Nothing on a compute node talks to Prefect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from campaign.dask_client import Connection
from campaign.errors import CampaignError, SpecError
from campaign.paths import CampaignPaths
from campaign.progress import Progress
from campaign.spec import CampaignSpec, read_frozen_spec, read_spec
from slurm.run import CampaignResult, resume_campaign, start_campaign

T = TypeVar("T")

UPDATE_INTERVAL_S = 5.0
"""Shortest time between two updates of the progress artifact: each one is a write to the server's database."""


def prefect_step(name: str, arrow: Callable[[], T]) -> T:
    """Call one arrow as a Prefect task of that name. Arrows are idempotent, so a crash of the server or worker loses nothing."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(arrow)()


class ArtifactObserver:
    """Shows the share of inputs that have an outcome as a progress artifact of the flow run."""

    def __init__(self) -> None:
        self._log = get_run_logger()
        self._artifact: UUID | None = None
        self._next_update = 0.0

    def started(self, arrow: str) -> None:
        """Log the arrow; make the artifact when the first one begins."""
        self._log.info("%s", arrow)
        if self._artifact is None:
            artifact = create_progress_artifact(progress=0.0, key="relaxation-progress", description="inputs that have an outcome, %")
            self._artifact = artifact if isinstance(artifact, UUID) else None

    def ingested(self, n_done: int, n_total: int | None) -> None:
        """Ingest is short; its task shows it."""

    def progress(self, progress: Progress) -> None:
        """Update the artifact, at most every few seconds."""
        now = time.monotonic()
        if self._artifact is None or (now < self._next_update and progress.n_left):
            return
        self._next_update = now + UPDATE_INTERVAL_S
        update_progress_artifact(artifact_id=self._artifact, progress=100.0 * progress.n_done / max(progress.n_inputs, 1))

    def consolidated(self, n_done: int, n_total: int) -> None:
        """Consolidation is short; its task shows it."""

    def connected(self, connection: Connection) -> None:
        """Log where the workers of consolidation can be watched."""
        if connection.dashboard is not None:
            self._log.info("dashboard %s", connection.dashboard)

    def finished(self, arrow: str, seconds: float) -> None:
        """Log the time of an arrow."""
        self._log.info("%s took %.1f s", arrow, seconds)


@flow(name="relax-campaign", log_prints=False, persist_result=False)
def relax_campaign(spec: str, executor: Literal["local", "slurm", "debug"] | None = None) -> None:
    """Relax all inputs of a spec, or what is left of them.

    Args:
        spec: path of a campaign.toml, readable where the worker runs.
        executor: replaces `execution.executor` of the spec; each deployment sets its own. A campaign that was begun has its executor.

    Raises:
        SpecError: the campaign was begun with another executor.
        CampaignError: inputs are left without an outcome, or the store does not verify.
    """
    observer = ArtifactObserver()
    parsed = _with_executor(read_spec(spec), executor)
    if parsed.paths.spec.exists():
        if executor is not None:
            _refuse_another_executor(parsed.paths, executor)
        result = resume_campaign(parsed.paths, observer, prefect_step)
    else:
        result = start_campaign(parsed, observer, prefect_step)
    observer.progress(result.progress)
    _publish(result)
    if not result.complete:
        raise CampaignError(
            f"{result.paths.root}: {result.progress.n_left} of {result.progress.n_inputs} inputs have no outcome, "
            "or the store did not verify. See the report; `campaign resume` goes on."
        )


def _refuse_another_executor(paths: CampaignPaths, executor: str) -> None:
    begun_with = read_frozen_spec(paths).execution.executor
    if executor != begun_with:
        raise SpecError(
            f"{paths.root} was begun with executor {begun_with!r}; this run asks for {executor!r}. A campaign keeps its executor: go on "
            f"with the deployment for {begun_with!r}, with no executor, or with `campaign resume`."
        )


def _with_executor(spec: CampaignSpec, executor: Literal["local", "slurm", "debug"] | None) -> CampaignSpec:
    if executor is None:
        return spec
    return spec.model_copy(update={"execution": spec.execution.model_copy(update={"executor": executor})})


def _publish(result: CampaignResult) -> None:
    create_table_artifact(
        key="outcomes",
        table=[{"outcome": name, "structures": count} for name, count in result.progress.outcomes.items()],
        description="what became of the inputs",
    )
    lines = [f"- `{path}`" for path in (result.paths.store, result.report) if path.exists()]
    create_markdown_artifact(key="results", markdown="\n".join(["Results:", *lines]), description="where the results lie")
