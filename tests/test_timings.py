"""Times of the arrows."""

from __future__ import annotations

from pathlib import Path

import pytest

from campaign.errors import ArgumentError
from campaign.paths import CampaignPaths
from campaign.timings import append_timing, read_timings


def test_times_of_an_arrow_add_up_in_the_order_of_first_runs(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path)
    assert read_timings(paths) == {}
    for arrow, seconds in (("ingest", 1.5), ("relax", 10), ("relax", 5), ("ingest", 0.5)):
        append_timing(paths, arrow, seconds)
    assert read_timings(paths) == {"ingest": 2.0, "relax": 15.0}
    assert list(read_timings(paths)) == ["ingest", "relax"]


@pytest.mark.parametrize("text", ["", "{", "{}", '[1, {}, {"arrow": 3, "seconds": 1}, {"arrow": "x", "seconds": true}]', "\xff"])
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path, text: str) -> None:
    paths = CampaignPaths(tmp_path)
    paths.timings.write_bytes(text.encode("latin-1"))
    assert read_timings(paths) == {}
    append_timing(paths, "plan", 1.0)
    assert read_timings(paths) == {"plan": 1.0}


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ArgumentError, match="finite and not negative"):
        append_timing(CampaignPaths(tmp_path), "plan", seconds)
