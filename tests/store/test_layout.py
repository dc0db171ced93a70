"""The layout: what other readers find, and numbers of chunks that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from campaign.errors import StoreError
from campaign.fields import STORE_FIELDS
from campaign.store import FORMAT_VERSION, Chunking, write_store
from campaign.testing.store_rows import made_up_columns

SIZES = np.array([3, 0, 2], dtype=np.int64)


def test_any_zarr_reader_finds_groups_arrays_and_attributes(tmp_path: Path) -> None:
    columns = made_up_columns(STORE_FIELDS, SIZES, 0)
    write_store(tmp_path / "s", STORE_FIELDS, SIZES, columns, {"note": 1})
    root = zarr.open_group(tmp_path / "s", mode="r")
    assert sorted(name for name, _ in root.groups()) == ["core", "custom", "labels", "meta"]
    assert {name: (array.shape, str(array.dtype)) for name, array in zarr.open_group(tmp_path / "s/meta", mode="r").arrays()} == {
        "atoms_ptr": ((4,), "int64"),
        "edges_ptr": ((4,), "int64"),
        "samples_mask": ((3,), "bool"),
        "atoms_mask": ((5,), "bool"),
        "edges_mask": ((0,), "bool"),
    }
    assert np.asarray(root["meta/atoms_ptr"][:]).tolist() == [0, 3, 3, 5]
    assert not np.any(root["meta/edges_ptr"][:])
    assert np.all(root["meta/samples_mask"][:]) and np.all(root["meta/atoms_mask"][:])
    for field in STORE_FIELDS:
        np.testing.assert_array_equal(np.asarray(root[field.path][:]), columns[field.name])
    listed = root.attrs["fields"]
    assert {**listed["core"], **listed["custom"], **root.attrs["labels"]} == {field.name: field.level for field in STORE_FIELDS}
    assert not {"source", "info"} & (listed["core"].keys() | listed["custom"].keys())
    assert (root.attrs["format"], root.attrs["format_version"], root.attrs["num_samples"], root.attrs["note"]) == (
        "relax-campaign/csr",
        FORMAT_VERSION,
        3,
        1,
    )


def test_every_chunk_is_compressed_and_has_a_checksum(tmp_path: Path) -> None:
    write_store(tmp_path / "s", STORE_FIELDS, SIZES, made_up_columns(STORE_FIELDS, SIZES, 0))
    root = zarr.open_group(tmp_path / "s", mode="r")
    for field in STORE_FIELDS:
        assert [type(codec).__name__ for codec in root[field.path].compressors] == ["BloscCodec", "Crc32cCodec"]


@pytest.mark.parametrize(("rows", "shard_rows"), [(4, 6), (0, 0)])
def test_output_shards_are_whole_numbers_of_chunks(rows: int, shard_rows: int) -> None:
    with pytest.raises(StoreError, match=f"chunks of {rows} rows in output shards of {shard_rows} rows do not fit"):
        Chunking(rows, 8, shard_rows, 0)
