"""What a writing process asks of the kernel, and in which order: seen, and made to fail, by strace. Without it these tests fail."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from campaign.fields import FIELDS
from campaign.store import ShardWriter, StoreReader

WRITER = """
import os, sys
import numpy as np
from campaign.fields import FIELDS
from campaign.store import Chunking, ShardWriter

writer = ShardWriter.create(sys.argv[1], [FIELDS["positions"], FIELDS["energy"]], flush_s=3600, chunking=Chunking.of_shards(4, 8))
os.write(1, b"acknowledged: create\\n")
for number in range(3):
    writer.append(np.full(3, 4), {"positions": np.ones((12, 3)), "energy": np.full((3, 1), number)})
    writer.flush()
    os.write(1, b"acknowledged: flush\\n")
"""

FAILING_WRITER = """
import itertools, secrets, sys
import numpy as np
from campaign.errors import CampaignError
from campaign.fields import FIELDS
from campaign.store import ShardWriter

# Known names of the hidden files, by which strace finds the calls that are to fail.
numbers = itertools.count()
secrets.token_hex = lambda n: str(next(numbers))
writer = ShardWriter.create(sys.argv[1], [FIELDS["energy"]], flush_s=3600)
for energy in (1.0, 2.0, 3.0):
    secrets.token_hex = lambda n, energy=energy: f"energy{energy}"
    try:
        writer.append(np.ones(1, dtype=int), {"energy": np.full((1, 1), energy)})
        writer.flush()
    except CampaignError as error:
        print(f"{type(error).__name__}: {error}")
"""


@dataclass(frozen=True)
class Call:
    """One system call: from which line of the trace to which it lasted."""

    begun: int
    ended: int
    name: str
    arguments: str
    result: str

    @property
    def folder_or_file(self) -> str:
        """Path of the descriptor that is its first argument."""
        found = re.match(r"\d+<(.*?)>", self.arguments)
        return found[1] if found else ""

    @property
    def paths(self) -> list[str]:
        """Paths that it names."""
        return re.findall(r'"(.*?)"', self.arguments)


def traced(folder: Path, script: str, target: Path, *options: str) -> tuple[list[Call], str]:
    """Run a script under strace; return its calls in the order in which they ended, and what it printed."""
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-s", "400", "-o", str(trace), *options, sys.executable, "-c", script, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls, unfinished = [], {}
    for number, line in enumerate(trace.read_text(encoding="utf-8").splitlines()):
        thread, _, text = line.partition(" ")
        begun = number
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = number, text.removesuffix("<unfinished ...>").strip()
            continue
        if resumed := re.match(r"\s*<\.\.\. \w+ resumed>(.*)", text):
            begun, first = unfinished.pop(thread)
            text = first + resumed[1]
        if found := re.match(r"\s*(\w+)\((.*)\)\s+= (.*)", text):
            calls.append(Call(begun, number, found[1], found[2], found[3]))
    return calls, done.stdout


@pytest.fixture(scope="module")
def commits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[Call]]]:
    """The calls up to each acknowledgement: of the creation, and of three commits, the last of which fills files."""
    folder = tmp_path_factory.mktemp("traced")
    names = "trace=openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,close,mkdir"
    calls, said = traced(folder, WRITER, folder / "s.zarr", "-e", names)
    assert said.count("acknowledged") == 4
    parts: list[list[Call]] = [[]]
    for call in calls:
        parts[-1].append(call)
        if call.name == "write" and "acknowledged: " in call.arguments:
            parts.append([])
    assert len(StoreReader.open(folder / "s.zarr").read_system("energy")) == 9
    return folder / "s.zarr", parts[:4]


def named(calls: list[Call], name: str, path: str) -> list[Call]:
    return [call for call in calls if call.name == name and (path in call.paths or call.folder_or_file == path)]


def renamed(target: Path, calls: list[Call]) -> dict[str, Call]:
    """The calls that gave a file of the store its name, by key."""
    found = {}
    for call in calls:
        if call.name in ("rename", "renameat", "renameat2", "link", "linkat") and str(target) in call.paths[-1]:
            found[str(Path(call.paths[-1]).relative_to(target))] = call
    return found


def test_each_file_is_on_disk_before_it_has_its_name_and_its_name_before_the_commit_ends(commits: tuple[Path, list[list[Call]]]) -> None:
    target, parts = commits
    for calls in parts[1:]:
        acknowledged = calls[-1]
        names = renamed(target, calls)
        assert {"core/positions/c/0/0", "core/energy/zarr.json", "meta/atoms_ptr/c/0", "zarr.json"} <= names.keys()
        for key, rename in names.items():
            partial = rename.paths[0]
            (opened,) = named(calls, "openat", partial)
            writes, (synced,), (closed,) = (named(calls, name, partial) for name in ("write", "fsync", "close"))
            assert "O_CREAT|O_EXCL" in opened.arguments
            assert writes and synced.result == closed.result == "0", key
            assert opened.ended < writes[0].begun and writes[-1].ended < synced.begun and synced.ended < closed.begun < rename.begun, key
            folder = str((target / key).parent)
            assert any(sync.begun > rename.ended and sync.ended < acknowledged.begun for sync in named(calls, "fsync", folder)), key


def test_fields_are_durable_before_pointers_and_pointers_before_what_says_that_they_exist(commits: tuple[Path, list[list[Call]]]) -> None:
    target, parts = commits
    for calls in parts[1:]:
        names = renamed(target, calls)
        last = {"meta/samples_mask/zarr.json", "zarr.json"}
        steps = [
            [key for key in names if key.startswith("core/")],
            [key for key in names if key.startswith("meta/") and key not in last],
            ["meta/samples_mask/zarr.json"],
            ["zarr.json"],
        ]
        assert sorted(key for step in steps for key in step) == sorted(names)
        for before, after in pairwise(steps):
            begun = min(named(calls, "openat", names[key].paths[0])[0].begun for key in after)
            for key in before:
                synced = [call for call in named(calls, "fsync", str((target / key).parent)) if names[key].ended < call.begun]
                assert any(call.ended < begun for call in synced), (key, after)


def test_new_folders_are_durable_before_the_commit_ends(commits: tuple[Path, list[list[Call]]]) -> None:
    for calls in commits[1][1:]:
        for made in (call for call in calls if call.name == "mkdir" and call.result == "0"):
            parent = str(Path(made.paths[0]).parent)
            assert any(made.ended < call.begun and call.ended < calls[-1].begun for call in named(calls, "fsync", parent)), made


def test_an_empty_store_is_whole_on_disk_before_it_has_its_name(commits: tuple[Path, list[list[Call]]]) -> None:
    target, (calls, *_) = commits
    (published,) = [call for call in calls if call.name == "rename" and call.paths[-1] == str(target)]
    staging = published.paths[0]
    written = [call for call in calls if call.name == "rename" and staging in call.paths[-1] and call is not published]
    assert f"{staging}/zarr.json" in [call.paths[-1] for call in written]
    for call in written:
        synced = named(calls, "fsync", str(Path(call.paths[-1]).parent))
        assert any(call.ended < sync.begun and sync.ended < published.begun for sync in synced), call
    assert any(sync.begun > published.ended and sync.ended < calls[-1].begun for sync in named(calls, "fsync", str(target.parent)))


@pytest.mark.parametrize(
    ("call", "error", "kind", "cause"),
    [
        ("write", "EDQUOT", "ResourceError", "the quota is used up"),
        ("fsync", "EDQUOT", "ResourceError", "the quota is used up"),
        ("close", "EDQUOT", "ResourceError", "the quota is used up"),
        ("openat", "EACCES", "StoreError", "Permission denied"),
    ],
)
def test_what_the_kernel_refuses_reaches_the_next_call_and_the_committed_stays(
    tmp_path: Path, call: str, error: str, kind: str, cause: str
) -> None:
    target = tmp_path / "s.zarr"
    partial = target / "core/energy/c/0/.0.energy2.0.partial"
    _, said = traced(tmp_path, FAILING_WRITER, target, "-P", str(partial), "-e", f"trace={call}", "-e", f"inject={call}:error={error}")
    first, second = said.splitlines()
    assert first.startswith(f"{kind}: writing to the store {target}: ") and cause in first
    assert str(partial) in first
    assert second.startswith("StoreError: ") and "takes nothing more since a write failed" in second
    assert StoreReader.open(target).read_system("energy").tolist() == [[1.0]]
    assert not [path for path in target.rglob("*") if path.name.endswith(".partial")]
    # With room again, another attempt goes on in a shard of its own.
    with ShardWriter.create(tmp_path / "next.zarr", [FIELDS["energy"]]) as writer:
        writer.append(np.ones(1, dtype=np.int64), {"energy": np.full((1, 1), 2.0)})
    assert StoreReader.open(tmp_path / "next.zarr").n_systems == 1
