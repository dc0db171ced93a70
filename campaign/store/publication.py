"""Replacing a published store, which is a folder, by a new one in one step.

rename(2) replaces a file but no folder that has something in it. Linux can exchange two names in one step (renameat2 with
RENAME_EXCHANGE; ext4, xfs, btrfs, tmpfs, and others). Where the file system cannot, the old store is moved aside first, and readers may
find no store for the time between two renames. A kill there leaves both folders; `recover_folder` brings the old one back.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
from pathlib import Path
from typing import Final

from campaign.files import sync_folder
from campaign.store.durable import PARTIAL_SUFFIX, staging_name

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
