"""Consolidating into an object store: the store is there when its root document is, and of two writers one puts it. On a real S3 server."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from zarr.storage import MemoryStore

from campaign.consolidate import run_consolidate
from campaign.errors import StoreExistsError, StoreNotFoundError
from campaign.paths import CampaignPaths
from campaign.store import StoreReader
from campaign.store import consolidation as consolidating
from campaign.store.digest import digest
from campaign.store.publication import CLAIM
from campaign.store.targets import get_bytes, open_target, set_bytes
from campaign.testing.synthetic import synthetic_systems, write_synthetic_campaign

SYSTEMS = synthetic_systems(40)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():
        monkeypatch.setenv(name, value)
    for request in (f"{server}/moto-api/reset", "POST"), (f"{server}/results", "PUT"):
        with urllib.request.urlopen(urllib.request.Request(request[0], method=request[1])):
            pass
    return "s3://results/a campaign/store.zarr"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> CampaignPaths:
    return write_synthetic_campaign(tmp_path_factory.mktemp("made") / "c", SYSTEMS, consolidated=False)


def test_a_store_in_s3_is_that_of_the_disk_and_is_never_replaced(paths: CampaignPaths, url: str) -> None:
    run_consolidate(paths)
    report = run_consolidate(paths, target=url)
    assert (report.store, report.n_systems) == (url, 40)
    assert digest(url) == digest(paths.store)
    assert get_bytes(open_target(url), CLAIM) is None
    with pytest.raises(StoreExistsError, match=r"there is a store at s3://results/a campaign/store\.zarr.*give another place, or remove"):
        run_consolidate(paths, target=url)


KILLED = """
import os, sys
from pathlib import Path
import campaign.store.consolidation as module
from campaign.consolidate import run_consolidate
from campaign.paths import CampaignPaths
real, done = module.set_bytes, [0]
def counted(store, key, value):
    done[0] += 1
    if done[0] == 12:
        os.kill(os.getpid(), 9)
    return real(store, key, value)
module.set_bytes = counted
run_consolidate(CampaignPaths(Path(sys.argv[1])), target=sys.argv[2])
"""


def test_nothing_is_there_until_the_root_is_and_a_killed_one_goes_on(
    paths: CampaignPaths, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_consolidate(paths)
    assert subprocess.run([sys.executable, "-c", KILLED, str(paths.root), url], check=False).returncode == -9
    with pytest.raises(StoreNotFoundError):
        StoreReader.open(url)
    written: list[str] = []

    def noted(store: object, key: str, value: bytes) -> None:
        written.append(key)
        set_bytes(store, key, value)  # type: ignore[arg-type]

    monkeypatch.setattr(consolidating, "set_bytes", noted)
    run_consolidate(paths, target=url)
    n_output_shards = len(digest(url)) - 5
    assert 0 < len(written) <= n_output_shards - 9
    assert digest(url) == digest(paths.store)


def test_of_two_writers_one_publishes(paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    target = MemoryStore()
    real = consolidating.publish_object_store

    def after_the_other(*arguments: object) -> None:
        monkeypatch.setattr(consolidating, "publish_object_store", real)
        run_consolidate_unlocked(paths, target)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(consolidating, "publish_object_store", after_the_other)
    with pytest.raises(StoreExistsError, match=r"another process published a store at .* in the meantime"):
        run_consolidate(paths, target=target)
    assert StoreReader.open(target).n_systems == 40


def run_consolidate_unlocked(paths: CampaignPaths, target: MemoryStore) -> None:
    """Consolidate the same campaign from a copy elsewhere, which has a lock of its own; its sources are as this one's."""
    import shutil

    copy = CampaignPaths(paths.root.parent / "copy")
    shutil.copytree(paths.root, copy.root)
    run_consolidate(copy, target=target)


def test_what_others_write_is_not_mixed_with_ours(paths: CampaignPaths, url: str, tmp_path: Path) -> None:
    set_bytes(open_target(url), CLAIM, b"{}")
    with pytest.raises(StoreExistsError, match=f"has a {CLAIM} of another consolidation.*Give another place"):
        run_consolidate(paths, target=url)
    other = url.replace("store.zarr", "other.zarr")
    set_bytes(open_target(other), "core/energy/c/0/0", b"something")
    with pytest.raises(StoreExistsError, match=r"holds something that is no store.*Give an empty place"):
        run_consolidate(paths, target=other)
