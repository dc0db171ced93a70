"""ASE's info as JSON: what can be said is kept, the rest has its text, and the same info always gives the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.spacegroup import Spacegroup
from hypothesis import given
from hypothesis import strategies as st

from campaign.structures.info import LONGEST_TEXT, encode_info

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, min_size=1, max_size=4))
def test_json_values_come_back_as_they_were(info: dict[str, object]) -> None:
    text = encode_info(info)
    text.encode()
    assert json.loads(text) == info


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(1.5), 1.5),
        (np.int32(3), 3),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, np.nan]), [1.0, {"text": "nan", "note": "not JSON: float"}]),
        ((1, "a"), [1, "a"]),
        ({1: 2}, {"1": 2}),
        (float("inf"), {"text": "inf", "note": "not JSON: float"}),
        (1 + 2j, {"text": "(1+2j)", "note": "not JSON: complex"}),
        (2**70, {"text": str(2**70), "note": "not JSON: int"}),
        (Spacegroup(225), {"text": "Spacegroup(225, setting=1)", "note": "not JSON: Spacegroup"}),
        ("\ud800", "\ud800"),  # a lone surrogate, as JSON can hold one
        (b"\xff", {"text": "b'\\xff'", "note": "not JSON: bytes"}),
    ],
)
def test_other_values(value: object, expected: object) -> None:
    text = encode_info({"key": value})
    text.encode()
    assert json.loads(text) == {"key": expected}


def test_an_address_does_not_get_into_the_text() -> None:
    assert "0x" not in encode_info({"key": object()})
    assert encode_info({"key": object()}) == encode_info({"key": object()})


def test_deep_and_long_values_end_somewhere() -> None:
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    assert len(json.loads(encode_info({"long": b"x" * 10**6}))["long"]["text"]) == LONGEST_TEXT
    assert "not JSON: list" in encode_info({"deep": deep})


def test_no_info_is_no_text() -> None:
    assert encode_info({}) == ""
