"""What the command line shows: progress bars, tables, and the end of a run. Text goes through rich, which escapes what users wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths
from campaign.progress import Progress as CampaignProgress
from campaign.progress import read_progress
from campaign.timings import read_timings

if TYPE_CHECKING:
    from campaign.dask_client import Connection
    from campaign.repair import RepairReport
    from campaign.verify import VerifyReport
    from slurm.run import CampaignResult

POLL_S = 1.0
"""How often `status --watch` reads the campaign's files."""

FEW = 20
"""Ids that are printed; `--json` has all."""

_STYLES = {"converged": "green", "max_steps": "yellow", "diverged": "red", "invalid": "magenta", "failed": "red"}


class Check(Protocol):
    """One line of `campaign doctor`."""

    @property
    def name(self) -> str:
        """What was looked at."""

    @property
    def ok(self) -> bool:
        """Whether it is usable."""

    @property
    def text(self) -> str:
        """What was seen, and what to do if it is not."""


def _console() -> Console:
    # Made when needed: tests and pipes replace stdout.
    return Console(highlight=False, soft_wrap=True)


class TerminalObserver:
    """Shows a running campaign as one line per arrow, the relaxation with structures/s and an estimate of its end."""

    def __init__(self) -> None:
        self._console = _console()
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> TerminalObserver:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def started(self, arrow: str) -> None:
        """Show a bar of unknown length."""
        self._remove_bar()
        self._bar = self._bars.add_task(arrow, total=None, rate="")

    def ingested(self, n_done: int, n_total: int | None) -> None:
        """Show how many structures were read."""
        if self._bar is not None:
            self._bars.update(self._bar, completed=n_done, total=n_total, rate="structures read")

    def connected(self, connection: Connection) -> None:
        """Say where the workers can be watched."""
        if connection.dashboard is not None:
            self._console.print(f"dashboard    {escape(connection.dashboard)}")

    def consolidated(self, n_done: int, n_total: int) -> None:
        """Show how many MB of the store are written."""
        if self._bar is not None:
            self._bars.update(self._bar, completed=n_done // 10**6, total=max(n_total // 10**6, 1), rate="MB written")

    def progress(self, progress: CampaignProgress) -> None:
        """Show how many inputs have an outcome, the rate, and when it will end."""
        if self._bar is None:
            self._bar = self._bars.add_task("relax", total=None, rate="")
        rate = f"{progress.structures_per_s:.1f} structures/s" if progress.structures_per_s else "starting"
        if progress.eta_s is not None:
            rate += f", about {duration(progress.eta_s)} left"
        self._bars.update(self._bar, completed=progress.n_done, total=progress.n_inputs, rate=rate)

    def finished(self, arrow: str, seconds: float) -> None:
        """Leave a line with the time it took."""
        self._remove_bar()
        self._console.print(f"{arrow:<12} {duration(seconds)}")

    def _remove_bar(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    >>> duration(75), duration(3.21), duration(7330)
    ('1 min 15 s', '3.2 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def outcome_table(progress: CampaignProgress) -> Table:
    """Return the table of outcomes, one row each with its sentence."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("outcome")
    table.add_column("structures", justify="right")
    table.add_column("meaning", style="dim")
    for outcome in Outcome:
        count = progress.outcomes.get(outcome.label, 0)
        table.add_row(f"[{_STYLES[outcome.label]}]{outcome.label}[/]", str(count), outcome.sentence)
    if progress.n_left:
        table.add_row("none yet", str(progress.n_left), "No rank has finished it.")
    table.add_section()
    table.add_row("all inputs", str(progress.n_inputs), "")
    return table


def print_progress(paths: CampaignPaths, progress: CampaignProgress) -> None:
    """Print what `campaign status` shows."""
    console = _console()
    console.print(f"{escape(str(paths.root))}: {progress.state}")
    console.print(outcome_table(progress))
    if progress.structures_per_s:
        console.print(f"{progress.structures_per_s:.1f} structures/s")


def watch_progress(paths: CampaignPaths) -> None:
    """Show the progress bar until no input is left or nothing runs."""
    with TerminalObserver() as observer:
        while True:
            progress = read_progress(paths)
            observer.progress(progress)
            if progress.state not in ("waiting", "running"):
                return
            time.sleep(POLL_S)


def print_verification(report: VerifyReport) -> None:
    """Print what `campaign verify` found."""
    console = _console()
    for finding in report.findings:
        console.print(f"[red]✗[/] {escape(str(finding))}")
    console.print(f"[green]✓[/] {escape(report.summary)}" if report.ok else f"[red]{len(report.findings)} finding(s)[/]")


@contextmanager
def looking(shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yield who is told what is looked at, how much of it is done and how much there is; a bar on stderr if `shown`."""
    bars = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not shown,
    )
    tasks: dict[str, TaskID] = {}

    def told(what: str, n_done: int, n_total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=n_total)
        bars.update(tasks[what], completed=n_done, total=n_total)

    with bars:
        yield told


def print_repair(paths: CampaignPaths, report: RepairReport) -> None:
    """Print what `campaign repair` found and did."""
    console = _console()
    for step in report.steps:
        console.print(f"[yellow]✗[/] {escape(str(step))}")
        if step.lost_ids:
            console.print(f"  lost: {_few(step.lost_ids)}")
    for text in report.unsolved:
        console.print(f"[red]✗[/] {escape(text)}")
    if not report.steps and not report.unsolved:
        console.print(f"[green]✓[/] nothing is damaged in {escape(str(paths.root))}")
    if report.steps and not report.dry_run:
        console.print(f"Originals are in {escape(str(paths.damaged))}.")
    if report.unsolved:
        return
    if report.to_compute:
        console.print(
            f"{len(report.to_compute)} of {report.n_inputs} inputs have no outcome: {_few(report.to_compute)}. "
            f"{'Without --dry-run: then' if report.dry_run else 'Go on with'} campaign resume {escape(str(paths.root))}"
        )
    elif report.consolidated:
        console.print(f"Every input has an outcome; {escape(str(paths.store))} {'would be' if report.dry_run else 'was'} made anew.")


def _few(system_ids: Sequence[int]) -> str:
    shown = ", ".join(str(system_id) for system_id in system_ids[:FEW])
    return f"{shown}, …" if len(system_ids) > FEW else shown


def print_checks(checks: Sequence[Check]) -> None:
    """Print what `campaign doctor` found."""
    console = _console()
    for check in checks:
        console.print(f"{'[green]✓[/]' if check.ok else '[red]✗[/]'} {check.name:<12} {escape(check.text)}")


def print_result(result: CampaignResult) -> None:
    """Print the end of a run: outcomes, where the results lie, the rate, where the time went."""
    console = _console()
    paths = result.paths
    console.print()
    console.print(outcome_table(result.progress))
    console.print()
    if result.verified is not None:
        if result.verified.ok:
            console.print(f"store   {escape(str(paths.store))}  (verified: {escape(result.verified.summary)})")
        else:
            console.print(f"store   {escape(str(paths.store))}  [red]did not verify[/]")
            print_verification(result.verified)
    else:
        console.print(
            f"[yellow]{result.progress.n_left} inputs have no outcome yet.[/] Go on with: campaign resume {escape(str(paths.root))}"
        )
    console.print(f"report  {escape(str(result.report))}")
    if result.progress.structures_per_s:
        console.print(f"rate    {result.progress.structures_per_s:.1f} structures/s while relaxing")
    spent = read_timings(paths)
    if spent:
        console.print("time    " + ", ".join(f"{arrow} {duration(seconds)}" for arrow, seconds in spent.items()))
