"""Where a store lies: a local path, an `s3://` or `gs://` URL, or a Zarr store object such as a MemoryStore.

A target becomes one Zarr store object here, and foreign errors become ours. URLs go through obstore, which takes credentials, region
and endpoint from the environment (`AWS_…`, `GOOGLE_…`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore

from campaign.errors import CampaignError, ResourceError, StoreDamagedError, StoreError
from campaign.files import NO_ROOM, json_checksum, naming
from campaign.store.durable import DurableStore

Target: TypeAlias = str | Path | Store
"""What readers and writers take."""

CHECKSUM: Final = "checksum"
"""Attribute of every Zarr document of ours: a fingerprint of the rest of the document."""

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5
REQUEST_TIMEOUT_S: Final = 60
"""A request that takes longer fails. The largest one carries an output shard, some 25 MB; at 1 MB/s that takes half of this."""

MAX_RETRIES: Final = 8
RETRY_TIMEOUT_S: Final = 120.0
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 15.0
"""Requests that fail by the server's fault (5xx, connection lost) or that only read and time out are sent again: at most so often,
after a pause that doubles with each, and not once `RETRY_TIMEOUT_S` have gone by. So a dead server is an error after three minutes at
most; a busy one (503 SlowDown) has half a minute to recover."""

_CLIENT_KEYS: Final = (
    "allow_http",
    "allow_invalid_certificates",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
    "root_certificate",
)

_URL_SCHEMES: Final = ("s3://", "gs://")


def is_url(target: Target) -> bool:
    """Tell whether `target` is an `s3://` or `gs://` URL."""
    return isinstance(target, str) and target.startswith(_URL_SCHEMES)


def local_path(target: Target) -> Path | None:
    """Return the folder of a target on a file system, or None for memory and object stores.

    Raises:
        StoreError: a URL of a kind that is not known.
    """
    if isinstance(target, LocalStore):
        return target.root
    if isinstance(target, Store) or is_url(target):
        return None
    if isinstance(target, str) and "://" in target:
        schemes = " or ".join(_URL_SCHEMES)
        raise StoreError(f"cannot open {target!r}: stores are local paths, or URLs that begin with {schemes}. Correct the URL.")
    return Path(target)


def open_target(target: Target, read_only: bool = False) -> Store:
    """Return the Zarr store object of `target`. Nothing is created or read.

    Raises:
        StoreError: a URL of a kind that is not known, or one that obstore refuses.
    """
    path = local_path(target)
    if path is not None:
        return DurableStore(path.absolute(), read_only=read_only)
    if isinstance(target, Store):
        return target
    from obstore.store import from_url

    backoff = {"init_backoff": timedelta(seconds=FIRST_PAUSE_S), "max_backoff": timedelta(seconds=LAST_PAUSE_S), "base": 2}
    retries = {"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S), "backoff": backoff}
    client = {"timeout": timedelta(seconds=REQUEST_TIMEOUT_S), "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S)}
    # Options of the client that are given here put all those of the environment out of force; these must stay in force.
    prefix = "AWS" if str(target).startswith("s3") else "GOOGLE"
    environment = {key: value for key in _CLIENT_KEYS if (value := os.environ.get(f"{prefix}_{key.upper()}"))}
    options: dict[str, Any] = {"client_options": {**client, **environment}, "retry_config": retries}
    try:
        return ObjectStore(from_url(str(target), **options), read_only=read_only)
    except Exception as error:
        raise StoreError(
            f"cannot open {target}: {first_part(error)}. Check the URL, and the credentials and region in the environment."
        ) from error


def describe(target: Target) -> str:
    """Return what people call `target`."""
    path = local_path(target)
    return str(path if path is not None else target)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a Zarr store on zarr's own loop, on which stores may depend, and wait for it."""
    return sync(coroutine)


def get_bytes(store: Store, key: str) -> bytes | None:
    """Return the value of `key`, or None if there is none."""
    value = run(store.get(key, default_buffer_prototype()))
    return None if value is None else value.to_bytes()


def set_bytes(store: Store, key: str, value: bytes) -> None:
    """Set `key`; durable when it returns, where the store is."""
    run(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def set_all(store: Store, jobs: Sequence[Callable[[], Mapping[str, bytes]]]) -> None:
    """Set the keys that each of the `jobs`, which run side by side, returns; all are durable when it returns, where the store is.

    When several fail, the first error is raised after all have ended.
    """
    if isinstance(store, DurableStore):
        store.set_all(jobs)
        return
    with ThreadPoolExecutor() as pool:
        values = {key: value for files in pool.map(lambda job: job(), jobs) for key, value in files.items()}

    async def set_them() -> list[BaseException | None]:
        buffer = default_buffer_prototype().buffer
        return await asyncio.gather(*(store.set(key, buffer.from_bytes(value)) for key, value in values.items()), return_exceptions=True)

    for result in run(set_them()):
        if result is not None:
            raise result


def get_document(store: Store, key: str, where: str) -> dict[str, Any] | None:
    """Return the JSON object at `key`, or None if there is none. The checksum that `encode_document` added is compared and left out.

    Raises:
        StoreDamagedError: it is there, but is no JSON object, or not the one that was written.
    """
    with naming(f"{where}/{key}"):
        raw = get_bytes(store, key)
    if raw is None:
        return None
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise StoreDamagedError(f"{where}/{key} is no JSON: {error}. Restore the file, or drop this store.") from error
    if not isinstance(document, dict):
        raise StoreDamagedError(f"{where}/{key} is no JSON object. Restore the file, or drop this store.")
    attributes = document.get("attributes")
    # Stores of other programs, and ours of the first releases, have none.
    if isinstance(attributes, dict) and (noted := attributes.pop(CHECKSUM, None)) is not None and noted != json_checksum(document):
        raise StoreDamagedError(f"{where}/{key} was changed: its checksum is not {noted!r}. Restore the file, or drop this store.")
    return document


def set_document(store: Store, key: str, document: Mapping[str, Any]) -> None:
    """Set `key` to a JSON object. Keys keep their order, so equal documents have equal bytes."""
    set_bytes(store, key, encode_document(document))


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return a JSON object as the bytes that are stored. One of Zarr gets a checksum among its attributes, since no codec protects it."""
    if "node_type" in document:
        attributes = {key: value for key, value in document.get("attributes", {}).items() if key != CHECKSUM}
        plain = {**document, "attributes": attributes}
        document = {**plain, "attributes": {**attributes, CHECKSUM: json_checksum(plain)}}
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def mapped_errors(where: str, doing: str) -> Iterator[None]:
    """Turn what zarr, obstore and the file system raise while `doing` something at `where` into our errors, with the cause attached.

    Raises:
        ResourceError: no room left.
        StoreError: anything else.
    """
    try:
        yield
    except CampaignError:
        raise
    except OSError as error:
        path = f" ({error.filename})" if error.filename else ""
        if error.errno in NO_ROOM:
            seen = f"{doing} {where}: {NO_ROOM[error.errno]}{path}"
            raise ResourceError(f"{seen}. What was committed before stays readable. Make room, then run the same command again.") from error
        raise StoreError(f"{doing} {where}: {error}. Check that the place exists and is writable.") from error
    except Exception as error:
        raise StoreError(f"{doing} {where}: {first_part(error)}. Check the place and its credentials.") from error


def is_unreachable(error: Exception) -> bool:
    """Tell whether `error` says that a place cannot be reached or read now, which says nothing about what lies there."""
    return isinstance(error, OSError) or type(error).__module__.startswith("obstore")


def first_part(error: Exception) -> str:
    """Return the kind of an error and the first line of its text."""
    # obstore appends pages of its inner state, which stay in the cause.
    return f"{type(error).__name__}: {str(error).split(chr(10), 1)[0].rstrip('. ')}"
