"""Conditions over the table: what they mean, and everything they must not do."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.analysis.select import parse_where
from campaign.errors import SpecError

FRAME = pd.DataFrame(
    {
        "n_atoms": [4, 8, 108, 13],
        "energy": [-1.0, -20.0, np.nan, 3.5],
        "outcome": ["converged", "max_steps", "invalid", "converged"],
        "elements": ["Au-Cu", "Cu", "C-Cs", None],
        "source": ["a.cif", "slabs/b.cif", "c' or 1==1.cif", "d.cif"],
    }
)
# A key of info holds whatever each structure had: here text, a number, nothing, a list.
FRAME["info.kind"] = pd.Series(["slab", 3, None, [1, 2]], dtype=object)

CASES = [
    ("n_atoms > 8", [False, False, True, True]),
    ("4 < n_atoms <= 13", [False, True, False, True]),  # a chain
    ("outcome == 'converged' and energy < 0", [True, False, False, False]),
    ("energy < 100", [True, True, False, True]),  # NaN is below nothing
    ("energy != 3.5", [True, True, True, False]),  # NaN differs from everything
    ("not energy < 0", [False, False, True, True]),
    ("energy / n_atoms <= -1", [False, True, False, False]),
    ("outcome in ('invalid', 'max_steps')", [False, True, True, False]),
    ("outcome not in ['converged']", [False, True, True, False]),
    ("n_atoms in (4, 13)", [True, False, False, True]),
    ("'Cu' in elements", [True, True, False, False]),
    ("'C' in elements", [False, False, True, False]),  # not Cu, not Cs: one symbol is asked for
    ("'slabs/' in source", [False, True, False, False]),
    ('source == "c\' or 1==1.cif"', [False, False, True, False]),  # text stays text
    ("elements != 'Cu'", [True, False, True, True]),
    ("info.kind == 'slab'", [True, False, False, False]),
    ("info.kind == 3", [False, True, False, False]),
    ("info.kind * 2 > 5", [False, True, False, False]),
    ("info.missing == 1", [False, False, False, False]),
    ("True", [True, True, True, True]),  # no column at all
    ("n_atoms ** 9 ** 9 > 0", [True, True, True, True]),  # infinity, at once: no integer grows without bound
    ("energy / 0 < 0", [True, True, False, False]),
]


@pytest.mark.parametrize(("text", "rows"), CASES, ids=[text for text, _ in CASES])
def test_what_a_condition_selects(text: str, rows: list[bool]) -> None:
    frame = FRAME.assign(**{"info.missing": pd.Series([None] * 4, dtype=object)})
    mask = parse_where(text, FRAME.columns).mask(frame)
    assert mask.dtype == bool
    assert mask.tolist() == rows


REFUSED = [
    ("__import__('os').system('true')", "not allowed"),
    ("energy.__class__", "not allowed"),
    ("[x for x in (1,)]", "not allowed"),
    ("(lambda: 1)()", "not allowed"),
    ("n_atoms if 1 else 2", "not allowed"),
    ("energy < None", "not allowed"),
    ("n_atoms << 3 > 1", "not allowed"),
    ("n_atoms is 4", "not allowed"),
    ("energy <", "no condition"),
    ("", "no condition"),
    ("((((" * 5000, "characters"),
    ("fmxa < 1", "unknown column 'fmxa'"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_where(text, [*FRAME.columns, "fmax"])


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown column 'enrgy'; did you mean 'energy'\? Correct it\."):
        parse_where("enrgy < 1", FRAME.columns)


@pytest.mark.parametrize("text", ["outcome < 3", "outcome + 1 > 2", "3 in outcome", "n_atoms == 'many'"])
def test_text_and_numbers_do_not_mix(text: str) -> None:
    with pytest.raises(SpecError, match="Compare text with text, numbers with numbers"):
        parse_where(text, FRAME.columns).mask(FRAME)


def test_a_value_is_no_condition() -> None:
    with pytest.raises(SpecError, match="no condition but a value"):
        parse_where("energy", FRAME.columns).mask(FRAME)


def test_an_empty_table_has_an_empty_mask() -> None:
    assert parse_where("n_atoms > 3 and 'Cu' in elements", FRAME.columns).mask(FRAME.iloc[:0]).shape == (0,)


def test_a_condition_crosses_processes() -> None:
    where = parse_where("n_atoms > 8", FRAME.columns)
    where.mask(FRAME)
    assert pickle.loads(pickle.dumps(where)).mask(FRAME).tolist() == [False, False, True, True]


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_one_clear_error(text: str) -> None:
    try:
        parse_where(text, FRAME.columns).mask(FRAME)
    except SpecError as error:
        assert text[:20] in str(error) or repr(text) in str(error)
