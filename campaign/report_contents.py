"""What a report says, as plain values: read from the files of a campaign, with nothing of how it looks.

Any part may be missing (no ranks left a record, nothing converged, everything was refused, no structure is a bulk one); the report then has
a sentence where the figure would be. Nothing here grows with the campaign beyond a few numbers per system: listings are cut, clouds thinned
out, and text is read only of the rows that are shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from campaign.analysis import HULL_WHERE, Hull, StoreView, hull_of
from campaign.analysis.plots import (
    MAX_LINES,
    MAX_POINTS,
    OUTCOME_COLOURS,
    above_hull_figure,
    energy_volume_figure,
    hull_figure,
    parts_figure,
    steps_figure,
    thin_out,
    threshold_figure,
    throughput_figure,
)
from campaign.analysis.ranks import RankRun, RankRuns
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths
from campaign.progress import Progress
from campaign.report_text import count, duration, fixed, percent, significant, size
from campaign.spec import CampaignSpec

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

MAX_ROWS: Final = 200
"""Rows of a listing; the command beside it lists all."""

MAX_RANKS: Final = 32


@dataclass(frozen=True)
class Tile:
    """A headline number: what it is, the number, and what it is made of."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class OutcomeRow:
    """How many inputs have one outcome."""

    label: str
    colour: str
    n_systems: int
    share: str
    percent: float
    sentence: str


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure with its caption, and one sentence for who cannot see it."""

    key: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Listing:
    """The first rows of a table, how many there are, and the command that lists all."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_rows: int
    command: str = ""


def tiles(progress: Progress, runs: RankRuns, timings: Mapping[str, float]) -> list[Tile]:
    """Return the headline numbers."""
    n_converged = progress.outcomes[Outcome.CONVERGED.label]
    n_relaxed = progress.n_done - progress.outcomes[Outcome.INVALID.label]
    found = [
        Tile("Structures", count(progress.n_inputs), f"{count(progress.n_done)} have an outcome"),
        Tile("Converged", percent(n_converged, progress.n_inputs), f"{count(n_converged)} of {count(progress.n_inputs)}"),
    ]
    if progress.structures_per_s > 0:
        found.append(Tile("Structures/s", significant(progress.structures_per_s), f"{count(n_relaxed)} relaxed, start-up included"))
    if timings:
        found.append(Tile("Wall time", duration(sum(timings.values())), "all stages, from reading to report"))
    elif runs.busy_s > 0:
        found.append(Tile("Wall time", duration(runs.busy_s), "while at least one rank worked"))
    if runs.core_s > 0:
        hosts = len({run.host for run in runs.runs if run.host})
        where = f" on {hosts} host{'s' if hosts > 1 else ''}" if hosts else ""
        found.append(Tile("Core time", duration(runs.core_s), f"{count(len(runs.runs))} rank runs{where}"))
    gpu_s = sum(run.wall_s for run in runs.runs if run.device.startswith("cuda"))
    if gpu_s > 0:
        found.append(Tile("GPU time", duration(gpu_s), "a GPU for each rank that had one"))
    atom_steps, rank_s = sum(run.atom_steps for run in runs.runs), sum(run.wall_s for run in runs.runs if run.atom_steps)
    if atom_steps and rank_s > 0:
        found.append(
            Tile("Per atom and step", f"{significant(1e6 * rank_s / atom_steps)} µs", f"of a rank; {significant(atom_steps)} atom steps")
        )
    return found


def outcome_rows(progress: Progress) -> list[OutcomeRow]:
    """Return one row for each outcome, and one for inputs that have none yet where there are some."""
    rows = [
        OutcomeRow(
            outcome.label.replace("_", " "),
            OUTCOME_COLOURS[outcome.label],
            n := progress.outcomes[outcome.label],
            percent(n, progress.n_inputs),
            100 * n / max(progress.n_inputs, 1),
            outcome.sentence,
        )
        for outcome in Outcome
    ]
    if progress.n_left:
        left, share = progress.n_left, percent(progress.n_left, progress.n_inputs)
        rows.append(
            OutcomeRow(
                "no outcome yet", "#c3c8cf", left, share, 100 * left / progress.n_inputs, "Not relaxed yet; `campaign resume` goes on."
            )
        )
    return rows


def energy_contents(view: StoreView) -> tuple[list[Drawing], Listing | None, list[str]]:
    """Return figures, the structures on the hull, and what has to be said about them."""
    hull = hull_of(view)
    notes = list(hull.missing)
    if not len(hull.table):
        return (
            [],
            None,
            ["No structure that is periodic in all three directions has converged, so there are no formation energies to show."],
        )
    if len(hull.elements) == 1:
        return [_energy_volume(view, hull)], None, notes
    usable = hull.table["formation_energy"].notna()
    if not usable.any():
        return [], None, notes
    notes.append(
        "Formation energies are per atom, against the lowest converged bulk structure of each element in this campaign: "
        + ", ".join(f"{element} system {system_id}" for element, system_id in hull.references.items())
        + ". Only converged structures that are periodic in all three directions are shown."
    )
    drawing = _binary_hull(view, hull) if len(hull.elements) == 2 and not hull.missing else _above_hull(hull)
    return [drawing], _members(view, hull), notes


def _binary_hull(view: StoreView, hull: Hull) -> Drawing:
    first, second = hull.elements
    table = hull.table
    chosen = thin_out(hull.fraction_of(second), table["formation_energy"].to_numpy(), table["on_hull"].to_numpy())
    figure = hull_figure(hull, _labels(view, table.index[chosen]))
    caption = f"Each point is a relaxed bulk structure; the line is the lower convex hull. {_thinned(len(chosen), len(table))}"
    lowest = table.loc[table["formation_energy"].idxmin()]
    alt = (
        f"{len(table)} structures of {first} and {second}; {int(table['on_hull'].sum())} on the hull, the lowest is {lowest['formula']} at "
        f"{fixed(lowest['formation_energy'], 4)} eV per atom."
    )
    return Drawing("hull", f"Convex hull of {first}–{second}", caption, alt, figure)


def _above_hull(hull: Hull) -> Drawing:
    n_systems = hull.table["elements"].nunique()
    seen = f"{count(n_systems)} chemical systems of {len(hull.elements)} elements"
    caption = f"Energy above the hull of each structure's own chemical system; {seen}."
    alt = f"Distribution of the energy above the hull of {len(hull.table)} structures."
    return Drawing("above-hull", "Distance to the hull", caption, alt, above_hull_figure(hull))


def _energy_volume(view: StoreView, hull: Hull) -> Drawing:
    bulk = view.select(HULL_WHERE).frame(["volume_per_atom", "energy_per_atom"]).dropna()
    chosen = thin_out(bulk["volume_per_atom"].to_numpy(), bulk["energy_per_atom"].to_numpy(), np.zeros(len(bulk), bool))
    table = bulk.iloc[chosen].join(_labels(view, bulk.index[chosen])).join(hull.table["formula"])
    alt = f"{len(bulk)} bulk structures of {hull.elements[0]}, energy per atom against volume per atom."
    caption = f"Each point is a relaxed bulk structure. {_thinned(len(chosen), len(bulk))}"
    return Drawing("energy-volume", f"Energy against volume of {hull.elements[0]}", caption, alt, energy_volume_figure(table))


def _members(view: StoreView, hull: Hull) -> Listing:
    members = hull.members
    shown = members.iloc[:MAX_ROWS]
    shown = shown.join(_labels(view, shown.index))
    rows = tuple(
        (
            str(row.formula),
            fixed(row.formation_energy, 4),
            fixed(row.energy_per_atom, 4),
            str(row.n_atoms),
            str(row.Index),
            str(row.source),
            str(row.frame),
        )
        for row in shown.itertuples()
    )
    names = ("Formula", "Formation energy (eV/atom)", "Energy (eV/atom)", "Atoms", "System", "Source", "Frame")
    return Listing(names, rows, len(members))


def relaxation_drawings(frame: pd.DataFrame, spec: CampaignSpec) -> list[Drawing]:
    """Return distributions of steps, and of what is left of forces and stress where structures converged."""
    found = []
    ran = frame[~frame["outcome"].isin([Outcome.INVALID.label, "running"])]
    if len(ran):
        median = int(ran["n_steps"].median())
        caption = f"Half of the structures took {median} steps or fewer; the limit is {spec.relax.max_steps}."
        figure = steps_figure(ran["n_steps"].to_numpy(np.float64), ran["outcome"].tolist())
        found.append(Drawing("steps", "Optimizer steps", caption, f"Distribution of optimizer steps. {caption}", figure))
    converged = frame[frame["outcome"] == Outcome.CONVERGED.label]
    thresholds = [("fmax", "Largest force when converged", spec.relax.fmax_ev_per_ang, "eV/Å")]
    if spec.relax.cell != "fixed":
        thresholds.append(("smax", "Largest stress when converged", spec.relax.smax_ev_per_ang3, "eV/Å³"))
    for name, title, threshold, unit in thresholds:
        values = converged[name].to_numpy(np.float64)
        if not (values > 0).any():
            continue
        n_zero = int((values == 0).sum())
        caption = (
            f"Converged means at most {threshold:g} {unit}; the largest is at {_share_of(float(np.nanmax(values)), threshold)} of that."
        )
        caption += f" {count(n_zero)} with exactly zero are not drawn." if n_zero else ""
        found.append(Drawing(name, title, caption, f"{title}. {caption}", threshold_figure(values, threshold, f"{name} ({unit})")))
    return found


def performance_contents(runs: RankRuns) -> tuple[list[Drawing], Listing | None, list[str]]:
    """Return throughput and times of ranks, the table of ranks, and what has to be said about them."""
    notes = [f"{count(runs.n_unreadable)} rank records cannot be read and are left out."] if runs.n_unreadable else []
    unfinished = sum(run.ended_at is None for run in runs.runs)
    if unfinished:
        notes.append(f"{count(unfinished)} rank runs have no end: they are at work, or were killed. They are in no figure.")
    if not runs.runs:
        return [], None, [*notes, "No rank has left a record of its run, so times by rank are not known."]
    drawings = []
    if runs.timed:
        summed = "" if len(runs.timed) <= MAX_LINES else " Ranks are added up."
        caption = f"Each rank's mean rate while it worked, one upon the other.{summed} Ranks that end early leave the last ones alone."
        drawings.append(
            Drawing(
                "throughput",
                "Throughput",
                caption,
                f"Structures per second of {len(runs.timed)} ranks over time.",
                throughput_figure(runs.timed),
            )
        )
    with_parts = [run for run in runs.runs if run.seconds]
    if with_parts:
        many = len(with_parts) > MAX_RANKS
        rows = {"all ranks": runs.seconds_by_part()} if many else {run.label: dict(run.seconds) for run in with_parts}
        parts = runs.seconds_by_part()
        largest = max(parts, key=lambda name: parts[name])
        share = percent(round(parts[largest] * 1000), round(sum(parts.values()) * 1000))
        caption = f"The largest part is “{largest}” with {share} of the ranks' time."
        caption += "" if many else " Ranks are named round/array task/rank."
        drawings.append(Drawing("parts", "Where the ranks' time went", caption, f"Time of ranks by part. {caption}", parts_figure(rows)))
    return drawings, _ranks(runs.runs), notes


def _ranks(runs: Sequence[RankRun]) -> Listing:
    rows = tuple(
        (
            run.label,
            run.host or "–",
            run.device or "–",
            run.state or "–",
            count(run.n_finished),
            count(run.n_steps),
            duration(run.wall_s) if run.wall_s else "–",
            significant(run.structures_per_s) if run.structures_per_s else "–",
            size(run.peak_memory_bytes) if run.peak_memory_bytes else "–",
        )
        for run in runs[:MAX_ROWS]
    )
    return Listing(
        ("Round/array task/rank", "Host", "Device", "State", "Structures", "Steps", "Time", "Structures/s", "Peak memory"), rows, len(runs)
    )


def rejected(view: StoreView, frame: pd.DataFrame, paths: CampaignPaths) -> Listing:
    """Return the inputs that ingest refused: file, frame, reason."""
    condition = f"outcome == '{Outcome.INVALID.label}'"
    ids = frame.index[frame["outcome"] == Outcome.INVALID.label]
    table = rows_of_systems(view, ids[:MAX_ROWS], ["source", "frame", "error"])
    rows = tuple((str(row.source), str(row.frame), str(row.error), str(row.Index)) for row in table.itertuples())
    return Listing(("File", "Frame", "Reason", "System"), rows, len(ids), export_command(paths, condition))


def unconverged(view: StoreView, frame: pd.DataFrame, paths: CampaignPaths) -> Listing:
    """Return what was relaxed and did not converge, with the reason in words."""
    labels = [Outcome.MAX_STEPS.label, Outcome.DIVERGED.label, Outcome.FAILED.label]
    ids = frame.index[frame["outcome"].isin(labels)]
    columns = ["outcome", "formula", "source", "frame", "n_steps", "fmax", "error"]
    rows = tuple(
        (
            str(row.Index),
            str(row.formula),
            str(row.outcome).replace("_", " "),
            count(int(row.n_steps)),
            significant(float(row.fmax)),
            str(row.error),
            str(row.source),
            str(row.frame),
        )
        for row in rows_of_systems(view, ids[:MAX_ROWS], columns).itertuples()
    )
    names = ("System", "Formula", "Outcome", "Steps", "fmax (eV/Å)", "Reason", "File", "Frame")
    return Listing(names, rows, len(ids), export_command(paths, f"outcome in ({', '.join(repr(label) for label in labels)})"))


def export_command(paths: CampaignPaths, condition: str) -> str:
    """Return the command that exports the systems of a condition."""
    return f"campaign export {shlex.quote(str(paths.root))} --format parquet --where {shlex.quote(condition)} -o rows.parquet"


def _labels(view: StoreView, ids: pd.Index) -> pd.DataFrame:
    return rows_of_systems(view, ids, ["source", "frame"])


def rows_of_systems(view: StoreView, ids: pd.Index, columns: Sequence[str]) -> pd.DataFrame:
    """Return some columns of some systems; those that the store does not have are empty."""
    known = [name for name in columns if name in view.columns]
    table = view.select_ids(ids.to_numpy(np.int64)).frame(known)
    return table.assign(**{name: "" for name in columns if name not in known})[list(columns)]


def _share_of(value: float, whole: float) -> str:
    return f"{100 * value / whole:.1f} %" if value > whole else percent(min(round(1e6 * value / whole), 999_999), 1_000_000)


def _thinned(n_shown: int, n_all: int) -> str:
    if n_shown == n_all:
        return ""
    return f"{count(n_shown)} of {count(n_all)} are drawn, evenly chosen, all of the hull among them (at most {count(MAX_POINTS)})."


def provenance(attributes: Mapping[str, Any], reserved: frozenset[str]) -> list[tuple[str, str]]:
    """Return what the store says about where it comes from, keys with dots; what differs between shards as the list of its values."""
    own = {key: value for key, value in attributes.items() if key not in reserved and key != "provenance"}
    combined = attributes.get("provenance")
    shared, shards = (combined.get("shared"), combined.get("shards")) if isinstance(combined, dict) else (None, None)
    found = dict(_flat({**own, **(shared if isinstance(shared, dict) else {})}))
    if isinstance(shards, dict):
        differing: dict[str, dict[str, None]] = {}
        for shard in shards.values():
            # Numbers that differ (seconds, bytes, counts) stand in the table of ranks; texts tell hosts and versions apart.
            for key, value in _flat(shard if isinstance(shard, dict) else {}, texts_only=True):
                differing.setdefault(key, {})[value] = None
        for key, values in differing.items():
            shown = list(values)[:5]
            found[key] = ", ".join(shown) + (f" and {len(values) - len(shown)} more" if len(values) > len(shown) else "")
        found["shards"] = count(len(shards))
    return list(found.items())


def threads_of(attributes: Mapping[str, Any]) -> int:
    """Return how many threads a rank had, as its shard says; that of the first shard where they differ, 1 where none says it.

    >>> threads_of({"provenance": {"shared": {"hardware": {"threads": 4}}}})
    4
    """
    combined = attributes.get("provenance")
    places: list[Any] = [attributes]
    if isinstance(combined, dict):
        shards = combined.get("shards")
        places += [combined.get("shared"), *(shards.values() if isinstance(shards, dict) else ())]
    for place in places:
        hardware = place.get("hardware") if isinstance(place, dict) else None
        threads = hardware.get("threads") if isinstance(hardware, dict) else None
        if isinstance(threads, int) and threads > 0:
            return threads
    return 1


def _flat(value: Mapping[str, Any], prefix: str = "", texts_only: bool = False) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += _flat(item, f"{prefix}{key}.", texts_only)
        elif isinstance(item, str) or not texts_only:
            rows.append((f"{prefix}{key}", ", ".join(str(part) for part in item) if isinstance(item, (list, tuple)) else str(item)))
    return rows
