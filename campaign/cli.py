"""The `campaign` command. A command parses, calls one library function, prints its result; it has no logic of its own.

This is the one composition root: it alone may import upward (`slurm`), and it does so inside the command that needs it, because
`campaign --help` must answer at once and torch, zarr, dask and submitit take seconds to import.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from campaign.errors import CampaignError

if TYPE_CHECKING:
    from slurm.run import CampaignResult

app = typer.Typer(
    name="campaign",
    help="Relax a million atomic structures, on a laptop or a SLURM cluster, and end with one table of what became of each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The campaign directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class ExportFormat(StrEnum):
    """What `campaign export` can write."""

    extxyz = "extxyz"
    ase_db = "ase-db"
    aselmdb = "aselmdb"
    parquet = "parquet"


@app.command()
def init(path: Annotated[Path, typer.Argument(help="File to write.")] = Path("campaign.toml")) -> None:
    """Write a commented campaign.toml to start from."""
    from campaign.spec_template import create_template

    create_template(path)
    typer.echo(f"wrote {path}; edit it, then: campaign run {path}")


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A campaign.toml.")],
    ingest_only: Annotated[bool, typer.Option("--ingest-only", help="Stop after ingest, for who submits by hand.")] = False,
) -> None:
    """Run a campaign: ingest, relax, consolidate, verify, report."""
    from campaign.spec import read_spec

    if ingest_only:
        from campaign.ingest import run_ingest

        done = run_ingest(read_spec(spec))
        typer.echo(f"{done}\nSubmit by hand: campaign script {read_spec(spec).paths.root} > job.sbatch; sbatch job.sbatch")
        return
    from campaign.terminal import TerminalObserver
    from slurm.run import start_campaign

    with TerminalObserver() as observer:
        result = start_campaign(read_spec(spec), observer)
    _finish(result)


@app.command()
def resume(directory: Directory) -> None:
    """Do what is left of a campaign, however it was stopped."""
    from campaign.paths import CampaignPaths
    from campaign.terminal import TerminalObserver
    from slurm.run import resume_campaign

    with TerminalObserver() as observer:
        result = resume_campaign(CampaignPaths.open(directory), observer)
    _finish(result)


@app.command()
def status(
    directory: Directory,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Update until the campaign ends.")] = False,
) -> None:
    """Say how far a campaign is, from its files alone."""
    from campaign.paths import CampaignPaths
    from campaign.progress import read_progress

    paths = CampaignPaths.open(directory)
    if watch:
        from campaign.terminal import watch_progress

        watch_progress(paths)
    progress = read_progress(paths)
    if as_json:
        typer.echo(json.dumps(progress.to_json()))
    else:
        from campaign.terminal import print_progress

        print_progress(paths, progress)


@app.command()
def cancel(directory: Directory) -> None:
    """Stop a campaign's jobs; what is finished is kept."""
    from campaign.paths import CampaignPaths
    from slurm.cancel import cancel_campaign

    n_jobs = cancel_campaign(CampaignPaths.open(directory))
    typer.echo(f"asked {n_jobs} job(s) to stop; finished structures are kept. Go on with: campaign resume {directory}")


@app.command()
def consolidate(
    directory: Directory,
    allow_mixed: Annotated[bool, typer.Option("--allow-mixed", help="Mix shards of different models.")] = False,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Leave inputs without an outcome out; verify will name them.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Let the workers of a running Dask scheduler do it, such as tcp://10.0.0.1:8786.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Publish at an s3:// or gs:// URL, where no store is yet.")] = None,
) -> None:
    """Consolidate the per-rank shards into store.zarr."""
    from campaign.paths import CampaignPaths
    from campaign.spec import read_frozen_spec
    from campaign.terminal import TerminalObserver
    from slurm.run import consolidate as consolidate_as_asked

    paths = CampaignPaths.open(directory)
    with TerminalObserver() as observer:
        observer.started("consolidate")
        report = consolidate_as_asked(
            paths, read_frozen_spec(paths), observer, scheduler, allow_mixed=allow_mixed, allow_incomplete=allow_incomplete, target=to
        )
    missing = f", {report.n_missing} inputs without an outcome" if report.n_missing else ""
    typer.echo(f"{report.store}: {report.n_systems} structures, {report.n_duplicates} duplicate rows left out{missing}")


@app.command()
def verify(
    directory: Directory,
    as_json: AsJson = False,
    recompute: Annotated[int, typer.Option(min=0, metavar="N", help="Evaluate N random structures again with ASE.")] = 0,
) -> None:
    """Prove that each input is there exactly once."""
    from campaign.paths import CampaignPaths
    from campaign.terminal import looking, print_verification
    from campaign.verify import run_verify

    with looking(not as_json) as on_look:
        report = run_verify(CampaignPaths.open(directory), recompute=recompute, on_look=on_look)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        print_verification(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def repair(
    directory: Directory,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep what is good of a damaged campaign."""
    from campaign.paths import CampaignPaths
    from campaign.repair import run_repair
    from campaign.terminal import looking, print_repair
    from slurm.idle import require_idle

    paths = CampaignPaths.open(directory)
    require_idle(paths)
    with looking(not as_json) as on_look:
        report = run_repair(paths, dry_run=dry_run, on_look=on_look)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        print_repair(paths, report)
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def script(directory: Directory) -> None:
    """Print a complete sbatch script for who submits by hand."""
    from campaign.paths import CampaignPaths
    from slurm.script import write_script

    typer.echo(write_script(CampaignPaths.open(directory)), nl=False)


@app.command()
def report(directory: Directory) -> None:
    """Write report.html: one file, no network needed."""
    from campaign.paths import CampaignPaths
    from campaign.report import run_report

    typer.echo(run_report(CampaignPaths.open(directory)))


@app.command()
def export(
    directory: Directory,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    format: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.extxyz,
    where: Annotated[
        str | None, typer.Option(metavar="EXPR", help="Rows to take, such as 'outcome == \"converged\" and n_atoms < 50'.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write the store's structures to a file that other programs read."""
    from campaign.export import run_export
    from campaign.paths import CampaignPaths

    done = run_export(CampaignPaths.open(directory), format=format.value, output=output, where=where, force=force)
    typer.echo(f"wrote {done.n_systems} structures to {output}")


@app.command()
def show(directory: Directory, system_id: Annotated[int, typer.Argument(metavar="ID", min=0, help="The structure's system_id.")]) -> None:
    """Show everything about one structure."""
    from campaign.paths import CampaignPaths
    from campaign.show import show_system

    typer.echo(str(show_system(CampaignPaths.open(directory), system_id)))


@app.command()
def doctor() -> None:
    """Check this machine, and say what to mend."""
    from campaign.terminal import print_checks
    from slurm.doctor import run_checks

    checks = run_checks()
    print_checks(checks)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def _finish(result: CampaignResult) -> None:
    from campaign.terminal import print_result

    print_result(result)
    raise typer.Exit(0 if result.complete else 1)


def main() -> None:
    """Entry point: an error raised on purpose is one clear text on stderr and its exit code, never a traceback."""
    try:
        app()
    except CampaignError as error:
        typer.echo(f"campaign: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # What no arrow foresaw: still one line with the path, since a full disk or a missing right is the user's to mend, not ours.
        where = f" {error.filename}" if error.filename else ""
        typer.echo(
            f"campaign: the file system refused{where}: {error.strerror or error}. Mend that, then run the same command again.", err=True
        )
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("campaign: interrupted; what was finished is kept, `campaign resume` goes on", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
