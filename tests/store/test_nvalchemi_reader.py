"""nvalchemi-toolkit's own reader opens our shards and stores and gives the same numbers, and ours reads theirs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import campaign
from campaign.fields import RESULT_FIELDS, STORE_FIELDS, Field, Group, Level
from campaign.ingest import run_ingest
from campaign.spec import parse_spec
from campaign.store import Chunking, ShardWriter, StoreReader, write_store
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


SPEC = """
[campaign]
name = "theirs"
directory = "run"
[inputs]
paths = ["theirs.zarr"]
[model]
name = "emt"
"""


@pytest.fixture
def written(tmp_path: Path, theirs: Any) -> tuple[Any, Path, dict[str, Any]]:
    """A store as their writer makes it: written, then appended to, float32."""
    import torch
    from nvalchemi.data import AtomicData, Batch

    random = np.random.default_rng(5)
    sizes = random.integers(2, 9, 12)
    values: dict[str, Any] = {"sizes": sizes, "atomic_numbers": [], "positions": [], "energy": random.normal(size=12).astype(np.float32)}
    made = []
    for size, energy in zip(sizes, values["energy"], strict=True):
        values["atomic_numbers"].append(random.choice([29, 79], size))
        values["positions"].append((2.6 * np.arange(size)[:, None] * np.array([1.0, 0.1, 0.0])).astype(np.float32))
        made.append(
            AtomicData(
                atomic_numbers=torch.tensor(values["atomic_numbers"][-1]),
                positions=torch.tensor(values["positions"][-1]),
                energy=torch.tensor([[energy]]),
                cell=torch.eye(3)[None] * 40.0,
                pbc=torch.tensor([[False, False, True]]),
            )
        )
    writer = theirs.AtomicDataZarrWriter(tmp_path / "theirs.zarr")
    writer.write(Batch.from_data_list(made[:7]))
    writer.append(Batch.from_data_list(made[7:]))
    return writer, tmp_path / "theirs.zarr", values


def check_ours(path: Path, values: dict[str, Any], kept: list[int]) -> None:
    store = campaign.open(path)
    assert len(store) == len(kept)
    assert store.table["n_atoms"].compute().tolist() == values["sizes"][kept].tolist()
    np.testing.assert_array_equal(store.frame(["energy"])["energy"], values["energy"][kept])
    np.testing.assert_array_equal(store.array("positions").compute(), np.concatenate([values["positions"][row] for row in kept]))
    for at, row in enumerate(kept):
        np.testing.assert_array_equal(store[at].numbers, values["atomic_numbers"][row])
        assert store[at].pbc.tolist() == [False, False, True]
    np.testing.assert_array_equal(store[1:4][-1].positions, values["positions"][kept[3]])


def test_ours_reads_what_their_writer_wrote_deleted_and_defragmented(written: tuple[Any, Path, dict[str, Any]]) -> None:
    writer, path, values = written
    check_ours(path, values, list(range(12)))
    writer.delete([0, 4, 11])
    kept = [row for row in range(12) if row not in (0, 4, 11)]
    check_ours(path, values, kept)
    writer.defragment()
    check_ours(path, values, kept)
    writer.delete(list(range(9)))
    assert len(campaign.open(path)) == 0
    writer.defragment()
    assert len(campaign.open(path)) == 0


def test_their_stores_are_inputs_of_a_campaign(written: tuple[Any, Path, dict[str, Any]], tmp_path: Path) -> None:
    writer, _, values = written
    writer.delete([3])
    run_ingest(parse_spec(SPEC, tmp_path))
    kept = [row for row in range(12) if row != 3]
    inputs = StoreReader.open(tmp_path / "run" / "inputs.zarr")
    assert inputs.n_atoms().tolist() == values["sizes"][kept].tolist()
    np.testing.assert_array_equal(inputs.read_atoms("positions")[1], np.concatenate([values["positions"][row] for row in kept]))
    assert (inputs.read_system("outcome") == -1).all()
    assert inputs.read_system("pbc").tolist() == [[False, False, True]] * 11
