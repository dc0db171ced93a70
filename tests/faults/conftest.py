"""Faults are tried out thousands of times, in main memory where there is room for it: no disk is asked to sync for each of them.

What a power cut leaves is worked out from the calls themselves (`campaign/testing/power_cut.py`), and a killed process leaves the page
cache as it is, so nothing here depends on a real disk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 2**30


@pytest.fixture(scope="session")
def fast_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in main memory, or on disk where there is less than a GiB of room in memory."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < NEEDED_BYTES:
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(prefix="faults-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def tempdir(fast_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tempfile` make its folders there."""
    monkeypatch.setattr(tempfile, "tempdir", str(fast_folder))


@pytest.fixture
def tmp_path(fast_folder: Path) -> Iterator[Path]:
    """An empty folder for one test."""
    with tempfile.TemporaryDirectory(dir=fast_folder, ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()
