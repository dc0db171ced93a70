"""Replacing a folder: in one step where the system can, without loss where it cannot."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from campaign.store import publication
from campaign.store.publication import exchange, replace_folder


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "f").write_text(text)
    return path


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("is_there", [True, False])
def test_the_new_folder_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool, is_there: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(publication, "exchange", lambda first, second: False)
    if is_there:
        folder(tmp_path / "target 'ö", "old")
    replace_folder(folder(tmp_path / "staging", "new"), tmp_path / "target 'ö")
    assert [(path.name, (path / "f").read_text()) for path in tmp_path.iterdir()] == [("target 'ö", "new")]


def test_names_are_exchanged_here(tmp_path: Path) -> None:
    assert exchange(folder(tmp_path / "a", "1"), folder(tmp_path / "b", "2"))
    assert ((tmp_path / "a/f").read_text(), (tmp_path / "b/f").read_text()) == ("2", "1")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "nowhere")


def test_a_reader_always_finds_a_store(tmp_path: Path) -> None:
    target = folder(tmp_path / "target", "0")
    stop = threading.Event()
    misses = []

    def read() -> None:
        while not stop.is_set():
            if not target.is_dir():
                misses.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        replace_folder(folder(tmp_path / "staging", str(number)), target)
    stop.set()
    reader.join()
    assert not misses


def test_a_failing_second_rename_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publication, "exchange", lambda first, second: False)
    target, staging = folder(tmp_path / "target", "old"), folder(tmp_path / "staging", "new")
    real = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if self == staging:
            raise PermissionError(13, "Permission denied")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(PermissionError):
        replace_folder(staging, target)
    assert (target / "f").read_text() == "old"
