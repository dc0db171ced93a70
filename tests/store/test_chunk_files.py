"""Chunks of our own stores are read without Zarr's event loop, and what is wrong with a file is said with its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from campaign.dynamics.sinks import ZarrData
from campaign.errors import StoreDamagedError
from campaign.fields import CARRIED_FIELDS, FIELDS, INPUT_FIELDS, RESULT_FIELDS, STORE_FIELDS
from campaign.store import Chunking, StoreReader, write_store
from campaign.store.audit import audit_store
from campaign.store.chunk_codec import codec_of
from campaign.store.consolidation import run_consolidation
from campaign.store.consolidation_plan import InputIndex, ShardIndex, plan_consolidation
from campaign.store.gathering import open_chunks
from campaign.store.layout import field_array
from campaign.testing.sink_contract import example_batch
from campaign.testing.store_rows import made_up_columns

SIZES = np.array([3, 0, 2, 7, 1, 4, 4], dtype=np.int64)
SMALL = Chunking(2, 4, 8, 16)


@pytest.fixture
def no_zarr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if Zarr is asked for rows."""

    def refuse(array: zarr.Array, *_: object) -> None:
        pytest.fail(f"Zarr was asked for rows of {array.path}")

    monkeypatch.setattr(zarr.Array, "__getitem__", refuse)


def sink(folder: Path) -> Path:
    with ZarrData(folder / "sink.zarr") as data:
        data.write(example_batch([3, 5, 2]))
    return folder / "sink.zarr"


def inputs(folder: Path) -> Path:
    columns = made_up_columns(INPUT_FIELDS, SIZES, 0) | {"system_id": np.arange(len(SIZES))[:, None]}
    write_store(folder / "inputs.zarr", INPUT_FIELDS, SIZES, columns, chunking=SMALL)
    return folder / "inputs.zarr"


def shard(folder: Path) -> Path:
    columns = made_up_columns(RESULT_FIELDS, SIZES, 0) | {"system_id": np.arange(len(SIZES))[:, None]}
    write_store(folder / "shard.zarr", RESULT_FIELDS, SIZES, columns)
    return folder / "shard.zarr"


def published(folder: Path) -> Path:
    sources = {"inputs.zarr": inputs(folder), "shard.zarr": shard(folder)}
    index = ShardIndex("shard.zarr", np.arange(len(SIZES)), SIZES)
    plan = plan_consolidation(InputIndex("inputs.zarr", SIZES, np.zeros(len(SIZES), dtype=bool)), [index], STORE_FIELDS)
    run_consolidation(plan, sources, folder / "staging", folder / "store.zarr", STORE_FIELDS, CARRIED_FIELDS)
    return folder / "store.zarr"


@pytest.mark.usefixtures("no_zarr")
@pytest.mark.parametrize("make", [sink, inputs, shard, published])
def test_our_own_stores_are_read_without_zarr(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    reader = StoreReader.open(folder)
    paths = [field.path for field in reader.fields]
    assert any(path.startswith("labels/") for path in paths) == (make in (inputs, published))
    assert all(reader.chunk_codec(path) is not None for path in [*paths, "meta/atoms_ptr", "meta/samples_mask"])
    assert all(reader.check_file(path, 0) for path in paths)
    values = reader.read()
    assert values.keys() == {field.name for field in reader.fields}
    if make is not sink:
        source = made_up_columns(INPUT_FIELDS if make is inputs else RESULT_FIELDS, SIZES, 0)
        for name in ("positions", "source") if make is inputs else ("positions", "energy"):
            np.testing.assert_array_equal(values[name], source[name])
        assert audit_store(folder, reader.fields, "").findings == ()


def test_text_of_every_kind_comes_back() -> None:
    codec = codec_of(field_array(FIELDS["source"], SMALL))
    texts = np.array(["", "Å and 中文"], dtype=object)
    assert codec.decode(codec.encode(texts)).tolist() == texts.tolist()
    assert codec.decode(codec.encode(texts[1:])).tolist() == [texts[1], ""]
    assert codec.encode(texts) == codec.encode(texts.astype(np.dtypes.StringDType()))


def without_second_chunk(raw: bytes) -> bytes:
    codec = codec_of(field_array(FIELDS["positions"], SMALL))
    return codec.join(codec.split(raw)[:1])


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "0 bytes hold no index of 4 chunks"),
    "short": (lambda raw: raw[-20:], "20 bytes hold no index of 4 chunks"),
    "index": (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "its checksum is wrong"),
    "cut": (lambda raw: raw[9:], "its index names a chunk that is not within the file"),
    "absent": (without_second_chunk, "chunk 1 is not in it"),
    "chunk": (lambda raw: raw[:9] + bytes([raw[9] ^ 1]) + raw[10:], "its checksum is wrong"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_said_with_the_file_by_all_that_read(tmp_path: Path, damage: str) -> None:
    file = inputs(tmp_path) / "core/positions/c/0/0"
    change, text = DAMAGES[damage]
    file.write_bytes(change(file.read_bytes()))
    expected = f"core/positions/c/0/0 cannot be decoded: {text}. .*restore it"
    with pytest.raises(StoreDamagedError, match=expected):
        StoreReader.open(tmp_path / "inputs.zarr").read_atoms("positions", slice(None))
    array = open_chunks(str(tmp_path / "inputs.zarr"), "core/positions", "float64", (3,))
    assert array is not None
    with pytest.raises(StoreDamagedError, match=expected):
        array.head(8)
    with pytest.raises(StoreDamagedError, match=expected):
        [array.raw(number) for number in range(2)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    file = inputs(tmp_path) / "core/positions/c/0/0"
    file.unlink()
    array = open_chunks(str(tmp_path / "inputs.zarr"), "core/positions", "float64", (3,))
    assert array is not None
    with pytest.raises(StoreDamagedError, match="core/positions/c/0/0 is missing"):
        array.rows(0)
