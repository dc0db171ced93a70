"""Stores behind URLs, on a real S3 server on loopback, and errors of places that cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

import campaign
from campaign.errors import StoreDamagedError, StoreError, StoreExistsError, StoreNotFoundError
from campaign.fields import RESULT_FIELDS
from campaign.store import Chunking, ShardWriter, StoreReader, write_store
from campaign.store.digest import digest
from campaign.testing.store_rows import made_up_columns
from campaign.testing.store_twin import TwinShard

SIZES = np.array([3, 0, 2, 7], dtype=np.int64)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket; the environment tells obstore where it is."""
    import urllib.request

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():
        monkeypatch.setenv(name, value)
    with urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")):
        pass
    with urllib.request.urlopen(urllib.request.Request(f"{server}/results", method="PUT")):
        pass
    return "s3://results"


def test_a_shard_on_s3_is_written_and_read_like_any_other(bucket: str) -> None:
    target = f"{bucket}/run 1/shard.zarr"
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
        StoreReader.open(f"{bucket}/run 2/shard.zarr")


def test_a_view_of_a_store_on_s3(bucket: str) -> None:
    columns = made_up_columns(RESULT_FIELDS, SIZES, 0)
    columns["atomic_numbers"] %= 90
    columns["atomic_numbers"] += 1
    write_store(f"{bucket}/s.zarr", RESULT_FIELDS, SIZES, columns, chunking=Chunking(4, 8, 8, 16))
    view = campaign.open(f"{bucket}/s.zarr")
    np.testing.assert_array_equal(view.frame(["energy"])["energy"], columns["energy"][:, 0])
    np.testing.assert_array_equal(view.array("forces").compute(), columns["forces"])
    np.testing.assert_array_equal(view[2:][1].positions, columns["positions"][SIZES[:3].sum() : SIZES[:4].sum()])
    np.testing.assert_array_equal(view.dataset["fmax"].values, columns["fmax"][:, 0])


def test_a_missing_object_is_damage(bucket: str) -> None:
    from obstore.store import from_url

    target = f"{bucket}/s.zarr"
    write_store(target, RESULT_FIELDS, SIZES, made_up_columns(RESULT_FIELDS, SIZES, 0))
    assert digest(target)
    from_url(target).delete("core/energy/c/0/0")
    with pytest.raises(StoreDamagedError, match=r"s3://results/s\.zarr/core/energy/c/0/0 is missing"):
        StoreReader.open(target).read_system("energy")


def test_a_server_that_is_not_there_is_one_clear_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        StoreError, match=r"^opening s3://results/s\.zarr: GenericError: .*127\.0\.0\.1:9.* Check the place and its credentials\.$"
    ):
        StoreReader.open(f"{bucket}/s.zarr")


def test_google_urls_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from zarr.storage import ObjectStore

    from campaign.store.targets import describe, is_url, open_target

    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert is_url("gs://bucket/s.zarr")
    assert isinstance(open_target("gs://bucket/s.zarr"), ObjectStore)
    assert describe("gs://bucket/s.zarr") == "gs://bucket/s.zarr"
