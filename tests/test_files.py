"""What cannot be written is one clear error with its path, also on the command line: full, forbidden, gone."""

from __future__ import annotations

import errno
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
import pytest
from small_campaign import make_campaign, structures

from campaign.errors import FileWriteError, ResourceError
from campaign.files import create_whole, make_folder, write_json, write_whole, writing
from campaign.paths import CampaignPaths, ShardName
from campaign.spec import freeze_spec, parse_spec
from campaign.timings import append_timing

CAMPAIGN = str(Path(sys.executable).with_name("campaign"))


def limit_files(n_bytes: int) -> Callable[[], None]:
    """A disk that takes files of so many bytes, for a child process: what is beyond fails as on a full one, with EFBIG."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def campaign_on_a_full_disk(n_bytes: int, *words: str | Path, code: int = 1) -> str:
    """Run the command and return its one line of complaint."""
    done = subprocess.run(
        [CAMPAIGN, *map(str, words)], capture_output=True, text=True, check=False, timeout=200, preexec_fn=limit_files(n_bytes)
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (errno.ENOSPC, ("the disk is full", "Make room")),
        (errno.EDQUOT, ("the quota is used up", "Make room")),
        (errno.EROFS, ("Read-only file system", "the right to write there")),
        (errno.EACCES, ("Permission denied", "the right to write there")),
        (errno.ENOENT, ("No such file", "was not moved")),
        (errno.EIO, ("Input/output error", "Mend that")),
    ],
)
def test_each_cause_has_its_advice(number: int, parts: tuple[str, str]) -> None:
    import os

    with pytest.raises(FileWriteError) as caught, writing(Path("/c/plans/0001.json")):
        raise OSError(number, os.strerror(number))
    for part in ("cannot write /c/plans/0001.json: ", *parts, "run the same command again."):
        assert part in str(caught.value)
    assert caught.value.errno == number
    assert isinstance(caught.value, ResourceError) and isinstance(caught.value, OSError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("write", [write_whole, create_whole, lambda path, data: write_json(path, str(data))])
def test_writers_say_what_they_could_not_write(tmp_path: Path, write: Callable[[Path, bytes], None]) -> None:
    with pytest.raises(FileWriteError, match=r"cannot write .*gone/x\.json: No such file"):
        write(tmp_path / "gone" / "x.json", b"1")
    (tmp_path / "file").touch()
    with pytest.raises(FileWriteError, match=r"cannot write .*file/x\.json: Not a directory"):
        write(tmp_path / "file" / "x.json", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is left behind"


def test_folders_too(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", 0o700)
    make_folder(tmp_path / "a", 0o700)
    (tmp_path / "file").touch()
    with pytest.raises(FileWriteError, match=r"cannot write .*file: it is a file where a folder must be"):
        make_folder(tmp_path / "file")
    with pytest.raises(FileWriteError, match="No such file"):
        make_folder(tmp_path / "b" / "c")


def test_timings_and_frozen_spec(tmp_path: Path) -> None:
    with pytest.raises(FileWriteError, match=r"cannot write .*timings\.json"):
        append_timing(CampaignPaths(tmp_path / "gone"), "plan", 1.0)
    text = '[campaign]\nname = "x"\ndirectory = "gone"\n[inputs]\npaths = ["a.xyz"]\n[model]\nname = "lj"\n'
    with pytest.raises(FileWriteError, match=r"cannot write .*campaign\.toml"):
        freeze_spec(parse_spec(text, tmp_path))


def test_commands_on_a_full_disk(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    for words, file in (
        (("cancel", paths.root), paths.cancel),
        (("script", paths.root), paths.plan(1)),
        (("report", paths.root), paths.report),
    ):
        seen = campaign_on_a_full_disk(4, *words)
        assert f"cannot write {file}: the file would be larger than the limit. Make room" in seen
        assert not file.exists() and not list(file.parent.glob("*.partial"))


def test_resume_on_a_full_disk(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    seen = campaign_on_a_full_disk(4, "resume", paths.root)
    assert f"cannot write {paths.plan(1)}: " in seen
    from small_campaign import write_shard

    write_shard(paths, ShardName(1, 0, 0, 0), range(6))
    seen = campaign_on_a_full_disk(4, "resume", paths.root)
    assert str(paths.store) in seen and "the file would be larger than the limit" in seen


def test_run_on_a_full_disk(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "in.extxyz", structures(2))
    spec = tmp_path / "campaign.toml"
    spec.write_text('[campaign]\nname = "x"\ndirectory = "run"\n[inputs]\npaths = ["in.extxyz"]\n[model]\nname = "emt"\n')
    seen = campaign_on_a_full_disk(4, "run", spec, code=2)
    assert f"cannot create campaign.directory {tmp_path / 'run'}: the file would be larger than the limit" in seen
    assert "cannot write" in campaign_on_a_full_disk(4, "init", tmp_path / "new.toml", code=2)


def test_what_slips_through_is_one_line_with_its_path() -> None:
    name = "/" + 300 * "x"
    done = subprocess.run([CAMPAIGN, "status", name], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and name in done.stderr and "File name too long" in done.stderr
