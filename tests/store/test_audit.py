"""An audit decodes everything and names everything that is wrong, each thing once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign.fields import FIELDS, RESULT_FIELDS
from campaign.store import Chunking, ShardWriter, StoreReader, write_store
from campaign.store.audit import Finding, audit_store
from campaign.store.chunk_codec import ChunkCodec
from campaign.testing.store_rows import made_up_columns

SIZES = np.array([3, 0, 2, 7, 1, 4, 4, 2, 5], dtype=np.int64)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "s.zarr", RESULT_FIELDS, SIZES, made_up_columns(RESULT_FIELDS, SIZES, 0), chunking=Chunking(4, 8))
    return tmp_path / "s.zarr"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def test_a_sound_store_is_decoded_whole(store: Path) -> None:
    audit = audit_store(store, RESULT_FIELDS, "")
    columns = made_up_columns(RESULT_FIELDS, SIZES, 0)
    pointers_and_masks = 2 * 8 * 10 + 9 + 28
    assert audit.findings == ()
    assert audit.n_systems == 9
    assert audit.n_bytes == sum(column.nbytes for column in columns.values()) + pointers_and_masks


def test_each_damaged_file_is_named_once(store: Path) -> None:
    for name in ("core/forces/c/1/0", "core/forces/c/3/0", "custom/error/c/2/0", "meta/edges_ptr/c/1"):
        cut(store / name)
    (store / "core/energy/c/0/0").unlink()
    findings = audit_store(store, RESULT_FIELDS, "Do this.").findings
    seen = sorted(next(part for part in finding.what.split() if "/c/" in part).removeprefix(f"{store}/") for finding in findings)
    assert seen == ["core/energy/c/0/0", "core/forces/c/1/0", "core/forces/c/3/0", "custom/error/c/2/0", "meta/edges_ptr/c/1"]
    assert {finding.advice for finding in findings} == {"Do this."}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    document["attributes"].pop("checksum")  # as in stores of the first releases; else that is what is seen
    path.write_text(json.dumps(document))


def test_arrays_that_are_not_as_declared(store: Path) -> None:
    edit(store / "core/stress/zarr.json", lambda document: document.update(shape=[8, 3, 3]))
    edit(store / "core/cell/zarr.json", lambda document: document.update(data_type="int64", fill_value=0))
    (store / "core/pbc/zarr.json").unlink()
    findings = [str(finding) for finding in audit_store(store, RESULT_FIELDS, "").findings]
    assert any("core/stress" in text and "It has 8 rows; 9 are committed" in text for text in findings)
    assert any("core/cell" in text and "Rows are int64[3, 3]; float64[3, 3] is declared" in text for text in findings)
    assert any("core/pbc/zarr.json is missing" in text for text in findings)
    assert len(findings) == 3


def test_fields_that_are_missing_or_do_not_belong(store: Path) -> None:
    fields = [*(field for field in RESULT_FIELDS if field.name != "energy"), FIELDS["tags"]]
    assert [finding.what for finding in audit_store(store, fields, "").findings] == [
        "The field 'tags' is missing.",
        "The field 'energy' does not belong here.",
    ]


def test_rows_marked_as_deleted(store: Path) -> None:
    import zarr

    zarr.open_array(store / "meta/samples_mask", mode="r+")[2] = False
    assert [finding.what for finding in audit_store(store, RESULT_FIELDS, "").findings] == [
        "Rows are marked as deleted; nothing of ours deletes rows."
    ]


def test_pointers_that_do_not_add_up_do_not_hide_the_rest(store: Path) -> None:
    import zarr

    zarr.open_array(store / "meta/atoms_ptr", mode="r+")[3] = 1
    cut(store / "core/forces/c/0/0")
    texts = [str(finding) for finding in audit_store(store, RESULT_FIELDS, "").findings]
    assert any("falls from 3 to 1" in text for text in texts)
    assert any("core/forces/c/0/0" in text for text in texts)


def test_no_store_at_all(tmp_path: Path) -> None:
    audit = audit_store(tmp_path / "nowhere", RESULT_FIELDS, "Run it.")
    assert audit.n_systems == 0
    assert [(finding.where, finding.advice) for finding in audit.findings] == [(str(tmp_path / "nowhere"), "Run it.")]
    assert "there is no store" in str(audit.findings[0])


def test_a_shard_that_is_being_written_is_sound(tmp_path: Path) -> None:
    with ShardWriter.create(tmp_path / "s", RESULT_FIELDS, flush_s=3600, chunking=Chunking(4, 8)) as writer:
        for seed in range(3):
            assert audit_store(tmp_path / "s", RESULT_FIELDS, "").findings == ()
            writer.append(SIZES, made_up_columns(RESULT_FIELDS, SIZES, seed))
            writer.flush()


def test_a_finding_reads_as_one_sentence_after_the_other() -> None:
    assert str(Finding("It is wrong.", "here", "Mend it.")) == "here: It is wrong. Mend it."


def test_chunks_behind_the_last_row_of_an_output_shard_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "s.zarr"
    write_store(folder, RESULT_FIELDS, SIZES, made_up_columns(RESULT_FIELDS, SIZES, 0), chunking=Chunking(4, 8, 8, 64))
    assert audit_store(folder, RESULT_FIELDS, "").findings == ()
    file = folder / "core/energy/c/1/0"  # row 8 in its first chunk; a second one would hold nothing but padding
    codec = ChunkCodec.of(json.loads((folder / "core/energy/zarr.json").read_text()))
    assert codec is not None
    chunks = [*codec.split(file.read_bytes()), codec.encode(np.zeros((4, 1)))]
    file.write_bytes(codec.join(chunks))
    assert audit_store(folder, RESULT_FIELDS, "").findings == ()
    file.write_bytes(codec.join([chunks[0], bytes([chunks[1][0] ^ 1]) + chunks[1][1:]]))
    assert len(StoreReader.open(folder).read_system("energy")) == 9
    (finding,) = audit_store(folder, RESULT_FIELDS, "").findings
    assert "core/energy/c/1/0 cannot be decoded: its checksum is wrong" in finding.what


def test_the_index_of_an_output_shard_is_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "s.zarr"
    write_store(folder, RESULT_FIELDS, SIZES, made_up_columns(RESULT_FIELDS, SIZES, 0), chunking=Chunking(4, 8, 8, 64))
    file = folder / "core/forces/c/0/0"
    raw = bytearray(file.read_bytes())
    raw[-12] ^= 1
    file.write_bytes(raw)
    assert ["core/forces/c/0/0 cannot be decoded" in finding.what for finding in audit_store(folder, RESULT_FIELDS, "").findings] == [True]


def test_a_document_of_a_group_that_others_need(store: Path) -> None:
    cut(store / "custom/zarr.json")
    (store / "meta/zarr.json").unlink()
    texts = [finding.what for finding in audit_store(store, RESULT_FIELDS, "").findings]
    assert len(texts) == 2 and "meta/zarr.json is missing" in texts[0] and "custom/zarr.json is no JSON" in texts[1]


def test_it_tells_how_far_it_is(store: Path) -> None:
    told: list[tuple[int, int]] = []
    audit_store(store, RESULT_FIELDS, "", lambda n_done, n_total: told.append((n_done, n_total)))
    assert told == [(at + 1, len(told)) for at in range(len(told))] and len(told) > len(RESULT_FIELDS)
