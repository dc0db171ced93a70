"""Small files that are there whole or not at all, also after a power cut; and the one place that says why one cannot be written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from campaign.errors import CampaignError, FileWriteError

NO_ROOM: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than the limit",
    errno.ENOMEM: "memory is used up",
    errno.EMFILE: "too many files are open",
}
"""Errors of the file system that mean that more of something is needed, in words."""

_NO_RIGHT: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system raises while the block writes, makes or removes `path` into one clear error.

    A FileExistsError passes: it says who came first, and callers act on it.

    Raises:
        FileWriteError: with path, cause and what to do.

    >>> with writing(Path("/proc/x")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    campaign.errors.FileWriteError: cannot write /proc/x: the disk is full. Make room, then run the same command again.
    """
    try:
        yield
    except (CampaignError, FileExistsError):
        raise
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> FileWriteError:
    advice = "Mend that"
    if error.errno in NO_ROOM:
        advice = "Make room" if error.errno != errno.EMFILE else "Raise the limit (ulimit -n)"
    elif error.errno in _NO_RIGHT:
        advice = "Give yourself the right to write there"
    elif error.errno in _GONE:
        advice = "See that its folder exists and was not moved"
    reason = NO_ROOM.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    told = FileWriteError(f"cannot write {path}: {reason}. {advice}, then run the same command again.")
    told.errno, told.strerror, told.filename = error.errno, reason, str(path)
    return told


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give the errors of calls that know only a descriptor, such as write, fsync and close, their path."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, if it is not there; its parent is. It survives a power cut when this returns, whoever made it.

    Raises:
        FileWriteError: it cannot be made, or is a file.
    """
    with writing(folder):
        try:
            folder.mkdir(mode=mode, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, "it is a file where a folder must be", str(folder)) from None
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    with naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a sibling temporary file, fsync, rename, fsync of the folder. Readers see the old file or the new one.

    Raises:
        FileWriteError: it cannot be written; `path` is as before.
    """
    temporary = _temporary(path)
    with writing(path):
        try:
            _write_synced(temporary, data)
            temporary.replace(path)
        except BaseException:
            _remove_quietly(temporary)
            raise
        sync_folder(path.parent)


def write_volatile(path: Path, data: bytes) -> None:
    """Like `write_whole`, but not forced to the disk: much cheaper, and gone, or empty, after a power cut.

    Raises:
        FileWriteError: it cannot be written; `path` is as before.
    """
    temporary = _temporary(path)
    with writing(path):
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            _remove_quietly(temporary)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with `write_whole`."""
    write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def json_checksum(document: Any) -> str:
    """Return a fingerprint of what a JSON document says, however it is laid out: a changed bit may give another document that is legal.

    >>> json_checksum({"a": 1, "b": [2]}) == json_checksum({"b": (2,), "a": 1}) != json_checksum({"a": 1, "b": [3]})
    True
    """
    # Through JSON and back, so that what is to be written and what was read are the same.
    plain = json.loads(json.dumps(document))
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def create_whole(path: Path, data: bytes) -> None:
    """Like `write_whole`, but of two that create the same file one succeeds.

    The temporary file is linked to its name, which fails when the name is taken, on NFS too.

    Raises:
        FileExistsError: `path` is there.
        FileWriteError: it cannot be written.
    """
    temporary = _temporary(path)
    with writing(path):
        try:
            _write_synced(temporary, data)
            os.link(temporary, path)
        finally:
            _remove_quietly(temporary)
        sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove_quietly(path: Path) -> None:
    # The error that brought us here is the one to tell; a left-over is swept later.
    with suppress(OSError):
        path.unlink(missing_ok=True)
