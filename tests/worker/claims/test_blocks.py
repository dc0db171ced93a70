from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.worker.claims.blocks import LARGEST, MOST_BLOCKS, SHARE, plan_blocks

counts = st.integers(0, 20_000)
ranks = st.integers(1, 200)


@given(counts, ranks)
def test_blocks_cover_every_position_once_and_shrink(n_positions: int, n_ranks: int) -> None:
    plan = plan_blocks(n_positions, n_ranks)
    blocks = [plan.block(index) for index in range(len(plan))]
    assert [position for block in blocks for position in block] == list(range(n_positions))
    sizes = [len(block) for block in blocks]
    assert sizes == sorted(sizes, reverse=True)
    assert all(1 <= size <= LARGEST for size in sizes)
    if blocks:
        assert sizes[-1] == 1


@given(st.integers(1, 5_000), ranks)
def test_a_block_is_at_most_a_fair_share_of_what_is_left(n_positions: int, n_ranks: int) -> None:
    plan = plan_blocks(n_positions, n_ranks)
    for index in range(len(plan)):
        block = plan.block(index)
        left = n_positions - block.start
        assert len(block) == 1 or len(block) * SHARE * n_ranks <= left


@given(st.integers(1, 5_000), ranks, st.data())
def test_holder_is_the_block_that_has_the_position(n_positions: int, n_ranks: int, data: st.DataObject) -> None:
    plan = plan_blocks(n_positions, n_ranks)
    position = data.draw(st.integers(0, n_positions - 1))
    assert position in plan.block(plan.holder(position))


def test_beyond_the_last_block_is_nothing() -> None:
    plan = plan_blocks(7, 2)
    assert not plan.block(len(plan))
    assert not plan.block(10**9)
    with pytest.raises(IndexError, match=r"position 7 is not one of the 7.*count from 0"):
        plan.holder(7)


def test_ten_million_positions_make_thousands_of_claims_not_millions() -> None:
    n_blocks = len(plan_blocks(10_000_000, 4))
    print(n_blocks)
    assert n_blocks < 2 * MOST_BLOCKS


@pytest.mark.parametrize(("n_positions", "n_ranks", "largest"), [(-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_impossible_counts_are_refused(n_positions: int, n_ranks: int, largest: int) -> None:
    with pytest.raises(ValueError, match=r"cannot cut .* positions count from 0.*Correct the caller"):
        plan_blocks(n_positions, n_ranks, largest)
