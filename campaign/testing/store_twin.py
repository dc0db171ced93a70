"""Stores too simple to be wrong: lists of rows in memory, against which the real ones are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from campaign.fields import Field, Level
from campaign.store.reader import StoreReader

Row = dict[str, NDArray[Any]]
"""One system: a row of each field per system, all rows of each field per atom."""


@dataclass
class TwinShard:
    """A shard as a list of rows, and how many of them the writer has acknowledged as durable."""

    fields: tuple[Field, ...]
    rows: list[Row] = field(default_factory=list)
    n_acknowledged: int = 0

    def append(self, n_atoms: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
        """Add systems one by one."""
        start = 0
        for position, count in enumerate(n_atoms.tolist()):
            row = {}
            for each in self.fields:
                column = columns[each.name]
                row[each.name] = (
                    np.array(column[position], dtype=column.dtype) if each.level is Level.SYSTEM else column[start : start + count].copy()
                )
            self.rows.append(row)
            start += count

    def acknowledge(self) -> None:
        """Say that a flush returned."""
        self.n_acknowledged = len(self.rows)

    def check(self, reader: StoreReader) -> None:
        """Compare with what a reader sees: at least what was acknowledged, at most what was appended, and the right numbers.

        Raises:
            AssertionError: otherwise.
        """
        if not self.n_acknowledged <= reader.n_systems <= len(self.rows):
            raise AssertionError(f"{reader.n_systems} systems are visible; {self.n_acknowledged} to {len(self.rows)} may be")
        compare_rows(reader, self.rows[: reader.n_systems])


def consolidated_rows(shards: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Return what consolidation must give: rows by `system_id`, of several for one system that of the first shard, there the first."""
    chosen: dict[int, Row] = {}
    for name in sorted(shards):
        for row in shards[name]:
            chosen.setdefault(int(row["system_id"][0]), row)
    return [chosen[system_id] for system_id in sorted(chosen)]


def compare_rows(reader: StoreReader, rows: Sequence[Row]) -> None:
    """Compare all that a reader reads with rows, field by field, bit by bit; fields that the rows lack are left out.

    Raises:
        AssertionError: something differs.
    """
    if reader.n_systems != len(rows):
        raise AssertionError(f"{reader.n_systems} systems are there; {len(rows)} are expected")
    for each in reader.fields:
        if rows and each.name not in rows[0]:
            continue
        expected = [row[each.name] for row in rows]
        if each.level is Level.SYSTEM:
            values = reader.read_system(each.name)
            for position, one in enumerate(expected):
                np.testing.assert_array_equal(values[position], one, err_msg=f"{each.name} of row {position}")
        else:
            counts, values = reader.read_atoms(each.name)
            if counts.tolist() != [len(one) for one in expected]:
                raise AssertionError(f"{each.name} has {counts.tolist()} atoms; {[len(one) for one in expected]} are expected")
            if expected:
                np.testing.assert_array_equal(values, np.concatenate(expected), err_msg=each.name)
