"""Numbers for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.report_text import count, duration, fixed, percent, significant, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0421, "42 ms"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),  # never "60.0 s"
        (133.4, "2 min 13 s"),
        (3599.7, "1 h"),  # never "60 min"
        (11520, "3 h 12 min"),
        (86399, "1 d"),
        (200_000, "2 d 8 h"),
    ],
)
def test_times_have_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e9))
def test_no_time_reads_sixty_of_anything(seconds: float) -> None:
    text = duration(seconds)
    assert text != "–"
    assert not text.startswith(("60 ", "60.0 ", "24 h"))
    assert " 60 " not in text
    assert " 24 h" not in text


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_all_and_nothing_are_said_of_all_and_nothing_only(part: int, whole: int) -> None:
    part = min(part, whole)
    assert (percent(part, whole) == "100 %") == (part == whole)
    assert (percent(part, whole) == "0 %") == (part == 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (1234.5, "1,234"), (0.0, "0"), (-2.5e-7, "−2.50e−7"), (3e9, "3.00e9"), (math.nan, "–"), (math.inf, "–")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_other_numbers() -> None:
    assert count(1234567) == "1,234,567"
    assert fixed(-3.45678, 4) == "−3.4568"
    assert fixed(math.nan, 4) == "–"
    assert size(412 * 2**20) == "412 MiB"
    assert size(3 * 2**30) == "3.0 GiB"
    assert percent(0, 0) == "–"
