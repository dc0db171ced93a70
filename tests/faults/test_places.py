"""Places that cannot be written, and names that try to lead out of the campaign's directory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_campaign import make_campaign, structures, write_shard
from small_disk import mounted_disk
from typer.testing import CliRunner

from campaign.cli import app
from campaign.consolidate import run_consolidate
from campaign.errors import CampaignError, ResourceError, SpecError, StoreDamagedError, StoreNotFoundError
from campaign.export import EXPORT_FORMATS, run_export
from campaign.fields import FIELDS, INPUT_FIELDS
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.plan import run_plan
from campaign.show import show_system
from campaign.spec import parse_spec
from campaign.store import StoreReader, write_store
from campaign.store.digest import digest
from campaign.testing.store_rows import made_up_columns

# Root may write anywhere, so that root becomes nobody, once everything is imported: nobody may not even read root's files.
AS_NOBODY = """
import os, sys, tempfile
from pathlib import Path
import numpy as np
from campaign.errors import CampaignError
from campaign.fields import FIELDS
from campaign.files import make_folder, write_json
from campaign.store import ShardWriter, write_store

fields = [FIELDS["energy"]]
values = (np.array([1]), {"energy": np.array([[-1.0]])})
commands = {
    "shard": lambda folder: ShardWriter.create(folder / "shard.zarr", fields),
    "store": lambda folder: write_store(folder / "store.zarr", fields, *values),
    "file": lambda folder: write_json(folder / "file.json", {}),
    "folder": lambda folder: make_folder(folder / "folder"),
}
with tempfile.TemporaryDirectory() as place:
    for command in commands.values():
        made = command(Path(place))
        if hasattr(made, "close"):
            made.close()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for name, command in commands.items():
    try:
        command(Path(sys.argv[1]))
        print(name, "was written")
    except CampaignError as error:
        print(name, type(error).__name__, error)
"""


@pytest.fixture
def anyones_folder() -> Iterator[Path]:
    """A folder that everybody may look into and nobody but its owner may write to."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        yield Path(folder)
        Path(folder).chmod(0o700)


def test_a_folder_without_the_right_to_write(anyones_folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(anyones_folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert set(said) == {"shard", "store", "file", "folder"}
    for name, text in said.items():
        assert str(anyones_folder) in text, name
        assert "Permission denied" in text, name
    assert said["shard"].startswith("StoreError creating the store")
    assert said["file"].startswith("FileWriteError cannot write")
    assert "Give yourself the right to write there" in said["file"]
    assert list(anyones_folder.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Three megabytes of tmpfs; needs the right to mount."""
    with mounted_disk(tmp_path / "disk", 3) as place:
        yield place


def test_a_full_disk_keeps_the_old_store_and_consolidation_goes_on_once_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    made, _ = make_campaign(tmp_path, 4)
    write_shard(made, ShardName(1, 0, 0, 0), range(4))
    paths = CampaignPaths(small_disk / "run")
    shutil.copytree(made.root, paths.root)
    run_consolidate(paths)
    old = digest(paths.store)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(ResourceError, match=r"the disk is full.*Make room, then run the same command again"):
        run_consolidate(paths)
    assert digest(paths.store) == old
    ballast.unlink()
    run_consolidate(paths)
    assert digest(paths.store) == old
    assert not paths.store_staging.exists()


def outside(folder: Path, inside: Path) -> set[str]:
    """All files and folders below `folder` that are not below `inside`."""
    return {str(path) for path in folder.rglob("*") if inside not in (path, *path.parents)}


def test_a_campaign_name_is_no_path(tmp_path: Path) -> None:
    from ase.io import write

    from campaign.ingest import run_ingest

    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.extxyz", structures(2), format="extxyz")
    text = '[campaign]\nname = {name}\ndirectory = "deep/run"\n[inputs]\npaths = ["in"]\n[model]\nname = "emt"\n[relax]\n'
    spec = parse_spec(text.format(name=json.dumps("../../../evil; rm -rf $HOME")), tmp_path)
    run_ingest(spec)
    run_plan(spec.paths, spec)
    assert spec.paths.root == tmp_path / "deep" / "run"
    assert {Path(path).name for path in outside(tmp_path, spec.paths.root)} == {"in", "a.extxyz", "deep"}
    for name in ("a\nb", "a\0b", ""):
        with pytest.raises(SpecError):
            parse_spec(text.format(name=json.dumps(name)), tmp_path)


@pytest.mark.parametrize("text", ["-1", "5", "../../etc/passwd", "1e400", "99999999999999999999999999", "nan", "0x1"])
def test_show_takes_ids_and_nothing_else(tmp_path: Path, text: str) -> None:
    paths, _ = make_campaign(tmp_path, 2)
    done = CliRunner().invoke(app, ["show", str(paths.root), "--", text])
    assert done.exit_code == 2 or isinstance(done.exception, SpecError), done.output
    with pytest.raises(SpecError, match="which has inputs 0 to 2"):
        show_system(paths, -1)


@pytest.mark.parametrize("system_id", [-1, 7, 2**62])
def test_a_shard_with_ids_of_no_input_is_named(tmp_path: Path, system_id: int) -> None:
    paths, _ = make_campaign(tmp_path, 2)
    name = ShardName(1, 0, 0, 0)
    write_shard(paths, name, [0, 1])
    reader = StoreReader.open(paths.shard(name))
    columns = reader.read()
    columns["system_id"] = np.array([[0], [system_id]])
    counts, fields = reader.n_atoms(), reader.fields
    shutil.rmtree(paths.shard(name))
    write_store(paths.shard(name), fields, counts, columns)
    with pytest.raises(StoreDamagedError, match=rf"{name} row 1 has system_id {system_id}, but there are 3 inputs"):
        run_consolidate(paths)
    assert not paths.store.exists()


def test_folders_that_are_no_shards_are_not_followed(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path, 2)
    write_shard(paths, ShardName(1, 0, 0, 0), [0, 1])
    for name in ("x.zarr", "0001-00000-00000-001.zarr.partial", "..zarr", "1-0-0-0.zarr"):
        (paths.shards / name).mkdir()
    assert [str(name) for name in paths.shard_names()] == ["0001-00000-00000-000.zarr"]
    run_consolidate(paths)


@pytest.mark.parametrize("format_", EXPORT_FORMATS)
def test_sources_that_are_paths_are_only_text(tmp_path: Path, format_: str) -> None:
    paths, _ = make_campaign(tmp_path, 2)
    reader = StoreReader.open(paths.inputs)
    columns, counts = reader.read(), reader.n_atoms()
    columns["source"] = np.array(["../../../evil", "/etc/passwd", "~/.ssh/config"], dtype=object)
    shutil.rmtree(paths.inputs)
    write_store(paths.inputs, INPUT_FIELDS, counts, columns)
    write_shard(paths, ShardName(1, 0, 0, 0), [0, 1], [Outcome.CONVERGED] * 2)
    run_consolidate(paths)
    target = tmp_path / "out" / "structures"
    target.parent.mkdir()
    before = outside(tmp_path, paths.root)
    run_export(paths, format_, target)
    assert outside(tmp_path, paths.root) - before == {str(target)}
    assert "../../../evil" in str(show_system(paths, 0))


@pytest.mark.parametrize("format_", EXPORT_FORMATS)
def test_an_export_target_that_is_none_leaves_everything_as_it_is(tmp_path: Path, format_: str) -> None:
    paths, _ = make_campaign(tmp_path, 2)
    write_shard(paths, ShardName(1, 0, 0, 0), [0, 1])
    run_consolidate(paths)
    before = digest(paths.store)
    for target in (paths.store, paths.root, tmp_path / "nowhere" / "x", paths.spec / "x"):
        with pytest.raises(CampaignError, match=str(target)):
            run_export(paths, format_, target, force=True)
    assert digest(paths.store) == before


@pytest.mark.parametrize("name", ["../x", "..", "", "/etc", "../../inputs.zarr/custom/system_id"])
def test_field_names_in_a_root_document_lead_nowhere(tmp_path: Path, name: str) -> None:
    energy = FIELDS["energy"]
    for store in ("a.zarr", "b.zarr"):
        write_store(tmp_path / store, [energy], np.array([1]), made_up_columns([energy], np.array([1]), 0))
    file = tmp_path / "a.zarr" / "zarr.json"
    root = json.loads(file.read_bytes())
    root["attributes"]["fields"]["custom"][name] = "system"
    root["attributes"].pop("checksum")
    file.write_text(json.dumps(root))
    with pytest.raises(StoreDamagedError, match="would lead elsewhere"):
        StoreReader.open(tmp_path / "a.zarr")


def test_a_store_is_not_looked_for_outside(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        StoreReader.open(tmp_path / ".." / "nowhere.zarr")
