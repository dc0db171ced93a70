"""A disk so small that it fills."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted_disk(place: Path, size_mib: int) -> Iterator[Path]:
    """Mount so many MiB of tmpfs at `place`. Root must be able to, so that it is never silently left out where tests run as root."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        if os.geteuid() == 0:
            pytest.fail(
                f"root cannot mount a small file system here: {done.stderr.strip()}. A container needs --cap-add SYS_ADMIN for this."
            )
        pytest.skip(f"a small file system cannot be mounted here ({done.stderr.strip()}); run as root to test a full disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
