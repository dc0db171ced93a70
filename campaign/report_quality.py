"""What a report says about converged results that look odd: distributions of the quality columns, and the structures beyond a threshold.

The thresholds flag and do not judge: a slab falls apart into layers for good reasons, and a metal under pressure is short of room. They say
where a person should look first, each structure with the command that shows it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from campaign.analysis import StoreView
from campaign.analysis.plots import spread_figure
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths
from campaign.report_contents import MAX_ROWS, Drawing, Listing, export_command, rows_of_systems
from campaign.report_text import count, significant

if TYPE_CHECKING:
    import pandas as pd

CLOSE_RATIO: Final = 0.7
"""Two atoms nearer than this times the sum of their covalent radii; the triple bond of N₂ has 0.77, crystals of metals about 1."""

VOLUME_RATIOS: Final = (0.7, 1.5)
"""Final over initial volume outside of these."""

MOST_FRAGMENTS: Final = 1

FAR_QUARTILES: Final = 5.0
"""Energies per atom this many times the distance of the quartiles beyond them; compositions differ, so most campaigns have none."""


@dataclass(frozen=True, slots=True)
class Quality:
    """One quality column: how it is drawn, and between which values nothing is flagged."""

    column: str
    title: str
    axis: str
    below: str
    above: str
    low: float = -np.inf
    high: float = np.inf
    whole: bool = False

    def flagged(self, values: Float[ndarray, " N"]) -> Bool[ndarray, " N"]:
        """Return which values are beyond; what is not known is not."""
        return (values < self.low) | (values > self.high)

    def condition(self) -> list[str]:
        """Return the comparisons that find them, as in `--where`."""
        found = [f"{self.column} < {self.low!r}"] if np.isfinite(self.low) else []
        return found + ([f"{self.column} > {self.high!r}"] if np.isfinite(self.high) else [])


@dataclass(frozen=True, eq=False)
class QualityContents:
    """Figures, the rule in words, and the structures that are flagged."""

    drawings: list[Drawing]
    rule: str
    flagged: Listing


def quality_contents(view: StoreView, paths: CampaignPaths) -> QualityContents:
    """Return what there is to say about the quality columns of converged results."""
    columns = [quality.column for quality in _qualities(np.zeros(0))]
    known = [name for name in columns if name in view.columns]
    frame = view.frame(["outcome", *known])
    frame = frame[frame["outcome"] == Outcome.CONVERGED.label]
    energies = frame["energy_per_atom"].to_numpy(np.float64) if "energy_per_atom" in known else np.zeros(0)
    qualities = [quality for quality in _qualities(energies) if quality.column in known]
    drawings = [drawn for quality in qualities if (drawn := _drawing(quality, frame)) is not None]
    is_flagged = np.zeros((len(qualities), len(frame)), dtype=bool)
    for at, quality in enumerate(qualities):
        is_flagged[at] = quality.flagged(frame[quality.column].to_numpy(np.float64))
    ids = frame.index[is_flagged.any(axis=0)]
    reasons = dict(zip(frame.index.tolist(), _reasons(qualities, frame, is_flagged), strict=True))
    table = rows_of_systems(view, ids[:MAX_ROWS], ["formula", "source", "frame"])
    rows = tuple(
        (
            str(row.Index),
            str(row.formula),
            reasons[row.Index],
            f"campaign show {shlex.quote(str(paths.root))} {row.Index}",
            str(row.source),
            str(row.frame),
        )
        for row in table.itertuples()
    )
    comparisons = [comparison for quality in qualities for comparison in quality.condition()]
    command = export_command(paths, f"outcome == '{Outcome.CONVERGED.label}' and ({' or '.join(comparisons)})") if comparisons else ""
    listing = Listing(("System", "Formula", "Flag", "Command", "File", "Frame"), rows, len(ids), command)
    return QualityContents(drawings, _rule(qualities), listing)


def _qualities(energies: Float[ndarray, " N"]) -> list[Quality]:
    finite = energies[np.isfinite(energies)]
    low, high = -np.inf, np.inf
    if len(finite):
        first, third = np.quantile(finite, (0.25, 0.75))
        reach = FAR_QUARTILES * float(third - first)
        if reach > 0:
            # As many digits as a person would write, so that the command finds what the table shows.
            low, high = float(f"{first - reach:.6g}"), float(f"{third + reach:.6g}")
    return [
        Quality("shortest_distance_ratio", "Shortest distance", "over the sum of the covalent radii", "atoms close", "", CLOSE_RATIO),
        Quality("volume_ratio", "Volume", "final over initial volume", "cell shrunk", "cell grown", *VOLUME_RATIOS),
        Quality("energy_per_atom", "Energy", "energy per atom (eV)", "energy low", "energy high", low, high),
        Quality("n_fragments", "Fragments", "groups of bonded atoms", "", "fragments", high=MOST_FRAGMENTS, whole=True),
    ]


def _drawing(quality: Quality, frame: pd.DataFrame) -> Drawing | None:
    values = frame[quality.column].to_numpy(np.float64)
    values = values[np.isfinite(values) & ((values > 0) | (not quality.whole))]
    if not len(values):
        return None
    n_beyond = int(quality.flagged(values).sum())
    median = float(np.median(values))
    caption = f"The median is {f'{median:g}' if quality.whole else significant(median)}; flagged: {count(n_beyond)}."
    figure, n_outside = spread_figure(values, [quality.low, quality.high], quality.axis, quality.whole)
    caption += f" The outermost bars hold those farther off: {count(n_outside)}." if n_outside else ""
    key = quality.column.replace("_", "-")
    return Drawing(key, quality.title, caption, f"Distribution of {quality.column}. {caption}", figure)


def _reasons(qualities: Sequence[Quality], frame: pd.DataFrame, is_flagged: Bool[ndarray, "Q N"]) -> list[str]:
    texts: list[list[str]] = [[] for _ in range(len(frame))]
    for quality, flags in zip(qualities, is_flagged, strict=True):
        values: Any = frame[quality.column].to_numpy(np.float64)
        for row in np.flatnonzero(flags):
            what = quality.below if values[row] < quality.low else quality.above
            texts[row].append(f"{what}: {significant(float(values[row]))}" if not quality.whole else f"{what}: {int(values[row])}")
    return [", ".join(text) for text in texts]


def _rule(qualities: Sequence[Quality]) -> str:
    parts = []
    for quality in qualities:
        bounds = [f"below {quality.low:g}"] if np.isfinite(quality.low) else []
        bounds += [f"above {quality.high:g}"] if np.isfinite(quality.high) else []
        if bounds:
            parts.append(f"{quality.column} {' or '.join(bounds)}")
    return "; ".join(parts)
