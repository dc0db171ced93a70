"""What is true of every plan, counted by brute force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.errors import IncompleteError, ResourceError, StoreDamagedError
from campaign.fields import STORE_FIELDS, TRAJECTORY_FIELDS, Field, Level
from campaign.store import consolidation_plan
from campaign.store.consolidation_plan import ConsolidationPlan, InputIndex, ShardIndex, plan_consolidation, plan_trajectory


@st.composite
def campaigns(draw: st.DrawFn) -> tuple[InputIndex, list[ShardIndex]]:
    """Inputs, some of them rejects, and shards in any order with systems that may be there several times."""
    sizes = np.array(draw(st.lists(st.integers(0, 6), min_size=1, max_size=25)), dtype=np.int64)
    rejects = np.array(draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))))
    usable = np.flatnonzero(~rejects)
    shards = []
    for number in draw(st.permutations(range(draw(st.integers(0, 4))))):
        ids = draw(st.lists(st.sampled_from(usable.tolist()), max_size=20)) if len(usable) else []
        at = np.array(ids, dtype=np.int64)
        shards.append(ShardIndex(f"0001-0000{number}-00000-000.zarr", at, sizes[at]))
    return InputIndex("inputs.zarr", sizes, rejects), shards


def check_ranges(plan: ConsolidationPlan, fields: Sequence[Field]) -> None:
    """Each row of each array lies in exactly one range; ranges are whole output shards; systems of a range are those it touches."""
    ptr = [0, *np.cumsum(plan.n_atoms).tolist()]
    for field in fields:
        level, n_rows = field.level, plan.n_systems if field.level is Level.SYSTEM else ptr[-1]
        shard_rows = plan.chunking.rows(level)[1]
        covered = []
        for part in sorted((part for part in plan.ranges if part.field == field.name), key=lambda part: part.start):
            assert part.level is level
            assert part.start % shard_rows == 0
            assert part.stop == n_rows or part.stop % shard_rows == 0
            covered += range(part.start, part.stop)
            if level is Level.SYSTEM:
                assert (part.first, part.last) == (part.start, part.stop)
            else:
                touched = [system for system in range(plan.n_systems) if max(ptr[system], part.start) < min(ptr[system + 1], part.stop)]
                assert part.first <= touched[0] and touched[-1] < part.last
                assert ptr[part.first] <= part.start and part.stop <= ptr[part.last]
        assert covered == list(range(n_rows))
    assert plan.fixed_bytes + plan.n_parallel * plan.peak_bytes <= plan.budget_bytes
    printed = json.loads(plan.to_json())
    assert {key: printed[key] for key in ("source", "row", "atom_start", "system_ids", "n_atoms")} == {
        key: getattr(plan, key).tolist() for key in ("source", "row", "atom_start", "system_ids", "n_atoms")
    }
    assert [tuple(part.values()) for part in printed["ranges"]] == [astuple(part) for part in plan.ranges]
    assert (printed["peak_bytes"], printed["budget_bytes"]) == (plan.peak_bytes, plan.budget_bytes)
    assert str(plan.n_systems) in str(plan)


@settings(deadline=None)
@given(campaigns(), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_each_input_once_from_the_first_shard_that_has_it(
    campaign: tuple[InputIndex, list[ShardIndex]], system_rows: int, atom_rows: int, per_shard: int, n_threads: int, n_processes: int
) -> None:
    inputs, shards = campaign
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consolidation_plan, "SYSTEM_CHUNK_ROWS", system_rows)
        patch.setattr(consolidation_plan, "ATOM_CHUNK_ROWS", atom_rows)
        patch.setattr(consolidation_plan, "CHUNKS_PER_SHARD", per_shard)
        plan = plan_consolidation(inputs, shards, STORE_FIELDS, allow_incomplete=True, n_threads=n_threads, n_processes=n_processes)
    expected = {}
    total = 0
    for number, shard in enumerate(sorted(shards, key=lambda shard: shard.name), start=1):
        for row, system_id in enumerate(shard.system_ids.tolist()):
            total += 1
            expected.setdefault(system_id, (number, row))
    for system_id in np.flatnonzero(inputs.reject_mask).tolist():
        total += 1
        expected[system_id] = (0, system_id)
    assert plan.system_ids.tolist() == sorted(expected)
    assert list(zip(plan.source.tolist(), plan.row.tolist(), strict=True)) == [expected[system_id] for system_id in sorted(expected)]
    assert plan.n_atoms.tolist() == inputs.n_atoms[sorted(expected)].tolist()
    assert plan.n_duplicates == total - len(expected)
    assert plan.n_missing == len(inputs.n_atoms) - len(expected)
    check_ranges(plan, STORE_FIELDS)


@settings(deadline=None)
@given(campaigns())
def test_the_plan_does_not_depend_on_the_order_of_shards(campaign: tuple[InputIndex, list[ShardIndex]]) -> None:
    inputs, shards = campaign
    one = plan_consolidation(inputs, shards, STORE_FIELDS, allow_incomplete=True)
    other = plan_consolidation(inputs, shards[::-1], STORE_FIELDS, allow_incomplete=True)
    assert one.to_json() == other.to_json()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=15), max_size=4),
    st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=6, max_size=6),
)
def test_frames_are_sorted_and_come_from_the_shard_of_the_result(frames: list[list[tuple[int, int]]], winners: list[int | None]) -> None:
    shards = [
        ShardIndex(
            str(number),
            np.array([f[0] for f in part], dtype=np.int64),
            np.full(len(part), 2),
            np.array([f[1] for f in part], dtype=np.int64),
        )
        for number, part in enumerate(frames)
    ]
    winner = [None if number is None else str(number) for number in winners]
    plan = plan_trajectory(shards, winner, TRAJECTORY_FIELDS)
    expected: dict[tuple[int, int], tuple[int, int]] = {}
    for number, part in enumerate(frames):
        for row, key in enumerate(part):
            if winners[key[0]] == number:
                expected.setdefault(key, (number, row))
    assert list(zip(plan.source.tolist(), plan.row.tolist(), strict=True)) == [expected[key] for key in sorted(expected)]
    assert plan.n_duplicates == sum(map(len, frames)) - len(expected)
    check_ranges(plan, TRAJECTORY_FIELDS)


def test_missing_inputs_are_counted_and_named() -> None:
    inputs = InputIndex("inputs.zarr", np.full(9, 2), np.zeros(9, dtype=bool))
    shard = ShardIndex("s", np.array([0, 4]), np.array([2, 2]))
    with pytest.raises(IncompleteError, match=r"7 of 9 inputs have no outcome \(system_id 1, 2, 3, 5, 6, …\).*once.*campaign resume"):
        plan_consolidation(inputs, [shard], STORE_FIELDS)


@pytest.mark.parametrize(
    ("ids", "sizes", "seen"),
    [
        ([1, 9], [2, 2], "s row 1 has system_id 9, but there are 9 inputs"),
        ([-1], [2], "s row 0 has system_id -1"),
        ([3], [4], "s row 0 has 4 atoms for system_id 3, whose input has 2"),
    ],
)
def test_shards_of_another_campaign_are_refused(ids: list[int], sizes: list[int], seen: str) -> None:
    inputs = InputIndex("inputs.zarr", np.full(9, 2), np.zeros(9, dtype=bool))
    with pytest.raises(StoreDamagedError, match=f"{seen}.*remove it, then `campaign resume`"):
        plan_consolidation(inputs, [ShardIndex("s", np.array(ids), np.array(sizes))], STORE_FIELDS, allow_incomplete=True)


def test_a_plan_beyond_the_budget_is_refused_with_both_numbers() -> None:
    inputs = InputIndex("inputs.zarr", np.array([5_000_000]), np.array([True]))
    with pytest.raises(ResourceError, match=r"needs \d+ MiB for one Dask task, but its budget is 100 MiB. Give it at least \d+ MiB"):
        plan_consolidation(inputs, [], STORE_FIELDS, budget_bytes=100 * 2**20)
