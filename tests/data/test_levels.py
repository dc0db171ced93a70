"""Levels are declared: those of fields.py, and those of the contract."""

from __future__ import annotations

import pytest
import torch

from campaign.data.levels import EDGE_INDEX_KEYS, KEYS, LEVEL_NAMES, declared_level, parse_level
from campaign.errors import BatchError
from campaign.fields import FIELDS, NEIGHBOR_KEYS, Level


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.dtype != "string"])
def test_fields_keep_what_fields_says(name: str) -> None:
    assert (KEYS[name].level, KEYS[name].trailing) == (FIELDS[name].level, FIELDS[name].trailing)


def test_text_is_no_key_of_a_batch() -> None:
    assert declared_level("source") is None and declared_level("info") is None


def test_neighbour_keys_are_declared() -> None:
    assert {key: KEYS[key].level.value for key in sorted(NEIGHBOR_KEYS)} == {
        "neighbor_list": "edge",
        "neighbor_list_shifts": "edge",
        "neighbor_matrix": "atom",
        "neighbor_matrix_shifts": "atom",
        "num_neighbors": "atom",
    }
    assert EDGE_INDEX_KEYS <= NEIGHBOR_KEYS


@pytest.mark.parametrize("level", list(Level))
def test_both_names_of_a_level_are_understood(level: Level) -> None:
    assert parse_level(level) is parse_level(level.value) is parse_level(LEVEL_NAMES[level]) is level


def test_what_is_no_level() -> None:
    with pytest.raises(BatchError, match=r"'graph' is no level; levels are 'atom', 'node', 'edge', 'system'\. Give one"):
        parse_level("graph")


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "n_rows", "expected"),
    [
        ("forces", (4, 3), torch.float32, 4, None),
        ("forces", (4, 3), torch.float64, None, None),
        ("forces", (4, 3), torch.int64, 4, "forces has dtype torch.int64; it must be float"),
        ("forces", (), torch.float32, 4, "forces has shape (); it must be (4 atoms, 3)"),
        ("forces", (4, 3), torch.float32, 5, "forces has shape (4, 3); it must be (5 atoms, 3)"),
        ("neighbor_matrix", (4, 17), torch.int32, 4, None),
        ("neighbor_matrix", (4,), torch.int32, 4, "neighbor_matrix has shape (4,); it must be (4 atoms, any)"),
        ("neighbor_list_shifts", (9, 3), torch.float32, None, None),
        ("neighbor_list_shifts", (9, 3), torch.bool, None, "neighbor_list_shifts has dtype torch.bool; it must be number"),
        ("pbc", (2, 3), torch.uint8, 2, "pbc has dtype torch.uint8; it must be bool"),
        ("error", (2, 192), torch.uint8, 2, None),
    ],
)
def test_complaints(name: str, shape: tuple[int, ...], dtype: torch.dtype, n_rows: int | None, expected: str | None) -> None:
    assert KEYS[name].complaint(name, shape, dtype, n_rows) == expected
