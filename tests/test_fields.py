"""The table of fields, and text that must fit a tensor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from campaign.fields import (
    CARRIED_FIELDS,
    ERROR_BYTES,
    FIELDS,
    INPUT_FIELDS,
    RESULT_FIELDS,
    STORE_FIELDS,
    Group,
    decode_error,
    encode_error,
)


def test_names_are_unique_in_each_set() -> None:
    for fields in (INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS):
        names = [field.name for field in fields]
        assert len(names) == len(set(names))


def test_store_is_results_and_what_inputs_carry() -> None:
    assert {f.name for f in STORE_FIELDS} == {f.name for f in RESULT_FIELDS} | {f.name for f in CARRIED_FIELDS}


def test_labels_alone_hold_text() -> None:
    for field in FIELDS.values():
        assert (field.group is Group.LABELS) == (field.dtype == "string")


@given(st.text(max_size=400))
def test_error_text_fits_and_is_a_prefix(text: str) -> None:
    raw = encode_error(text)
    assert len(raw) == ERROR_BYTES
    clean = text.replace("\0", " ")
    decoded = decode_error(raw)
    if len(clean.encode()) <= ERROR_BYTES:
        assert decoded == clean
    else:
        assert decoded.endswith("…")
        assert clean.startswith(decoded[:-1])
