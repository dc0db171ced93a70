"""How long each arrow took, in `timings.json`: one entry a run, in order, for the end of a run and the report."""

from __future__ import annotations

import json
import math
from typing import Any

from campaign.errors import ArgumentError
from campaign.files import write_json
from campaign.paths import CampaignPaths


def append_timing(paths: CampaignPaths, arrow: str, seconds: float) -> None:
    """Add a run of an arrow; durable when it returns.

    Only the one process that drives a campaign calls this. A file that cannot be read is begun anew: times are never worth a stop.

    Raises:
        ArgumentError: the time is negative or not finite.
        FileWriteError: the file cannot be written.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ArgumentError(f"arrow {arrow!r} took {seconds} s; a time is finite and not negative. Measure it with a monotonic clock.")
    write_json(paths.timings, [*_entries(paths), {"arrow": arrow, "seconds": seconds}])


def read_timings(paths: CampaignPaths) -> dict[str, float]:
    """Return seconds by arrow, runs of the same arrow added up, in the order in which arrows first ran; empty if there are none."""
    total: dict[str, float] = {}
    for entry in _entries(paths):
        total[entry["arrow"]] = total.get(entry["arrow"], 0.0) + entry["seconds"]
    return total


def _entries(paths: CampaignPaths) -> list[dict[str, Any]]:
    try:
        entries = json.loads(paths.timings.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(entries, list):
        return []
    return [
        entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("arrow"), str) and _is_time(entry.get("seconds"))
    ]


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
