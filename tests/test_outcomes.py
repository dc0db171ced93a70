"""Outcomes and the rule that decides between two."""

from __future__ import annotations

import itertools

from campaign.outcomes import Outcome, worse


def test_numbers_never_change_their_meaning() -> None:
    assert [(o.value, o.label) for o in Outcome] == [(0, "converged"), (1, "max_steps"), (2, "diverged"), (3, "invalid"), (4, "failed")]


def test_each_has_a_sentence() -> None:
    assert all(o.sentence.endswith(".") for o in Outcome)


def test_worse_is_commutative_associative_idempotent() -> None:
    for a, b, c in itertools.product(Outcome, repeat=3):
        assert worse(a, b) is worse(b, a)
        assert worse(a, a) is a
        assert worse(worse(a, b), c) is worse(a, worse(b, c))


def test_the_rule() -> None:
    assert worse(Outcome.CONVERGED, Outcome.MAX_STEPS) is Outcome.CONVERGED
    assert worse(Outcome.DIVERGED, Outcome.MAX_STEPS) is Outcome.DIVERGED
    assert worse(Outcome.FAILED, Outcome.CONVERGED) is Outcome.FAILED
