"""From the entries of `[inputs] paths` to files, in the order that gives inputs their ids.

Entries keep their order; within an entry files are in natural order of their path (`s2.cif` before `s10.cif`). A file that several
entries name is read once, where it is named first. Names are hostile: blanks, quotes, newlines, bytes that are no UTF-8, and brackets
that are part of a name and not of a pattern (a part of a path that exists as it stands is never taken for a pattern).
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from campaign.errors import SpecError
from campaign.paths import CampaignPaths

_MAGIC: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, a store or a URL to read; `problem` is set where it cannot even be listed."""

    path: str
    source: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class InputFiles:
    """All files of a campaign in the order of their inputs, and the files of folders that no format claims."""

    files: tuple[InputFile, ...]
    skipped: tuple[str, ...]


def natural_key(path: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Return a key that sorts numbers in names by value, folder by folder.

    >>> sorted(["s10", "s2", "s2/a", "S1"], key=natural_key)
    ['S1', 's2', 's2/a', 's10']
    """
    return tuple(_natural_part(part) for part in Path(path).parts)


def _natural_part(part: str) -> tuple[tuple[int, int, str], ...]:
    pieces = re.split(r"([0-9]+)", part)
    # The text itself ends the key, so that "s1" and "s01" have a fixed order.
    return (*((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece), (-1, 0, part))


def printable_path(path: str | Path) -> str:
    r"""Return a path as text that can be encoded; bytes that are no UTF-8 appear as `\xff`.

    >>> print(printable_path("å" + os.fsdecode(b"\xff")))
    å\xff
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def expand_paths(entries: Sequence[str], claims: Callable[[Path], bool], base: Path) -> InputFiles:
    """Return the files that `entries` name; their `source` is relative to `base` where they lie below it.

    `claims` says of a file found in a folder whether it looks like a structure; files named outright or by a glob are always read.
    A folder with a `zarr.json` is a store; a campaign directory stands for its `store.zarr`.

    Raises:
        SpecError: an entry that names nothing.
    """
    found: dict[str, str | None] = {}
    skipped: set[str] = set()
    for entry in entries:
        if "://" in entry:
            found.setdefault(entry, None)
            continue
        root, pattern = split_pattern(entry)
        matches = _expand_entry(root, pattern, claims, skipped)
        if not matches:
            raise SpecError(
                f"inputs.paths: {printable_path(entry)!r} matches no structure file. An entry is a file, a folder, a glob (** too), an ASE "
                "database or a store. Correct the entry; what it matches must exist and be readable."
            )
        for path in sorted(matches, key=natural_key):
            found.setdefault(path, matches[path])
    files = tuple(InputFile(path, _source(path, base), problem) for path, problem in found.items())
    return InputFiles(files, tuple(sorted(skipped - found.keys())))


def split_pattern(entry: str) -> tuple[Path, tuple[str, ...]]:
    """Return the longest part of `entry` that exists, and the parts after it, which are a pattern.

    >>> split_pattern("/*.cif")
    (PosixPath('/'), ('*.cif',))
    """
    path = Path(entry).absolute()
    root, parts = Path(path.anchor), list(path.parts[1:])
    while parts and os.path.lexists(root / parts[0]):
        root /= parts.pop(0)
    return root, tuple(parts)


def _expand_entry(root: Path, pattern: tuple[str, ...], claims: Callable[[Path], bool], skipped: set[str]) -> dict[str, str | None]:
    matches: dict[str, str | None] = {}
    for path in _match(root, pattern):
        if not _is_folder(path) or _is_store(path):
            matches[str(path)] = None
        elif _is_campaign(path):
            store = CampaignPaths(path).store
            if not _is_store(store):
                raise SpecError(
                    f"inputs.paths: {printable_path(path)!r} is a campaign without {store.name}, where its relaxed structures would be. "
                    f"Run `campaign consolidate` on it first, or name its {CampaignPaths(path).inputs.name}."
                )
            matches[str(store)] = None
        else:
            for inner, problem in _walk(path):
                if problem is not None or _is_store(inner) or claims(inner):
                    matches[str(inner)] = problem
                else:
                    skipped.add(printable_path(inner))
    return matches


def _is_store(path: Path) -> bool:
    return _is_file(path / "zarr.json")


def _is_campaign(folder: Path) -> bool:
    paths = CampaignPaths(folder)
    return _is_file(paths.spec) and _is_folder(paths.inputs)


def _is_folder(path: Path) -> bool:
    # Path's own tests raise where a folder on the way may not be entered.
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _match(folder: Path, pattern: tuple[str, ...]) -> Iterator[Path]:
    """Yield what `pattern` matches below `folder`; `**` enters neither stores and campaigns nor links to folders."""
    if not pattern:
        yield folder
        return
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        yield from _match(folder, rest)
        # Without a rest the folder itself is the match, and a folder is read with all that lies below it.
        for inner in _entries(folder) if rest else ():
            if not inner.name.startswith(".") and _is_folder(inner) and not _is_closed(inner):
                yield from _match(inner, pattern)
    elif _MAGIC.search(head):
        for inner in _entries(folder):
            if fnmatch.fnmatchcase(inner.name, head) and (head.startswith(".") or not inner.name.startswith(".")):
                yield from _match(inner, rest)
    elif os.path.lexists(folder / head):
        yield from _match(folder / head, rest)


def _is_closed(folder: Path) -> bool:
    return folder.is_symlink() or _is_store(folder) or _is_campaign(folder)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        # Not a folder, or one that may not be read: a pattern matches nothing there.
        return []


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield files and stores below `folder`, and folders that cannot be listed with the reason; hidden names are left out."""
    try:
        inners = list(folder.iterdir())
    except OSError as error:
        yield folder, error.strerror or str(error)
        return
    for inner in inners:
        if inner.name.startswith("."):
            continue
        if not _is_folder(inner) or _is_store(inner):
            yield inner, None
        elif not _is_closed(inner):
            yield from _walk(inner)


def _source(path: str, base: Path) -> str:
    if "://" in path:
        return path
    return printable_path(Path(path).relative_to(base) if Path(path).is_relative_to(base) else path)
