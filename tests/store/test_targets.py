"""Stores behind URLs, on a real S3 server on loopback, and errors of places that cannot be reached."""

from __future__ import annotations

import numpy as np
import pytest

import campaign
from campaign.errors import StoreDamagedError, StoreError, StoreExistsError, StoreNotFoundError
from campaign.fields import RESULT_FIELDS
from campaign.store import Chunking, ShardWriter, StoreReader, write_store
from campaign.store.digest import digest
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard

SIZES = np.array([3, 0, 2, 7], dtype=np.int64)


def test_a_shard_on_s3_is_written_and_read_like_any_other(s3_bucket: str) -> None:
    target = f"{s3_bucket}/run 1/shard.zarr"
    twin = TwinShard(RESULT_FIELDS)
    with ShardWriter.create(target, RESULT_FIELDS, {"job": 3}, chunking=Chunking(4, 8)) as writer:
        for seed in range(3):
            columns = made_up_columns(RESULT_FIELDS, SIZES, seed)
            writer.append(SIZES, columns)
            twin.append(SIZES, columns)
            writer.flush()
            twin.acknowledge()
            twin.check(StoreReader.open(target))
    assert StoreReader.open(target).attributes["job"] == 3
    with pytest.raises(StoreExistsError, match="something is there"):
        ShardWriter.create(target, RESULT_FIELDS)
    with pytest.raises(StoreNotFoundError, match="holds no store"):
        StoreReader.open(f"{s3_bucket}/run 2/shard.zarr")


def test_a_view_of_a_store_on_s3(s3_bucket: str) -> None:
    columns = made_up_columns(RESULT_FIELDS, SIZES, 0)
    columns["atomic_numbers"] %= 90
    columns["atomic_numbers"] += 1
    write_store(f"{s3_bucket}/s.zarr", RESULT_FIELDS, SIZES, columns, chunking=Chunking(4, 8, 8, 16))
    view = campaign.open(f"{s3_bucket}/s.zarr")
    np.testing.assert_array_equal(view.frame(["energy"])["energy"], columns["energy"][:, 0])
    np.testing.assert_array_equal(view.array("forces").compute(), columns["forces"])
    np.testing.assert_array_equal(view[2:][1].positions, columns["positions"][SIZES[:3].sum() : SIZES[:4].sum()])
    np.testing.assert_array_equal(view.dataset["fmax"].values, columns["fmax"][:, 0])


def test_a_missing_object_is_damage(s3_bucket: str) -> None:
    from obstore.store import from_url

    target = f"{s3_bucket}/s.zarr"
    write_store(target, RESULT_FIELDS, SIZES, made_up_columns(RESULT_FIELDS, SIZES, 0))
    assert digest(target)
    from_url(target).delete("core/energy/c/0/0")
    with pytest.raises(StoreDamagedError, match=r"/s\.zarr/core/energy/c/0/0 is missing"):
        StoreReader.open(target).read_system("energy")


def test_a_server_that_is_not_there_is_one_clear_error(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        StoreError, match=r"^opening s3://test-\w+/s\.zarr: GenericError: .*127\.0\.0\.1:9.* Check the place and its credentials\.$"
    ):
        StoreReader.open(f"{s3_bucket}/s.zarr")


def test_google_urls_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import ObjectStore

    from campaign.store.targets import describe, is_url, open_target

    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert is_url("gs://bucket/s.zarr")
    assert isinstance(open_target("gs://bucket/s.zarr"), ObjectStore)
    assert describe("gs://bucket/s.zarr") == "gs://bucket/s.zarr"
