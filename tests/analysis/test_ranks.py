"""Records of ranks: what the worker writes is read, and what is missing counts as nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.analysis.ranks import RankRun, RankRuns, parse_run, read_rank_runs, throughput
from campaign.files import write_json
from campaign.paths import CampaignPaths, ShardName
from campaign.worker.processes import ProcessId
from campaign.worker.records import RankRecord, RunState

NAME = ShardName(1, 0, 3, 0)


def run(start: float, end: float, n: int, rank: int = 0) -> RankRun:
    return parse_run(ShardName(1, 0, rank, 0), {"started_unix_s": start, "ended_unix_s": end, "n_finished": n, "threads": 2})


def test_what_the_worker_writes_is_read(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path)
    record = RankRecord(
        ShardName(2, 1, 3, 1),
        RunState.STOPPED,
        ProcessId(77, 1.7e9, "node7"),
        "12_1",
        1.7e9,
        1.7e9 + 8,
        device="cuda:0",
        outcomes={"converged": 30, "max_steps": 10},
        n_steps=900,
        atom_steps=12_000,
        seconds={"zeal": 1.0, "model": 5.0, "startup": 2.0},
        peak_memory_bytes=2**30,
    )
    record.write(paths)
    paths.plans.mkdir()
    write_json(paths.plan(2), {})
    (read,) = read_rank_runs(paths).runs
    assert read.label == "2/1/3 #1"
    assert (read.host, read.device, read.state) == ("node7", "cuda:0", "stopped")
    assert read.n_finished == 40
    assert read.wall_s == 8
    assert read.structures_per_s == 5
    assert read.seconds == (("startup", 2.0), ("model", 5.0), ("zeal", 1.0))  # known parts first
    assert (read.n_steps, read.atom_steps, read.peak_memory_bytes) == (900, 12_000, 2**30)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"started_at": "yesterday", "ended_at": None, "seconds": [1, 2], "outcomes": "many", "threads": "x", "process": 3},
        {"started_unix_s": float("nan"), "n_steps": -4, "seconds": {"model": float("inf"), "sink": None}, "outcomes": {"converged": True}},
        {"started_unix_s": 1e300},
    ],
)
def test_what_is_missing_or_wrong_counts_as_nothing(value: dict[str, Any]) -> None:
    read = parse_run(NAME, value)
    assert read.wall_s == 0
    assert read.structures_per_s == 0
    assert read.n_finished == 0
    assert read.threads == 1
    assert RankRuns((read,)).timed == ()
    assert RankRuns((read,)).seconds_by_part() == {}


def test_times_are_read_from_iso_8601_too() -> None:
    read = parse_run(NAME, {"started_at": "2026-03-02T09:30:00+01:00", "ended_at": "2026-03-02T08:30:10"})  # UTC where it does not say
    assert read.wall_s == 10


def test_files_that_are_no_records_are_counted(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path)
    folder = paths.rank_records(1)
    folder.mkdir(parents=True)
    paths.plans.mkdir()
    write_json(paths.plan(1), {})
    paths.rank_record(NAME).write_text("{", encoding="utf-8")
    (folder / "00-notes.json").write_text("{}", encoding="utf-8")
    write_json(paths.rank_record(ShardName(1, 0, 4, 0)), [])
    assert read_rank_runs(paths) == RankRuns((), 3)


def test_times_of_ranks_are_added_up() -> None:
    runs = RankRuns((run(0, 10, 5), run(5, 12, 5, 1), run(20, 21, 1, 2)))
    assert runs.busy_s == 13  # 0 to 12 and 20 to 21, the gap left out
    assert runs.core_s == 2 * (10 + 7 + 1)


def test_throughput_jumps_where_ranks_come_and_go() -> None:
    times, rates = throughput([run(100, 110, 20), run(105, 107, 6, 1)])
    assert times.tolist() == [0, 0, 5, 5, 7, 7, 10, 10]
    assert rates.tolist() == [[0, 2, 2, 2, 2, 2, 2, 0], [0, 0, 0, 3, 3, 0, 0, 0]]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50), st.integers(0, 99)), max_size=8))
def test_the_area_below_throughput_is_what_was_finished(spans: list[tuple[int, int, int]]) -> None:
    runs = [run(start, start + length, n, rank) for rank, (start, length, n) in enumerate(spans)]
    times, rates = throughput(runs)
    areas = np.array([np.trapezoid(band, times) for band in rates]) if len(runs) else np.zeros(0)
    np.testing.assert_allclose(areas, [n for _, _, n in spans], atol=1e-9)
