"""nvalchemi-toolkit's own reader opens our shards and stores and gives the same numbers; `make install` brings the package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign.fields import RESULT_FIELDS, STORE_FIELDS, Field, Group, Level
from campaign.store import Chunking, ShardWriter, write_store
from campaign.testing.store_rows import made_up_columns, slice_columns

SIZES = np.random.default_rng(1).integers(1, 9, 30)


@pytest.fixture(scope="module")
def theirs() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what importing it says is not about us
        from nvalchemi.data.datapipes.backends import zarr

    return zarr


def columns_of(fields: tuple[Field, ...]) -> dict[str, Any]:
    columns = made_up_columns(fields, SIZES, 0)
    columns["atomic_numbers"] = np.random.default_rng(2).integers(1, 90, SIZES.sum())
    return columns


def check(reader: Any, fields: tuple[Field, ...], columns: dict[str, Any], n_systems: int) -> None:
    assert len(reader) == n_systems
    numbers = [field for field in fields if field.group is not Group.LABELS]
    assert reader.field_levels == {field.name: field.level for field in numbers}
    for system in range(n_systems):
        data, _ = reader[system]
        _, expected = slice_columns(fields, SIZES, columns, system, system + 1)
        assert set(data) == {field.name for field in numbers}
        for field in numbers:
            np.testing.assert_array_equal(data[field.name].numpy(), expected[field.name])


def test_a_growing_shard(tmp_path: Path, theirs: Any) -> None:
    columns = columns_of(RESULT_FIELDS)
    with ShardWriter.create(tmp_path / "s.zarr", RESULT_FIELDS, chunking=Chunking(8, 32)) as writer:
        reader = theirs.AtomicDataZarrReader(tmp_path / "s.zarr")
        for start in range(0, len(SIZES), 6):
            writer.append(*slice_columns(RESULT_FIELDS, SIZES, columns, start, start + 6))
            writer.flush()
            reader.refresh()
            check(reader, RESULT_FIELDS, columns, start + 6)


def test_a_whole_store_with_output_shards_and_labels(tmp_path: Path, theirs: Any) -> None:
    columns = columns_of(STORE_FIELDS)
    write_store(tmp_path / "s.zarr", STORE_FIELDS, SIZES, columns, chunking=Chunking(4, 16, 8, 64))
    check(theirs.AtomicDataZarrReader(tmp_path / "s.zarr"), STORE_FIELDS, columns, len(SIZES))


def test_rows_become_their_structures(tmp_path: Path, theirs: Any) -> None:
    from nvalchemi.data import Batch
    from nvalchemi.data.datapipes.dataset import Dataset

    columns = columns_of(RESULT_FIELDS)
    write_store(tmp_path / "s.zarr", RESULT_FIELDS, SIZES, columns)
    dataset = Dataset(theirs.AtomicDataZarrReader(tmp_path / "s.zarr"))
    batch = Batch.from_data_list([dataset[system][0] for system in range(5)])
    assert batch.num_graphs == 5
    atoms = [field for field in RESULT_FIELDS if field.level is Level.ATOM]
    for field in atoms:
        np.testing.assert_array_equal(batch[field.name].numpy(), columns[field.name][: SIZES[:5].sum()])
    np.testing.assert_array_equal(batch["energy"].numpy(), columns["energy"][:5])
