"""Stores of every format version are kept in `data/`, with what they hold; today's reader reads them all.

Run this file as a script to make the sample of the current version; it refuses if there is one: a released format never changes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from campaign.fields import FIELDS, INPUT_FIELDS, RESULT_FIELDS
from campaign.store import FORMAT_VERSION, Chunking, ShardWriter, StoreReader, write_store
from campaign.store.audit import audit_store
from campaign.testing.store_rows import made_up_columns, slice_columns

DATA = Path(__file__).parent / "data"
SIZES = np.array([3, 0, 2, 7, 1], dtype=np.int64)
SAMPLES = {"shard.zarr": RESULT_FIELDS, "inputs.zarr": INPUT_FIELDS}


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize("name", SAMPLES)
def test_every_version_is_read(version: int, name: str) -> None:
    folder = DATA / f"v{version}"
    reader = StoreReader.open(folder / name)
    assert reader.attributes["format_version"] == version
    with np.load(folder / f"{name}.npz", allow_pickle=False) as expected:
        assert sorted(field.name for field in reader.fields) == sorted(set(expected.files) - {"n_atoms"})
        np.testing.assert_array_equal(reader.n_atoms(), expected["n_atoms"])
        for key, values in reader.read().items():
            np.testing.assert_array_equal(values.astype(expected[key].dtype), expected[key], err_msg=key)
            assert FIELDS[key].trailing == values.shape[1:]


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize("name", SAMPLES)
def test_every_version_is_sound_as_what_it_is(version: int, name: str) -> None:
    assert audit_store(DATA / f"v{version}" / name, SAMPLES[name], "").findings == ()


def make_sample(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, (name, fields) in enumerate(SAMPLES.items()):
        columns = made_up_columns(fields, SIZES, seed)
        np.savez_compressed(
            folder / f"{name}.npz",
            n_atoms=SIZES,
            **{key: values.astype(str) if values.dtype == object else values for key, values in columns.items()},
        )
        if name == "inputs.zarr":
            write_store(folder / name, fields, SIZES, columns, {"note": "Å"}, Chunking(4, 8, 8, 16))
            continue
        with ShardWriter.create(folder / name, fields, {"job": 1}, chunking=Chunking(4, 8)) as writer:
            for start, stop in ((0, 2), (2, 5)):
                writer.append(*slice_columns(fields, SIZES, columns, start, stop))
                writer.flush()


if __name__ == "__main__":
    place = DATA / f"v{FORMAT_VERSION}"
    if place.exists():
        sys.exit(f"{place} is there; a released format never changes. Raise FORMAT_VERSION first.")
    make_sample(place)
