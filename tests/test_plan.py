"""Plans: arithmetic on ids and sizes, and files that are written once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_campaign import make_campaign, write_shard

from campaign.errors import ArgumentError, StoreDamagedError, StoreExistsError, StoreNotFoundError
from campaign.files import write_json
from campaign.outcomes import Outcome
from campaign.paths import ShardName
from campaign.plan import RoundPlan, plan_round, run_plan

TOKEN = "0" * 32


def check_plan(plan: RoundPlan, sizes: dict[int, int], array_tasks: int) -> None:
    """What is true of every plan."""
    parts = [plan.assignment(task).tolist() for task in range(array_tasks)]
    assert sorted(system_id for part in parts for system_id in part) == sorted(sizes), "each input once"
    order = plan.order.tolist()
    assert order == sorted(sizes, key=lambda system_id: (-sizes[system_id], system_id)), "largest first, then by id"
    for part in parts:
        assert [sizes[system_id] for system_id in part] == sorted((sizes[system_id] for system_id in part), reverse=True)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert list(plan.n_atoms) == [sum(sizes[system_id] for system_id in part) for part in parts]
    assert plan.n_systems == len(sizes)


@given(st.dictionaries(st.integers(0, 10**9), st.integers(0, 500), max_size=60), st.integers(1, 9))
def test_every_plan(sizes: dict[int, int], array_tasks: int) -> None:
    ids = np.array(list(sizes), dtype=np.int64)
    n_atoms = np.array(list(sizes.values()), dtype=np.int64)
    plan = plan_round(3, TOKEN, ids, n_atoms, array_tasks)
    check_plan(plan, sizes, array_tasks)
    # No assignment has more atoms than another by more than the largest system.
    assert max(plan.n_atoms) - min(plan.n_atoms) <= max(sizes.values(), default=0)
    shuffled = np.random.default_rng(0).permutation(len(ids))
    assert plan_round(3, TOKEN, ids[shuffled], n_atoms[shuffled], array_tasks).to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("ids", "sizes", "array_tasks"),
    [
        ([0, 1], [4], 1),  # a size is missing
        ([0, 0], [4, 4], 1),  # an id is there twice
        ([0], [4], 0),  # nobody to do it
    ],
)
def test_plans_that_make_no_sense_are_refused(ids: list[int], sizes: list[int], array_tasks: int) -> None:
    with pytest.raises(ArgumentError, match=r"a plan was asked for.*Ids are different.*Correct the call"):
        plan_round(1, TOKEN, np.array(ids), np.array(sizes), array_tasks)


def test_a_plan_is_frozen_and_prints() -> None:
    plan = plan_round(1, TOKEN, np.array([5, 6]), np.array([1, 2]), 3)
    with pytest.raises(ValueError, match="read-only"):
        plan.order[0] = 1
    assert "array([6, 5])" in repr(plan)
    assert plan.assignment(2).tolist() == []
    with pytest.raises(ArgumentError, match=r"array task 3 was asked of a plan with 3; they count from 0. Ask for one"):
        plan.assignment(3)


def test_the_first_round_has_all_inputs_but_the_rejects(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    plan = run_plan(paths, spec)
    assert plan is not None and plan.round == 1 and len(plan.token) == 32
    check_plan(plan, {system_id: system_id + 1 for system_id in range(6)}, 2)
    assert RoundPlan.read(paths.plan(1)).to_json() == plan.to_json()


def test_a_later_round_has_what_is_left(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    first = run_plan(paths, spec)
    assert first is not None
    paths.submission(1).parent.mkdir(parents=True)
    write_json(paths.submission(1), {})
    write_shard(paths, ShardName(1, 0, 0, 0), [5, 1], [Outcome.CONVERGED, Outcome.FAILED])
    write_shard(paths, ShardName(1, 1, 1, 0), [1, 4])
    second = run_plan(paths, spec)
    assert second is not None and second.round == 2 and second.token != first.token
    assert second.order.tolist() == [3, 2, 0]
    assert RoundPlan.read(paths.plan(1)).to_json() == first.to_json(), "plans never change"


def test_a_plan_that_was_not_submitted_is_returned_again(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    first, again = run_plan(paths, spec), run_plan(paths, spec)
    assert first is not None and again is not None and again.to_json() == first.to_json()
    assert paths.rounds() == [1]


def test_nothing_left_is_no_plan(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    write_shard(paths, ShardName(1, 0, 0, 0), range(6))
    assert run_plan(paths, spec) is None
    assert paths.rounds() == []


def test_two_that_plan_the_same_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, spec = make_campaign(tmp_path, 1)
    run_plan(paths, spec)
    # The other one has not seen the plan yet.
    monkeypatch.setattr("campaign.paths.CampaignPaths.rounds", lambda self: [])
    with pytest.raises(StoreExistsError, match=r"written by another process.*One process at a time"):
        run_plan(paths, spec)


def test_without_inputs_there_is_no_plan(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path, 1)
    paths.inputs.rename(tmp_path / "away")
    with pytest.raises(StoreNotFoundError):
        run_plan(paths, spec)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"order": 3}', "\xff", '{"format_version": 2}'])
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "0001.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreDamagedError, match=r"0001.json is no plan that can be read.*Move the file away"):
        RoundPlan.read(tmp_path / "0001.json")


def test_a_plan_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    values = plan_round(1, TOKEN, np.array([5]), np.array([1]), 1).to_json() | {"format_version": 2}
    (tmp_path / "0001.json").write_text(json.dumps(values))
    with pytest.raises(StoreDamagedError, match="format_version 2"):
        RoundPlan.read(tmp_path / "0001.json")
