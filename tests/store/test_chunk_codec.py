"""Chunks encoded here are read by zarr-python and the other way round, and damage is never decoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from campaign.errors import StoreDamagedError
from campaign.store.chunk_codec import ChunkCodec
from campaign.store.gathering import open_chunks

ROWS = 23
CHUNK = 4
COMPRESSIONS: list[dict[str, Any] | None] = [
    None,
    {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
    {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 8, "blocksize": 0}},
]


def document(compression: dict[str, Any] | None, per_file: int) -> dict[str, Any]:
    codecs: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        *([compression] if compression else []),
        {"name": "crc32c"},
    ]
    if per_file:
        inner = {
            "chunk_shape": [CHUNK, 3],
            "codecs": codecs,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [ROWS, 3],
        "data_type": "float64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK * max(per_file, 1), 3]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": codecs,
        "attributes": {},
        "storage_transformers": [],
    }


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=["plain", "zstd", "blosc"])
@pytest.mark.parametrize("per_file", [0, 1, 4])
def test_zarr_reads_what_is_written_here_and_the_other_way_round(tmp_path: Path, compression: dict[str, Any] | None, per_file: int) -> None:
    values = np.random.default_rng(0).normal(size=(ROWS, 3))
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for folder in (theirs, ours):
        (folder / "core/positions").mkdir(parents=True)
        (folder / "core/positions/zarr.json").write_text(json.dumps(document(compression, per_file)))
    zarr.open_array(theirs / "core/positions", mode="r+")[:] = values
    array = open_chunks(str(theirs), "core/positions", "float64", (3,))
    assert array is not None and (array.n_rows, array.codec.per_file) == (ROWS, per_file)
    np.testing.assert_array_equal(array.head(ROWS), values)
    chunks = array.codec.encode_all(values)
    for number in range(-(-len(chunks) // max(per_file, 1))):
        group = chunks[number * max(per_file, 1) :][: max(per_file, 1)]
        path = ours / f"core/positions/c/{number}/0"
        path.parent.mkdir(parents=True)
        path.write_bytes(array.codec.join(group))
        assert array.codec.split(path.read_bytes()) == group
    np.testing.assert_array_equal(zarr.open_array(ours / "core/positions", mode="r")[:], values)


def test_damage_is_never_decoded() -> None:
    codec = ChunkCodec.of(document(COMPRESSIONS[1], 4))
    assert codec is not None and codec == ChunkCodec("float64", (3,), CHUNK, 4, codec.compression)
    raw = codec.encode(np.ones((CHUNK, 3)))
    joined = codec.join([raw, raw])
    for position in range(0, len(joined), 3):
        damaged = bytearray(joined)
        damaged[position] ^= 8
        with pytest.raises(StoreDamagedError):
            codec.split(bytes(damaged))
    for cut in (raw[:-1], raw[1:], b"", raw[:3], replace(codec, chunk_rows=CHUNK + 1).encode(np.ones((1, 3)))):
        with pytest.raises(StoreDamagedError):
            codec.decode(cut)


@pytest.mark.parametrize("change", ["big", "gzip", "no checksum", "bytes alone", "bitshuffle", "index at the start", "compressed index"])
def test_other_codecs_are_left_to_zarr(change: str) -> None:
    blosc: dict[str, Any] = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 8, "blocksize": 0}
    changed = document({"name": "blosc", "configuration": blosc}, 4 if "index" in change else 0)
    if change == "big":
        changed["codecs"][0] = {"name": "bytes", "configuration": {"endian": "big"}}
    elif change == "gzip":
        changed["codecs"][1] = {"name": "gzip", "configuration": {"level": 1}}
    elif change == "no checksum":
        del changed["codecs"][2]
    elif change == "bytes alone":
        del changed["codecs"][1:]
    elif change == "index at the start":
        changed["codecs"][0]["configuration"]["index_location"] = "start"
    elif change == "compressed index":
        changed["codecs"][0]["configuration"]["index_codecs"].append({"name": "zstd", "configuration": {"level": 1}})
    else:
        changed["codecs"][1] = {"name": "blosc", "configuration": {**blosc, "shuffle": "bitshuffle"}}
    assert ChunkCodec.of(changed) is None
