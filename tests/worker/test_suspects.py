"""Who is suspected of killing its process: on simulated campaigns, whatever the order in which ranks come by the systems."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.paths import ShardName
from campaign.worker.in_flight import Death
from campaign.worker.suspects import MOST_ALONE, MOST_ALONE_SILENT, N_PARTS, suspicion


def died(round_: int, system_ids: list[int], signal: int | None = 11) -> Death:
    return Death(ShardName(round_, 0, 0, 0), frozenset(system_ids), signal)


def test_one_death_accuses_nobody_and_two_accuse_whom_both_had() -> None:
    assert suspicion([], [1, 2]).parts == ()
    assert suspicion([died(1, [1, 2, 3])], range(9)).parts == ()
    found = suspicion([died(1, [1, 2, 3]), died(2, [2, 3, 4])], range(9))
    assert found.parts == ((2,), (3,))
    assert not found.condemned


def test_what_is_done_is_no_suspect() -> None:
    deaths = [died(1, [1, 2, 3]), died(2, [1, 2, 3])]
    assert suspicion(deaths, [3, 8]).parts == ((3,),)
    assert suspicion(deaths, [8]) == suspicion([], [])


@pytest.mark.parametrize(
    ("signal", "n", "cause"), [(11, MOST_ALONE, "signal 11, SIGSEGV"), (None, MOST_ALONE_SILENT, "ended from outside")]
)
def test_alone_often_enough_is_proof(signal: int | None, n: int, cause: str) -> None:
    for k in range(1, n):
        assert not suspicion([died(round_, [5], signal) for round_ in range(k)], [5]).condemned
    found = suspicion([died(round_, [5], signal) for round_ in range(n)], [5])
    assert found.condemned == {5: f"the process died ({cause}) while this system was relaxed alone, {n} times"}
    assert found.parts == ()


def test_different_signals_are_all_told() -> None:
    (text,) = suspicion([died(1, [5], 11), died(2, [5], 6)], [5]).condemned.values()
    assert text.startswith("the process died (signal 6, SIGABRT, signal 11, SIGSEGV)")


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 200),
    culprits=st.sets(st.integers(0, 199), max_size=3),
    in_flight=st.integers(1, 64),
    is_silent=st.booleans(),
    seed=st.integers(0, 99),
)
def test_all_culprits_and_nobody_else_are_found(n: int, culprits: set[int], in_flight: int, is_silent: bool, seed: int) -> None:
    """Rounds of one rank: ordinary systems first, in random order, then part by part, until a batch has a culprit."""
    culprits = {culprit for culprit in culprits if culprit < n}
    rng = random.Random(seed)
    left, deaths, condemned = set(range(n)), [], {}  # type: ignore[var-annotated]
    n_rounds = 0
    while left:
        n_rounds += 1
        assert n_rounds < 100
        found = suspicion(deaths, left)
        assert set(found.condemned) <= culprits
        condemned |= found.condemned
        left -= set(found.condemned)
        apart = {system_id for part in found.parts for system_id in part}
        assert apart <= left
        ordinary = sorted(left - apart)
        rng.shuffle(ordinary)
        batches = [ordinary[first : first + in_flight] for first in range(0, len(ordinary), in_flight)]
        for batch in [*batches, *map(list, found.parts)]:
            if culprits & set(batch):
                deaths.append(died(n_rounds, batch, None if is_silent else 11))
                break
            left -= set(batch)
    assert set(condemned) == culprits
    depth, size = 0, in_flight
    while size > 1:
        depth, size = depth + 1, -(-size // N_PARTS)
    assert n_rounds <= 1 + len(culprits) * (2 + depth + MOST_ALONE_SILENT)
