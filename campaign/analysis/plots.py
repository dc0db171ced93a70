"""Figures. Each function takes tables and returns a Plotly figure; colours and fonts of the page come from where it is shown.

Figures stay small whatever the campaign's size: distributions are counted here and drawn as bars, and of a cloud of points at most
`MAX_POINTS` are drawn (`thin_out`), the structures on the hull always among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from campaign.analysis.hull import Hull
from campaign.analysis.markup import formula_markup, plotly_text
from campaign.analysis.ranks import RankRun, throughput
from campaign.outcomes import Outcome

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

MAX_POINTS: Final = 4000
"""Points of a cloud; more would hide each other, and slow a browser that draws them as vectors."""

MAX_LINES: Final = 12
"""Ranks drawn each by itself; more are added up."""

OUTCOME_COLOURS: Final = {
    Outcome.CONVERGED.label: "#1f9e89",
    Outcome.MAX_STEPS.label: "#e6a01f",
    Outcome.DIVERGED.label: "#d6455d",
    Outcome.INVALID.label: "#8b929c",
    Outcome.FAILED.label: "#8662b8",
}
"""Told apart also by people who see red and green alike, on light and on dark."""

_POINT, _ACCENT = "#3f7fd1", "#d6455d"
_SERIES: Final = (
    *("#3f7fd1", "#1f9e89", "#e6a01f", "#8662b8", "#d6455d", "#5fb3d9"),
    *("#7a9a3a", "#c77ba7", "#a0724c", "#5a6acf", "#4cb5ae", "#8b929c"),
)


def thin_out(
    x: Float[ndarray, " N"], y: Float[ndarray, " N"], keep: Bool[ndarray, " N"], max_points: int = MAX_POINTS
) -> Int64[ndarray, " M"]:
    """Return positions of at most `max_points` points that show the same cloud, in rising order; all of `keep` are among them.

    The others are sorted by x, then y, and taken at equal distances, so that dense regions stay denser than others and each value of x
    keeps its spread. It is the same choice every time.

    >>> thin_out(np.arange(10.0), np.zeros(10), np.arange(10) == 3, 4).tolist()
    [0, 3, 5, 9]
    """
    if len(x) <= max_points:
        return np.arange(len(x))
    others = np.flatnonzero(~keep)
    others = others[np.lexsort((y[others], x[others]))]
    n_others = min(max(max_points - int(keep.sum()), 0), len(others))
    chosen = others[np.linspace(0, len(others) - 1, n_others).round().astype(np.int64)]
    return np.sort(np.concatenate([np.flatnonzero(keep), chosen]))


def hull_figure(hull: Hull, labels: pd.DataFrame) -> Figure:
    """Return formation energy against composition with the lower hull, for a hull of two elements.

    `labels` has the index system_id and the columns source and frame; the systems in it are the points that are drawn.
    """
    first, second = hull.elements
    x = hull.fraction_of(second)
    table = hull.table.assign(x=x)
    shown = table.loc[table.index.isin(labels.index)].join(labels)
    corners = table[table["on_hull"]].sort_values("x")
    details = np.column_stack([_names(shown), shown["energy_per_atom"], shown["energy_above_hull"] * 1000])
    hover = (
        "<b>%{customdata[0]}</b>  system %{customdata[1]}<br>%{customdata[2]}<br>formation energy %{y:.4f} eV/atom<br>"
        "above hull %{customdata[4]:.1f} meV/atom<br>energy %{customdata[3]:.4f} eV/atom<extra></extra>"
    )
    below = {"x": corners["x"], "y": corners["formation_energy"]}
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "structures",
            "x": shown["x"],
            "y": shown["formation_energy"],
            "customdata": details,
            "hovertemplate": hover,
            "marker": {"size": 6, "color": _POINT, "opacity": 0.5},
        },
        {
            "type": "scatter",
            "mode": "lines+markers+text",
            "name": "convex hull",
            **below,
            "text": [formula_markup(formula) for formula in corners["formula"]],
            "textposition": "bottom center",
            "hoverinfo": "skip",
            "cliponaxis": False,
            "line": {"color": _ACCENT, "width": 2},
            "marker": {"size": 9, "color": _ACCENT, "symbol": "diamond"},
        },
    ]
    figure = _figure(data, f"fraction of {second} (from {first} to {second})", "formation energy (eV/atom)", height=480)
    figure.update_xaxes(range=[-0.03, 1.03])
    figure.update_yaxes(range=_window(shown["formation_energy"].to_numpy()))
    return figure


def above_hull_figure(hull: Hull) -> Figure:
    """Return the distribution of energies above the hull, in meV/atom."""
    values = hull.table["energy_above_hull"].dropna().to_numpy() * 1000
    return _histogram({"structures": values}, {"structures": _POINT}, "energy above the hull (meV/atom)")


def energy_volume_figure(table: pd.DataFrame) -> Figure:
    """Return energy against volume per atom of one element's structures.

    `table` has the index system_id and the columns formula, energy_per_atom, volume_per_atom, source and frame.
    """
    hover = "<b>%{customdata[0]}</b>  system %{customdata[1]}<br>%{customdata[2]}<br>%{y:.4f} eV/atom at %{x:.3f} Å³/atom<extra></extra>"
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": table["volume_per_atom"],
            "y": table["energy_per_atom"],
            "customdata": _names(table),
            "hovertemplate": hover,
            "marker": {"size": 7, "color": _POINT, "opacity": 0.6},
        }
    ]
    return _figure(data, "volume (Å³/atom)", "energy (eV/atom)", height=440)


def steps_figure(n_steps: Float[ndarray, " N"], outcomes: Sequence[str]) -> Figure:
    """Return the distribution of optimizer steps, by outcome."""
    labels = np.asarray(outcomes, object)
    values = {name: n_steps[labels == name] for name in OUTCOME_COLOURS if name != Outcome.INVALID.label}
    return _histogram({name: part for name, part in values.items() if len(part)}, OUTCOME_COLOURS, "optimizer steps", whole=True)


def threshold_figure(values: Float[ndarray, " N"], threshold: float, axis: str) -> Figure:
    """Return the distribution of a quantity on a logarithmic axis, with the threshold that converged structures are below."""
    positive = values[np.isfinite(values) & (values > 0)]
    low = max(float(np.quantile(positive, 0.005)), threshold * 1e-6) if len(positive) else threshold / 10
    # The threshold is an edge, so that no bar reaches across it; beyond it bins go on with the same ratio as far as there are values.
    below = np.geomspace(min(low, threshold / 2), threshold, 41)
    n_beyond = int(np.ceil(max(np.log(float(positive.max(initial=threshold)) / threshold), 0.0) / np.log(below[1] / below[0])))
    edges = np.concatenate([below[:-1], threshold * (below[1] / below[0]) ** np.arange(n_beyond + 2)])
    counts, _ = np.histogram(np.clip(positive, edges[0], None), edges)
    ticks = [m * 10.0**e for e in range(-20, 21) for m in (1, 2, 5) if edges[0] <= m * 10.0**e <= edges[-1]]
    if len(ticks) > 9:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    bars = {
        "type": "bar",
        "x": np.sqrt(edges[:-1] * edges[1:]),
        "y": counts,
        "width": np.diff(edges),
        "marker": {"color": OUTCOME_COLOURS[Outcome.CONVERGED.label]},
        "hovertemplate": "%{y} structures near %{x:.3g}<extra></extra>",
    }
    figure = _figure([bars], axis, "structures", height=320)
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.add_vline(x=threshold, line={"color": _ACCENT, "width": 2, "dash": "dash"})
    # Annotations of a logarithmic axis are placed by the exponent.
    place = {"x": np.log10(threshold), "xanchor": "right", "y": 1.0, "yref": "paper", "yanchor": "bottom"}
    figure.update_layout(margin={"t": 56})
    figure.add_annotation(text="threshold ", showarrow=False, font={"color": _ACCENT}, **place)
    return figure


def spread_figure(values: Float[ndarray, " N"], thresholds: Sequence[float], axis: str, whole: bool = False) -> tuple[Figure, int]:
    """Return the distribution of finite values with thresholds where they are near, and how many values are farther off than is drawn.

    The window holds 99 % of the values and what is near them; the outermost bars hold the others.
    """
    low, high = (float(bound) for bound in np.quantile(values, (0.005, 0.995)))
    pad = max(0.5 * (high - low), 0.02 * max(abs(low), abs(high)), 1e-6)
    low, high = max(low - pad, float(values.min())), min(high + pad, float(values.max()))
    width = max(np.ceil((high - low + 1) / 50), 1.0) if whole else max(high - low, 2 * pad) / 40
    edges = (low - 0.5 if whole else (low + high) / 2 - 20 * width) + width * np.arange(41)
    if whole:
        edges = edges[: int(np.ceil((high - low + 1) / width)) + 1]
    n_outside = int(((values < edges[0]) | (values > edges[-1])).sum())
    bars = {
        "type": "bar",
        "x": (edges[:-1] + edges[1:]) / 2,
        "y": np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0],
        "width": width,
        "marker": {"color": _POINT},
        "hovertemplate": "%{y} structures near %{x:.4g}<extra></extra>",
    }
    figure = _figure([bars], axis, "structures", height=280)
    figure.update_layout(bargap=0)
    for threshold in thresholds:
        if edges[0] <= threshold <= edges[-1]:
            figure.add_vline(x=threshold + (0.5 if whole else 0.0), line={"color": _ACCENT, "width": 2, "dash": "dash"})
    return figure, n_outside


def throughput_figure(runs: Sequence[RankRun]) -> Figure:
    """Return structures/s over time, one band per rank; of more than `MAX_LINES` ranks, one band per array task or one for all."""
    times, rates = throughput(runs)
    timed = [run for run in runs if run.started_at and run.ended_at]
    names = [f"rank {run.label}" for run in timed]
    for grouping in ([f"array task {run.name.round}/{run.name.array_task}" for run in timed], ["all ranks"] * len(timed)):
        if len(set(names)) <= MAX_LINES:
            break
        names = grouping
    scale, unit = _time_unit(float(times.max(initial=0.0)))
    data = []
    for at, name in enumerate(dict.fromkeys(names)):
        band = rates[[own == name for own in names]].sum(axis=0)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": times / scale,
                "y": band,
                "stackgroup": "ranks",
                "line": {"width": 0.8, "color": _SERIES[at % len(_SERIES)]},
                "hovertemplate": "%{y:.2f} structures/s<extra>%{fullData.name}</extra>",
            }
        )
    figure = _figure(data, f"time since the first rank started ({unit})", "structures/s", height=340)
    figure.update_layout(hovermode="x unified")
    return figure


def parts_figure(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Return seconds by part as stacked horizontal bars, one for each of `rows` (name to seconds by part)."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    names = list(rows)
    scale, unit = _time_unit(max((sum(row.values()) for row in rows.values()), default=0.0))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plotly_text(part),
            "y": [plotly_text(name) for name in names],
            "x": [rows[name].get(part, 0.0) / scale for name in names],
            "marker": {"color": _SERIES[at % len(_SERIES)]},
            "hovertemplate": f"%{{x:.2f}} {unit}<extra>%{{fullData.name}}</extra>",
        }
        for at, part in enumerate(parts)
    ]
    figure = _figure(data, f"time ({unit})", "", height=max(130 + 26 * len(rows), 200))
    figure.update_layout(barmode="stack", bargap=0.3)
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return figure


def _names(table: pd.DataFrame) -> ndarray[Any, Any]:
    """Formula, system and place in the inputs of each row, for hovers; the one spot where figures meet text from users."""
    places = [f"{plotly_text(source)} frame {frame}" for source, frame in zip(table["source"], table["frame"], strict=True)]
    formulas = [str(formula_markup(formula)) for formula in table["formula"]]
    return np.column_stack([np.array(formulas, object), table.index.to_numpy().astype(object), np.array(places, object)])


def _histogram(
    values: Mapping[str, Float[ndarray, " N"]], colours: Mapping[str, str], axis: str, whole: bool = False, n_bins: int = 50
) -> Figure:
    every = np.concatenate([np.zeros(0), *values.values()])
    low, high = float(every.min(initial=np.inf)), float(every.max(initial=-np.inf))
    low, high = (0.0, 1.0) if not len(every) else (min(low, 0.0), max(high, low + 1e-9))
    # Bins of a count are whole numbers wide, or every few bins would hold one number more than the others.
    width = max(np.ceil((high - low + 1) / n_bins), 1.0) if whole else (high - low) / n_bins
    edges = low + width * np.arange(int(np.ceil((high - low) / width)) + 2)
    data = [
        {
            "type": "bar",
            "name": name.replace("_", " "),
            "x": (edges[:-1] + edges[1:]) / 2 - (0.5 if whole else 0.0),
            "y": np.histogram(part, edges)[0],
            "width": width,
            "marker": {"color": colours[name]},
            "hovertemplate": "%{y} structures near %{x}<extra>%{fullData.name}</extra>",
        }
        for name, part in values.items()
    ]
    figure = _figure(data, axis, "structures", height=320)
    figure.update_layout(barmode="stack", bargap=0)
    return figure


def _figure(data: Sequence[Mapping[str, Any]], x: str, y: str, height: int) -> Figure:
    # A second to import, and most of what the package does draws nothing.
    from plotly.graph_objects import Figure

    layout = {
        "height": height,
        "margin": {"l": 64, "r": 20, "t": 36, "b": 54},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
        "showlegend": len(data) > 1,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        "hoverlabel": {"align": "left"},
        "template": "none",
    }
    return Figure(data=[dict(trace) for trace in data], layout=layout)


def _window(values: Float[ndarray, " N"]) -> list[float]:
    """Range that shows all but far outliers above; a double click in the figure shows these too."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    usual = float(np.quantile(values, 0.98)) if len(values) else high
    if high - low > 2 * (usual - low):
        high = usual
    pad = 0.08 * max(high - low, 1e-3)
    return [low - 1.5 * pad, high + pad]


def _time_unit(longest_s: float) -> tuple[float, str]:
    for scale, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if longest_s > 3 * scale:
            return scale, unit
    return 1.0, "seconds"
