"""Our encoding of chunks and files, against zarr-python: it reads what we encode, and its chunks have our bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, StorePath

from campaign.fields import INPUT_FIELDS, RESULT_FIELDS, Field
from campaign.store.arrays import GrowingArray
from campaign.store.chunk_codec import codec_of
from campaign.store.layout import Chunking, field_array
from campaign.store.targets import encode_document
from campaign.testing.store_rows import made_up_columns

EVERY_FIELD = {field.name: field for field in (*RESULT_FIELDS, *INPUT_FIELDS)}


def rows_of(field: Field, count: int) -> NDArray[Any]:
    column = made_up_columns([field], np.ones(count, dtype=np.int64), 3)[field.name]
    return column.astype(np.dtypes.StringDType()) if field.dtype == "string" else column


@pytest.mark.parametrize("name", EVERY_FIELD)
def test_a_growing_file_is_read_by_zarr_after_each_step(tmp_path: Path, name: str) -> None:
    spec = field_array(EVERY_FIELD[name], Chunking(3, 3, 12, 12))
    rows = rows_of(EVERY_FIELD[name], 40)
    array, done = GrowingArray(spec), 0
    for count in (1, 2, 3, 5, 12, 13, 40):
        for key, data in array.extend([rows[done:count]]).items():
            (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / key).write_bytes(data)
        done = count
        (tmp_path / spec.path / "zarr.json").write_bytes(encode_document(spec.document(count)))
        found = np.asarray(zarr.open_array(tmp_path / spec.path, mode="r")[:])
        np.testing.assert_array_equal(found.astype(rows.dtype), rows[:count])
        last = spec.chunk_key((count - 1) // 12)
        assert array.unfinished_bytes == (0 if count == 12 else (tmp_path / last).stat().st_size)


@pytest.mark.parametrize("name", ["positions", "atomic_numbers", "pbc", "error", "source"])
def test_chunks_have_the_bytes_that_zarr_gives_them(tmp_path: Path, name: str) -> None:
    spec = field_array(EVERY_FIELD[name], Chunking(30, 30))
    rows = rows_of(EVERY_FIELD[name], 90)
    theirs = zarr.Array.from_dict(StorePath(LocalStore(tmp_path), spec.path), spec.document(90))
    theirs[:] = rows
    ours = codec_of(spec).encode_all(rows)
    assert [(tmp_path / spec.chunk_key(number)).read_bytes() for number in range(3)] == ours


def test_nothing_is_written_where_nothing_is_added() -> None:
    array = GrowingArray(field_array(EVERY_FIELD["energy"], Chunking(3, 3)))
    assert array.extend([rows_of(EVERY_FIELD["energy"], 0)]) == array.begin() == {}
