"""A Zarr store on a local or parallel file system in which an acknowledged write is on disk.

zarr's LocalStore writes a partial file and renames it, but syncs nothing, so after a power cut or a node crash a key may be empty,
old or gone. Here each `set` syncs the file, renames it, and syncs every folder that got a new name, before it returns; an error of
`close`, which is where NFS and quotas report lost writes, is raised.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from campaign.files import naming, sync_folder, writing

PARTIAL_SUFFIX: Final = ".partial"
"""Ends the name of every file and folder that is not whole yet."""


class DurableStore(LocalStore):
    """Zarr's LocalStore with fsync; keys are replaced atomically and readers see the old value or the new one.

    >>> import tempfile
    >>> DurableStore(tempfile.mkdtemp()).supports_writes
    True
    """

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        # Both set and set_if_not_exists of the base class come through here.
        if not self._is_open:
            await self._open()
        self._check_writable()
        await asyncio.to_thread(write_durably, self.root / key, value.as_buffer_like(), exclusive)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Synchronous `set`, as newer codec pipelines call it."""
        self._ensure_open_sync()
        self._check_writable()
        write_durably(self.root / key, value.as_buffer_like(), False)


def write_durably(path: Path, data: bytes | bytearray | memoryview, exclusive: bool = False) -> None:
    """Write `data` to `path`, whole or not at all, and return when it would survive a power cut.

    Raises:
        FileExistsError: `exclusive` is set and `path` is there.
        OSError: with the path in it, such as ENOSPC; nothing is left behind then.
    """
    make_folder_durably(path.parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")
    try:
        # buffering=0: what write() acknowledges has reached the kernel, and close() has nothing left that could fail unseen.
        with naming(path), partial.open("xb", buffering=0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        if exclusive:
            os.link(partial, path)
            partial.unlink()
        else:
            partial.replace(path)
    except BaseException:
        _remove_quietly(partial)
        raise
    sync_folder(path.parent)


def make_folder_durably(folder: Path) -> None:
    """Create `folder` and its missing parents, and sync each folder that got a new name.

    Raises:
        NotADirectoryError: one of them is a file.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        try:
            new.mkdir(exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(new)) from None
        sync_folder(new.parent)


def publish_folder(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`, which must not be there or be empty, durably.

    rename(2) refuses a folder that has something in it, so of two that publish the same name exactly one succeeds.

    Raises:
        FileExistsError: `target` is there.
    """
    try:
        staging.rename(target)
    except OSError as error:
        if target.exists():
            raise FileExistsError(f"{target} exists") from error
        raise
    sync_folder(target.parent)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` while the block runs; yield False, without waiting, if another process holds it.

    The kernel lets go of it when the process ends, however it ends. Where the file system knows no locks, the block runs without.

    Raises:
        FileWriteError: the lock file cannot be made.
    """
    with writing(path):
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
                raise
        yield True


def staging_name(target: Path) -> Path:
    """Return a sibling of `target` in which it can be built before it is published."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}{PARTIAL_SUFFIX}")


def sweep_partial(folder: Path, older_than_s: float) -> int:
    """Remove files and folders that a killed writer left behind below `folder`; return how many.

    Only those older than `older_than_s` go: a younger one may belong to a writer that lives.
    """
    swept = 0
    if not folder.is_dir():
        return 0
    limit = time.time() - older_than_s
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            if name.startswith(".") and name.endswith(PARTIAL_SUFFIX):
                swept += _sweep_one(Path(parent) / name, limit)
    return swept


def _sweep_one(path: Path, limit: float) -> int:
    try:
        if path.stat().st_mtime > limit:
            return 0
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return 0
    return 1


def _remove_quietly(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # The error that brought us here is the one to tell; a left-over is swept later.
        return
