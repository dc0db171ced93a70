"""The arrow from a campaign directory to `report.html`: one file that opens without network, for mailing and for keeping.

The page holds plotly.js, its style, and the data of its figures. A content security policy in it forbids the browser every request, and
every script but plotly.js and our own by their hashes; so the file stays alone even if a text in it were not escaped. `report_contents`
says what is shown, `analysis/markup` escapes, the template only arranges.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from campaign import __version__, report_text
from campaign.analysis import StoreView
from campaign.analysis.markup import content_hash, environment, printable, script_json
from campaign.analysis.ranks import read_rank_runs
from campaign.errors import StoreNotFoundError
from campaign.files import write_whole
from campaign.paths import CampaignPaths
from campaign.progress import CampaignState, read_progress
from campaign.report_contents import (
    energy_contents,
    outcome_rows,
    performance_contents,
    provenance,
    rejected,
    relaxation_drawings,
    threads_of,
    tiles,
    unconverged,
)
from campaign.report_quality import quality_contents
from campaign.spec import read_frozen_spec
from campaign.store.layout import RESERVED_ATTRIBUTES
from campaign.timings import read_timings


def run_report(paths: CampaignPaths) -> Path:
    """Write `report.html` of a campaign and return its path; an earlier one is replaced.

    It may be called at any time: without a published store it shows what is committed so far, and says so.

    Raises:
        SpecError: the campaign's own spec cannot be read.
        StoreNotFoundError: nothing has been read in yet.
        StoreDamagedError: a store does not add up.
        FileWriteError: the file cannot be written.

    >>> run_report(CampaignPaths.open("runs/cu-au"))            # doctest: +SKIP
    """
    if not paths.inputs.is_dir():
        raise StoreNotFoundError(f"{paths.root} has no {paths.inputs.name}, so there is nothing to report. Run `campaign resume` first.")
    page = environment().get_template("report.html.jinja").render(_context(paths))
    write_whole(paths.report, page.encode())
    return paths.report


def _context(paths: CampaignPaths) -> dict[str, Any]:
    spec = read_frozen_spec(paths)
    view = StoreView.open(paths)
    progress = read_progress(paths)
    runs = read_rank_runs(paths, threads_of(view.attributes))
    timings = read_timings(paths)
    frame = view.frame(["outcome", "n_steps", "fmax", "smax"])
    energies, hull_members, energy_notes = energy_contents(view)
    relaxation = relaxation_drawings(frame, spec)
    performance, ranks, performance_notes = performance_contents(runs)
    quality = quality_contents(view, paths)
    script, plotly = _resource("report.js"), _plotly()
    return {
        "spec": spec,
        "spec_text": paths.spec.read_text(encoding="utf-8", errors="replace"),
        "directory": paths.root,
        "written": datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        "version": __version__,
        "complete": progress.state is CampaignState.COMPLETE,
        "state": str(progress.state),
        "preliminary": _preliminary(paths, progress.n_left),
        "tiles": tiles(progress, runs, timings),
        "outcomes": outcome_rows(progress),
        "n_inputs": progress.n_inputs,
        "energies": energies,
        "hull_members": hull_members,
        "energy_notes": energy_notes,
        "relaxation": relaxation,
        "quality": quality,
        "performance": performance,
        "performance_notes": performance_notes,
        "ranks": ranks,
        "timings": timings,
        "rejected": rejected(view, frame, paths),
        "unconverged": unconverged(view, frame, paths),
        "provenance": _provenance(view),
        "drawings": {
            drawing.key: script_json(drawing.figure.to_json()) for drawing in (*energies, *relaxation, *quality.drawings, *performance)
        },
        "style": Markup(_resource("report.css")),
        "script": Markup(script),
        "plotly": Markup(plotly),
        "allowed_scripts": Markup(f"{content_hash(plotly)} {content_hash(script)}"),
        **{name: getattr(report_text, name) for name in ("count", "duration", "percent")},
        "printable": printable,
    }


def _preliminary(paths: CampaignPaths, n_left: int) -> str:
    """Why the report is not the last word, or nothing."""
    if not paths.store.is_dir():
        return "The results are not consolidated yet. This report shows what the ranks have committed so far."
    return f"{n_left:,} inputs have no outcome yet." if n_left else ""


def _provenance(view: StoreView) -> list[tuple[str, str]]:
    return provenance(view.attributes, RESERVED_ATTRIBUTES)


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # Browsers hash a script as they have parsed it: with line feeds only.
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


def _resource(name: str) -> str:
    return (files("campaign") / "report_template" / name).read_text(encoding="utf-8")
