"""What a disk may hold after a power cut, worked out from the calls that were made.

POSIX promises little: data of a file survive if the file was synced, a name survives if its folder was, and rename is one step. All else
may have happened or not, in any order. `Disk` replays calls and draws such states:

    files     content of the last fsync; what was written since may be missing, cut short, or zeros
    folders   names of the last fsync; of the changes since, any, except that two changes of one name keep their order
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from campaign.testing.disk_calls import Call

_BLOCK: Final = 64
"""Granularity at which unsynced data are lost. Smaller than any disk's, since the files of tests are small."""

Change: TypeAlias = "dict[str, _Node | None]"


@dataclass(eq=False)
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass(eq=False)
class _Folder:
    entries: dict[str, _Node] = field(default_factory=dict)
    synced: dict[str, _Node] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def change(self, change: Change) -> None:
        self.changes.append(change)
        _apply(self.entries, change)

    def sync(self) -> None:
        self.synced, self.changes = dict(self.entries), []


_Node: TypeAlias = "_File | _Folder"


@dataclass(frozen=True)
class DiskState:
    """Files by path, and all folders."""

    files: Mapping[str, bytes]
    folders: frozenset[str]

    def below(self, folder: str) -> dict[str, bytes]:
        """Files below a folder, by their path in it."""
        prefix = f"{folder}/"
        return {path[len(prefix) :]: content for path, content in self.files.items() if path.startswith(prefix)}

    def digest(self, folder: str = ".") -> str:
        """Fingerprint of the files below a folder."""
        hashed = hashlib.sha256()
        for path, content in sorted((self.files if folder == "." else self.below(folder)).items()):
            hashed.update(f"{path} {len(content)} ".encode() + content)
        return hashed.hexdigest()

    def write_to(self, root: Path) -> None:
        """Make it real in the empty folder `root`."""
        for folder in sorted(self.folders):
            (root / folder).mkdir(exist_ok=True)
        for path, content in self.files.items():
            (root / path).write_bytes(content)

    @classmethod
    def of(cls, root: Path) -> DiskState:
        """Return what is in a folder."""
        paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
        files = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
        return cls(files, frozenset(name for name, path in paths.items() if path.is_dir()))


class Disk:
    """A folder on a disk: what programs see, and what has reached the disk. It begins with a folder that is all on disk."""

    def __init__(self, begin: DiskState) -> None:
        self._root = _Folder()
        for folder in sorted(begin.folders):
            parent, name = self._parent(folder)
            parent.entries[name] = _Folder()
        for path, content in begin.files.items():
            parent, name = self._parent(path)
            parent.entries[name] = _File(bytearray(content), content)
        for node in _walk(self._root):
            node.sync()

    def replay(self, call: Call) -> None:
        """Take in one call that succeeded."""
        if call.name in ("open", "close", "read", "scan"):
            return
        if call.name in ("write", "truncate", "fsync"):
            self._touch(call)
            return
        parent, name = self._parent(call.path)
        match call.name:
            case "create":
                parent.change({name: _File()})
            case "mkdir":
                parent.change({name: _Folder()})
            case "unlink" | "rmdir":
                parent.change({name: None})
            case "link":
                to, new = self._parent(call.other)
                to.change({new: parent.entries[name]})
            case "rename" | "exchange":
                to, new = self._parent(call.other)
                moved, there = parent.entries[name], to.entries.get(new) if call.name == "exchange" else None
                if to is parent:
                    parent.change({name: there, new: moved})
                else:
                    to.change({new: moved})
                    parent.change({name: there})
            case _:
                raise ValueError(f"{call} is not modelled. Model it in power_cut.py, or write in another way.")

    def _touch(self, call: Call) -> None:
        node = self._find(call.path)
        if isinstance(node, _Folder):
            node.sync()
        elif isinstance(node, _File):
            end = call.offset + len(call.data)
            if call.name == "fsync":
                node.synced = bytes(node.content)
            elif call.name == "truncate":
                del node.content[call.offset :]
                node.content.extend(bytes(call.offset - len(node.content)))
            else:
                node.content.extend(bytes(max(call.offset - len(node.content), 0)))
                node.content[call.offset : end] = call.data

    def seen(self) -> DiskState:
        """Return what programs see."""
        return _state(self._root, lambda folder: folder.entries, lambda file: bytes(file.content))

    def after_cut(self, seed: int) -> DiskState:
        """Return one of the states that a power cut at this moment may leave."""
        rng = random.Random(seed)
        # Now and then all is lost, or all reached the disk: those are the cases that people think of first.
        kept = rng.choice([0.0, 1.0, 0.5, 0.2, 0.8])

        def entries(folder: _Folder) -> dict[str, _Node]:
            chosen = dict(folder.synced)
            lost: set[str] = set()
            for change in folder.changes:
                if lost.isdisjoint(change) and rng.random() < kept:
                    _apply(chosen, change)
                else:
                    lost.update(change)
            return chosen

        return _state(self._root, entries, lambda file: _content_after_cut(file, rng))

    def is_folder(self, path: str) -> bool:
        """Tell whether programs see a folder at `path`."""
        return isinstance(self._find(path), _Folder)

    def _parent(self, path: str) -> tuple[_Folder, str]:
        folder, _, name = path.rpartition("/")
        node = self._find(folder or ".")
        if not isinstance(node, _Folder):
            raise ValueError(f"{path} was used, but {folder} is no folder here: a call was not seen.")
        return node, name

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for part in path.split("/") if path != "." else ():
            node = node.entries.get(part) if isinstance(node, _Folder) else None
        return node


def _apply(entries: dict[str, _Node], change: Change) -> None:
    for name, node in change.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _walk(folder: _Folder) -> Iterable[_Folder]:
    yield folder
    for node in folder.entries.values():
        if isinstance(node, _Folder):
            yield from _walk(node)


def _state(root: _Folder, entries: Callable[[_Folder], dict[str, _Node]], content: Callable[[_File], bytes]) -> DiskState:
    files: dict[str, bytes] = {}
    folders = set()
    # A file with two names has one content.
    contents: dict[int, bytes] = {}
    queue = [("", root)]
    while queue:
        prefix, folder = queue.pop()
        for name, node in entries(folder).items():
            path = f"{prefix}{name}"
            if isinstance(node, _Folder):
                folders.add(path)
                queue.append((f"{path}/", node))
            else:
                if id(node) not in contents:
                    contents[id(node)] = content(node)
                files[path] = contents[id(node)]
    return DiskState(files, frozenset(folders))


def _content_after_cut(file: _File, rng: random.Random) -> bytes:
    new, old = bytes(file.content), file.synced
    if new == old:
        return old
    match rng.randrange(5):
        case 0:
            return old
        case 1:
            return new
        case 2:
            return new[: rng.randrange(len(new) + 1)]
        case 3:
            return bytes(len(new))
    blocks = []
    for at in range(0, len(new), _BLOCK):
        there = old[at : at + _BLOCK].ljust(len(new[at : at + _BLOCK]), b"\0")
        blocks.append(rng.choice([new[at : at + _BLOCK], there, bytes(len(there))]))
    return b"".join(blocks)[: len(new)]
