"""Figures: they show all there is, in few points, and name it by text that cannot become markup."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.analysis.composition import Compositions
from campaign.analysis.hull import Hull, compute_hull
from campaign.analysis.plots import (
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
from campaign.analysis.ranks import parse_run
from campaign.paths import ShardName


@given(st.integers(0, 300), st.integers(2, 60), st.integers(0, 40))
def test_what_is_true_of_every_choice_of_points(n: int, most: int, n_keep: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.random(n).round(1), rng.random(n)
    keep = np.zeros(n, bool)
    keep[rng.permutation(n)[:n_keep]] = True
    chosen = thin_out(x, y, keep, most)
    assert (np.diff(chosen) > 0).all()
    assert set(np.flatnonzero(keep)) <= set(chosen.tolist())
    assert len(chosen) == (n if n <= most else max(most, int(keep.sum())))


def test_thinning_out_keeps_dense_regions_dense() -> None:
    x = np.concatenate([np.full(9000, 0.25), np.full(1000, 0.75)])
    chosen = thin_out(x, np.random.default_rng(0).random(10_000), np.zeros(10_000, bool), 1000)
    assert (x[chosen] == 0.25).sum() == pytest.approx(900, abs=1)


def binary() -> Hull:
    numbers = [[29], [79], [29, 29, 29, 79], [29, 79], [29, 79]]
    made_of = Compositions.of_atoms(np.array([len(z) for z in numbers]), np.concatenate(numbers))
    return compute_hull(np.arange(5) + 10, np.array([-3.5, -3.2, -13.9, -6.8, -6.5]), made_of)


def labels(hull: Hull, source: str = "a.cif") -> pd.DataFrame:
    return pd.DataFrame({"source": source, "frame": 0}, index=hull.table.index)


def test_the_hull_is_drawn_through_its_corners() -> None:
    hull = binary()
    points, line = hull_figure(hull, labels(hull)).data
    assert list(line.x) == [0, 0.25, 0.5, 1]
    assert list(line.text) == ["Cu", "Cu<sub>3</sub>Au", "CuAu", "Au"]
    assert len(points.x) == 5
    assert points.customdata[2].tolist()[:3] == ["Cu<sub>3</sub>Au", 12, "a.cif frame 0"]


def test_only_labelled_points_are_drawn_but_the_whole_hull_is() -> None:
    hull = binary()
    points, line = hull_figure(hull, labels(hull).iloc[:2]).data
    assert len(points.x) == 2
    assert len(line.x) == 4


def test_names_of_files_are_text() -> None:
    hull = binary()
    points, _ = hull_figure(hull, labels(hull, "<a href=x>\u202e")).data
    assert points.customdata[0][2] == r"&lt;a href=x&gt;\u202e frame 0"


def test_far_outliers_do_not_flatten_the_hull() -> None:
    made_of = Compositions.of_atoms(np.full(200, 2), np.tile([29, 79], 200))
    ends = Compositions.of_atoms(np.array([1, 1]), np.array([29, 79]))
    energies = np.concatenate([[-3.5, -3.2], np.linspace(-6.9, -6.7, 199), [400.0]])
    hull = compute_hull(np.arange(202), energies, Compositions.concatenate([ends, made_of]))
    figure = hull_figure(hull, labels(hull))
    assert figure.layout.yaxis.range[1] < 1
    assert max(figure.data[0].y) > 100  # drawn all the same


def test_every_step_count_falls_into_a_bar_of_its_outcome() -> None:
    n_steps = np.array([0.0, 3, 3, 500, 500])
    figure = steps_figure(n_steps, ["converged", "converged", "diverged", "max_steps", "invalid"])
    counts = {bars.name: int(np.sum(bars.y)) for bars in figure.data}
    assert counts == {"converged": 2, "diverged": 1, "max steps": 1}
    assert {bars.marker.color for bars in figure.data} <= set(OUTCOME_COLOURS.values())


@given(st.lists(st.floats(1e-12, 0.01999) | st.floats(0.02001, 10), max_size=30))
def test_every_positive_value_falls_into_a_bar_on_its_side_of_the_threshold(values: list[float]) -> None:
    (bars,) = threshold_figure(np.array(values), 0.02, "fmax").data
    y, x = np.array(bars.y), np.array(bars.x)
    assert y[x < 0.02].sum() == sum(value < 0.02 for value in values)
    assert y[x > 0.02].sum() == sum(value > 0.02 for value in values)


@pytest.mark.parametrize(("n_tasks", "per_task", "bands"), [(2, 3, 6), (4, 5, 4), (20, 1, 1)])
def test_many_ranks_are_added_up(n_tasks: int, per_task: int, bands: int) -> None:
    value = {"started_unix_s": 0, "ended_unix_s": 10, "n_finished": 5}
    runs = [parse_run(ShardName(1, task, rank, 0), value) for task in range(n_tasks) for rank in range(per_task)]
    figure = throughput_figure(runs)
    assert len(figure.data) == bands
    assert sum(np.max(band.y) for band in figure.data) == pytest.approx(0.5 * n_tasks * per_task)


def test_times_are_shown_in_a_unit_that_fits() -> None:
    assert parts_figure({"a": {"model": 5.0}}).layout.xaxis.title.text == "time (seconds)"
    figure = parts_figure({"a": {"model": 7200.0, "sink": 7200.0}, "b": {"model": 60.0}})
    assert figure.layout.xaxis.title.text == "time (hours)"
    assert [list(bars.x) for bars in figure.data] == [[2.0, 1 / 60], [2.0, 0.0]]


def test_figures_without_data_are_figures() -> None:
    empty = np.zeros(0)
    no_hull = compute_hull(np.zeros(0, np.int64), empty, Compositions.of_atoms(np.zeros(0, np.int64), np.zeros(0, np.int64)))
    table = pd.DataFrame({name: [] for name in ("formula", "energy_per_atom", "volume_per_atom", "source", "frame")})
    for figure in (
        steps_figure(empty, []),
        threshold_figure(empty, 0.02, "fmax"),
        throughput_figure([]),
        parts_figure({}),
        above_hull_figure(no_hull),
        energy_volume_figure(table),
    ):
        assert json.loads(figure.to_json())["layout"]["height"] >= 150
