"""What a reader promises: committed rows, any order, lazily; and never wrong numbers from a damaged store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from campaign.errors import FieldError, StoreDamagedError, StoreError, StoreNotFoundError
from campaign.fields import FIELDS, INPUT_FIELDS, RESULT_FIELDS, Level
from campaign.store import FORMAT_VERSION, Chunking, ShardWriter, StoreReader, write_store
from campaign.testing.store_faults import FailingStore
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard

SIZES = np.array([3, 0, 2, 7, 1, 4, 4, 2, 5, 0, 6], dtype=np.int64)
COLUMNS = made_up_columns(INPUT_FIELDS, SIZES, 0)


@pytest.fixture(scope="module")
def stored() -> MemoryStore:
    store = MemoryStore()
    write_store(store, INPUT_FIELDS, SIZES, COLUMNS, chunking=Chunking(4, 8))
    return store


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    write_store(tmp_path / "s.zarr", RESULT_FIELDS, SIZES, made_up_columns(RESULT_FIELDS, SIZES, 0), chunking=Chunking(4, 8))
    return tmp_path / "s.zarr"


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.integers(0, len(SIZES) - 1), max_size=15))
def test_any_rows_in_any_order(stored: MemoryStore, rows: list[int]) -> None:
    reader = StoreReader.open(stored)
    twin = TwinShard(INPUT_FIELDS)
    twin.append(SIZES, COLUMNS)
    values = reader.read(rows)
    counts, positions = reader.read_atoms("positions", rows)
    assert counts.tolist() == SIZES[rows].tolist() == reader.n_atoms(rows).tolist()
    np.testing.assert_array_equal(positions, values["positions"])
    for field in INPUT_FIELDS:
        expected = [twin.rows[row][field.name] for row in rows]
        joined = np.concatenate(expected) if field.level is Level.ATOM and rows else np.array(expected, dtype=values[field.name].dtype)
        np.testing.assert_array_equal(values[field.name], joined.reshape(values[field.name].shape), err_msg=field.name)


@pytest.mark.parametrize("rows", [slice(None), slice(2, 5), slice(-3, None), slice(8, 2, -2), slice(50, 60)])
def test_slices_mean_what_they_mean_in_python(stored: MemoryStore, rows: slice) -> None:
    ids = StoreReader.open(stored).read_system("system_id", rows)
    np.testing.assert_array_equal(ids, COLUMNS["system_id"][rows])


def test_positions_beyond_the_end_are_refused(stored: MemoryStore) -> None:
    for row in (-1, 11):
        with pytest.raises(IndexError, match=f"system {row} was asked of .*, which has 11"):
            StoreReader.open(stored).read_system("frame", [row])


def test_unknown_fields_and_wrong_levels_name_those_there_are(stored: MemoryStore) -> None:
    reader = StoreReader.open(stored)
    with pytest.raises(FieldError, match=r"no field 'energy'\. It has atomic_numbers, positions, .*Ask for one of these"):
        reader.read(names=["energy"])
    with pytest.raises(FieldError, match=r"no field 'positions' per system\. It has cell, pbc"):
        reader.read_system("positions")
    with pytest.raises(FieldError, match="no field 'cell' per atom"):
        reader.read_atoms("cell")


def test_opening_and_asking_for_sizes_reads_no_field() -> None:
    class Counting(FailingStore):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.read: list[str] = []

        async def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
            self.read.append(key)
            return await self._store.get(key, *args, **kwargs)

    inner = MemoryStore()
    write_store(inner, INPUT_FIELDS, SIZES, COLUMNS, chunking=Chunking(4, 8))
    store = Counting(inner)
    reader = StoreReader.open(store)
    assert reader.n_systems == 11 and store.read == ["zarr.json"]
    reader.n_atoms()
    assert not [key for key in store.read if "/c/" in key and not key.startswith("meta/atoms_ptr/")]
    store.read.clear()
    reader.read_system("frame", [5, 4, 6, 5])
    assert [key for key in store.read if "/c/" in key] == ["custom/frame/c/1/0"]


def test_rows_behind_the_committed_ones_are_invisible(tmp_path: Path) -> None:
    writer = ShardWriter.create(tmp_path / "s", [FIELDS["energy"], FIELDS["positions"]], flush_s=3600)
    writer.append(np.array([1]), {"energy": np.array([[1.0]]), "positions": np.ones((1, 3))})
    writer.flush()
    before = StoreReader.open(tmp_path / "s")
    root = (tmp_path / "s/zarr.json").read_bytes()
    writer.append(np.array([2]), {"energy": np.array([[2.0]]), "positions": np.ones((2, 3))})
    writer.close()
    # As after a kill just before the root document is replaced.
    (tmp_path / "s/zarr.json").write_bytes(root)
    for reader in (before, StoreReader.open(tmp_path / "s")):
        assert reader.n_systems == 1
        assert reader.atoms_ptr.tolist() == [0, 1]
        assert {name: len(values) for name, values in reader.read().items()} == {"energy": 1, "positions": 1}


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"there is no store at .*nowhere.zarr. Give the folder"):
        StoreReader.open(tmp_path / "nowhere.zarr")
    with pytest.raises(StoreNotFoundError, match="holds no store"):
        StoreReader.open(tmp_path)
    with pytest.raises(StoreNotFoundError, match="holds no store"):
        StoreReader.open(MemoryStore())
    with pytest.raises(StoreError, match=r"'ftp://x/y'.*begin with s3:// or gs://"):
        StoreReader.open("ftp://x/y")


def test_a_store_of_a_newer_release_is_refused(on_disk: Path) -> None:
    root = json.loads((on_disk / "zarr.json").read_text())
    root["attributes"]["format_version"] = 99
    root["attributes"].pop("checksum")
    (on_disk / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match=rf"format_version 99; this release reads 1 to {FORMAT_VERSION}\. Install a newer"):
        StoreReader.open(on_disk)


def edit_root(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        root = json.loads((folder / "zarr.json").read_text())
        change(root["attributes"])
        # As in stores of the first releases; else the checksum is what is seen.
        root["attributes"].pop("checksum")
        (folder / "zarr.json").write_text(json.dumps(root))
        return "zarr.json"

    return damage


def edit_file(name: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        changed = change((folder / name).read_bytes())
        if changed is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(changed)
        return name

    return damage


def flip(at: int) -> Callable[[bytes], bytes]:
    def flipped(raw: bytes) -> bytes:
        changed = bytearray(raw)
        changed[at % len(raw)] ^= 0x10
        return bytes(changed)

    return flipped


DAMAGES = {
    "chunk cut": edit_file("core/positions/c/1/0", lambda raw: raw[: len(raw) // 2]),
    "chunk empty": edit_file("core/positions/c/1/0", lambda raw: b""),
    "chunk missing": edit_file("core/positions/c/1/0", lambda raw: None),
    "first bit": edit_file("core/positions/c/1/0", flip(0)),
    "middle bit": edit_file("core/positions/c/1/0", flip(60)),
    "bit in the checksum": edit_file("core/positions/c/1/0", flip(-2)),
    "chunk of another place": lambda folder: (
        shutil.copy(folder / "meta/atoms_mask/c/0", folder / "core/positions/c/1/0"),
        "core/positions/c/1/0",
    )[1],
    "zeros of the right length": edit_file("core/energy/c/0/0", lambda raw: bytes(len(raw))),
    "document missing": edit_file("core/energy/zarr.json", lambda raw: None),
    "document cut": edit_file("core/energy/zarr.json", lambda raw: raw[:-20]),
    "pointer bit": edit_file("meta/atoms_ptr/c/0", flip(20)),
    "root cut": edit_file("zarr.json", lambda raw: raw[:-20]),
    "more systems than rows": edit_root(lambda attributes: attributes.update(num_samples=12)),
    "negative number of systems": edit_root(lambda attributes: attributes.update(num_samples=-1)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_an_error_that_names_the_file_and_never_numbers(on_disk: Path, damage: Callable[[Path], str]) -> None:
    name = damage(on_disk)
    with pytest.raises(StoreDamagedError) as caught:
        StoreReader.open(on_disk).read()
    text = str(caught.value)
    assert str(on_disk) in text
    assert name in text or name == "zarr.json"
    assert "estore" in text


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_single_bit_of_any_file_is_seen(data: st.DataObject) -> None:
    """Flip a bit anywhere: either all numbers are still right, or it is an error of ours."""
    store = MemoryStore()
    sizes = np.array([2, 0, 3])
    columns = made_up_columns(RESULT_FIELDS, sizes, 0)
    write_store(store, RESULT_FIELDS, sizes, columns, chunking=Chunking(2, 4))
    files = store._store_dict
    key = data.draw(st.sampled_from(sorted(key for key in files if "/c/" in key)))
    raw = bytearray(files[key].to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    files[key] = zarr.core.buffer.cpu.Buffer.from_bytes(bytes(raw))
    try:
        values = StoreReader.open(store).read()
    except StoreDamagedError as error:
        assert key in str(error)
        return
    assert key.startswith("meta/") and not key.startswith("meta/atoms_ptr")
    for name, column in columns.items():
        np.testing.assert_array_equal(values[name], column)


def test_a_file_that_may_not_be_read_is_no_damage(on_disk: Path) -> None:
    chunk = on_disk / "core/energy/c/0/0"
    chunk.unlink()
    chunk.symlink_to(chunk.name)
    with pytest.raises(StoreError, match=r"core/energy.*Check that the place can be reached") as caught:
        StoreReader.open(on_disk).read_system("energy")
    assert not isinstance(caught.value, StoreDamagedError)


def test_stores_of_other_programs_with_deleted_rows_and_edges(tmp_path: Path) -> None:
    """Laid out as nvalchemi-toolkit does it: float32, chunks of zeros left out, deletion masks, edges."""
    root = zarr.open_group(tmp_path / "foreign.zarr", mode="w")
    meta, core, custom = (root.create_group(name) for name in ("meta", "core", "custom"))
    ptr = np.array([0, 2, 5, 6])
    for name, values in {
        "atoms_ptr": ptr,
        "edges_ptr": np.array([0, 1, 1, 1]),
        "samples_mask": np.array([True, False, True]),
        "atoms_mask": np.ones(6, dtype=bool),
        "edges_mask": np.ones(1, dtype=bool),
    }.items():
        meta.create_array(name, data=values)
    positions = np.arange(18, dtype=np.float32).reshape(6, 3)
    core.create_array("positions", data=positions)
    core.create_array("energy", data=np.zeros((3, 1)))
    core.create_array("neighbor_list", data=np.zeros((1, 2), dtype=np.int64))
    custom.create_array("label_of_theirs", data=np.arange(3)[:, None])
    root.attrs["num_samples"] = 3
    root.attrs["fields"] = {
        "core": {"positions": "atom", "energy": "system", "neighbor_list": "edge"},
        "custom": {"label_of_theirs": "system"},
    }
    reader = StoreReader.open(tmp_path / "foreign.zarr")
    assert reader.n_systems == 2
    assert [field.name for field in reader.fields] == ["positions", "energy", "label_of_theirs"]
    counts, values = reader.read_atoms("positions")
    assert counts.tolist() == [2, 1]
    np.testing.assert_array_equal(values, positions[[0, 1, 5]])
    assert reader.read_system("label_of_theirs").tolist() == [[0], [2]]
    assert reader.read_system("energy").tolist() == [[0.0], [0.0]]
    with pytest.raises(StoreError, match=r"deleted systems.*Use n_atoms and read_atoms"):
        _ = reader.atoms_ptr
