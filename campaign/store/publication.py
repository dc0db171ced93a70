"""Publishing a store in one step: on a file system a folder takes the place of another, in an object store one object appears.

rename(2) replaces a file but no folder that has something in it. Linux can exchange two names in one step (renameat2 with
RENAME_EXCHANGE; ext4, xfs, btrfs, tmpfs, and others). Where the file system cannot, the old store is moved aside first, and readers may
find no store for the time between two renames. A kill there leaves both folders; `recover_folder` brings the old one back.

An object store has neither folders nor renames, but it can put an object only if there is none (S3: If-None-Match). A store there is
what has a root document; that is put last, so of two writers one publishes. It is never replaced: each has a place of its own.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from campaign.errors import StoreExistsError
from campaign.files import sync_folder
from campaign.store.durable import PARTIAL_SUFFIX, staging_name
from campaign.store.targets import encode_document, get_bytes, run

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_CANNOT: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}


def replace_folder(staging: Path, target: Path) -> None:
    """Publish `staging` under the name `target`, durably; what was there goes away after.

    Raises:
        OSError: it cannot be renamed; `target` is as before.
    """
    if not target.exists():
        staging.rename(target)
        sync_folder(target.parent)
        return
    if exchange(staging, target):
        sync_folder(target.parent)
        shutil.rmtree(staging)
        return
    old = staging_name(target)
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old)


def recover_folder(target: Path) -> None:
    """Finish what a killed `replace_folder` left behind: bring the old folder back if there is none at `target`, else remove it.

    Only who holds the lock of `target` calls this: to a `replace_folder` at work it would be in the way.

    Raises:
        OSError: it cannot be renamed or removed.
    """
    # Whole ones that were moved aside, newest first; one whose removal was cut short always has a newer one at `target`.
    pattern = f".{glob.escape(target.name)}.*{PARTIAL_SUFFIX}"
    left = sorted(target.parent.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    if left and not target.exists():
        left.pop(0).rename(target)
        sync_folder(target.parent)
    for path in left:
        shutil.rmtree(path)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False where the system or file system cannot.

    Raises:
        OSError: it can, but failed.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(second))


CLAIM: Final = "consolidation.json"
"""What a store in an object store will be made from, while it is written."""


def claim_object_store(store: Store, where: str, origins: Mapping[str, Any]) -> None:
    """Say that the store at `where` is being written, and from what. Who writes the same from the same may go on with it.

    Raises:
        StoreExistsError: a store is there, another one is being written, or something else is there.
    """
    if run(store.exists("zarr.json")):
        raise StoreExistsError(f"there is a store at {where}. One in an object store is never replaced; give another place, or remove it.")
    ours = json.dumps(origins).encode()
    seen = get_bytes(store, CLAIM)
    if seen is None and not run(_is_empty(store)):
        raise StoreExistsError(f"{where} holds something that is no store. Give an empty place, or remove what is there.")
    if seen is None:
        seen = _put_once(store, CLAIM, ours)
    if seen != ours:
        raise StoreExistsError(
            f"{where} has a {CLAIM} of another consolidation: it is at work, or was ended, or shards came since. Give another place, or "
            "make sure that none works there and remove all of it."
        )


def publish_object_store(store: Store, where: str, root: Mapping[str, Any]) -> None:
    """Let a store that is written whole appear at `where`.

    Raises:
        StoreExistsError: another writer was first; its store is there.
    """
    # A token tells whose document it is, however equal the two stores are.
    token = secrets.token_hex(8)
    ours = encode_document({**root, "attributes": {**root["attributes"], "published_by": token}})
    if _put_once(store, "zarr.json", ours) != ours:
        raise StoreExistsError(f"another process published a store at {where} in the meantime. Read that, or give another place.")
    run(store.delete(CLAIM))


def _put_once(store: Store, key: str, value: bytes) -> bytes | None:
    """Put an object if there is none, and return what is there."""
    run(store.set_if_not_exists(key, default_buffer_prototype().buffer.from_bytes(value)))
    return get_bytes(store, key)


async def _is_empty(store: Store) -> bool:
    async for _ in store.list_prefix(""):
        return False
    return True
