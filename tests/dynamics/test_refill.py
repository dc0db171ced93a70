"""Those that have ended leave when their idle work is worth an exchange, and never later than the batch can bear."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from campaign.dynamics.refill import RefillPolicy


@given(st.floats(1e-4, 1.0), st.lists(st.tuples(st.floats(1e-4, 1.0), st.integers(0, 9)), max_size=100))
def test_idle_work_is_bounded_by_what_an_exchange_costs(cost: float, steps: list[tuple[float, int]]) -> None:
    policy = RefillPolicy()
    policy.exchanged(cost)
    idle = largest_step = 0.0
    for seconds, ended in steps:
        largest_step = max(largest_step, seconds)
        due = policy.is_due(ended, ended * 10, 10, 100, seconds)
        idle += seconds * ended / 10
        assert due == (ended > 5 or (ended > 0 and idle >= cost * (1 + 1e-12)) or (ended > 0 and due and idle >= cost * (1 - 1e-12)))
        if due:
            assert idle <= cost + largest_step
            policy.exchanged(cost)
            idle = 0.0


def test_nothing_ended_nothing_due_and_all_ended_always_due() -> None:
    policy = RefillPolicy()
    policy.exchanged(1e9)
    assert not policy.is_due(0, 0, 4, 40, 1.0)
    assert policy.is_due(4, 40, 4, 40, 1e-9)
    assert not policy.is_due(1, 10, 4, 40, 1e-9)
    assert policy.is_due(1, 30, 4, 40, 1e-9), "most of the batch would idle"


def test_fixed_interval() -> None:
    policy = RefillPolicy(every=3)
    due = [policy.is_due(1, 30, 4, 40, 1e9) for _ in range(3)]
    assert due == [False, False, True]
    policy.exchanged(1.0)
    assert [policy.is_due(ended, 10, 4, 40, 1.0) for ended in (1, 1, 0, 1)] == [False, False, False, True]


def test_costs_are_learnt() -> None:
    policy = RefillPolicy()
    policy.exchanged(1.0)
    for _ in range(50):
        policy.exchanged(0.1)
    assert [policy.is_due(1, 10, 4, 40, 0.22) for _ in range(2)] == [False, True]


def test_where_waiting_costs_nothing_systems_leave_after_a_while_or_when_they_are_the_most() -> None:
    policy = RefillPolicy()
    policy.exchanged(1e-9)
    assert [policy.is_due(1, 10, 4, 40, seconds=0.5, idle_costs=False) for _ in range(4)] == [False, False, False, True]
    policy.exchanged(1e-9)
    assert policy.is_due(3, 30, 4, 40, seconds=0.0, idle_costs=False)
    assert not policy.is_due(0, 0, 4, 40, seconds=100.0, idle_costs=False)
