"""Frames of an (extended) xyz file, one by one, so that a broken frame costs itself and no other.

ASE indexes the whole file before it reads the first frame and stops at the first thing it does not expect. Here the file is cut into frames
first: a frame is a line with the number of atoms, a comment, and that many lines. Where the number is wrong the next line that holds
nothing but a whole number starts the next frame. What is inside one frame is left to ASE's parser.
Format: https://github.com/libAtoms/extxyz.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import IO, Any, Final

from ase.io.extxyz import read_xyz

from campaign.structures.frame import Frame, RefusalKind, describe_error, refused

MAX_LINE: Final = 1 << 24
"""Characters of the longest line that is read; a longer one is no text file."""

_COUNT: Final = re.compile(r"\s*[0-9]{1,18}\s*")
_PROPERTIES: Final = re.compile(r"""(?:^|\s)Properties\s*=\s*["']?([^\s"']+)""")
_PLAIN_COLUMNS: Final = 4


class _Lines:
    """Lines of a file with one line of look-ahead, counted from 1."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._next: str | None = None
        self.number = 0

    def peek(self) -> str | None:
        if self._next is None:
            line = self._file.readline(MAX_LINE)
            if len(line) == MAX_LINE:
                raise ValueError(f"line {self.number + 1} is longer than {MAX_LINE} characters")
            self._next = line or None
        return self._next

    def take(self) -> str | None:
        line = self.peek()
        self._next = None
        self.number += line is not None
        return line


def iter_extxyz(file: IO[str]) -> Iterator[Frame]:
    """Yield the frames of an xyz file; each broken one is refused with its line.

    Raises whatever reading from `file` raises, for instance at the end of a truncated gzip file; frames before that are out already.

    >>> [frame.refusal is None for frame in iter_extxyz(io.StringIO("1\\n\\nCu 0 0 0\\n1\\n\\nCu x 0 0\\n1\\n\\nAu 0 0 0\\n"))]
    [True, False, True]
    """
    lines = _Lines(file)
    index = 0
    while (line := lines.peek()) is not None:
        if line.strip():
            yield _read_frame(lines, index)
            index += 1
        else:
            lines.take()


def _read_frame(lines: _Lines, index: int) -> Frame:
    head = lines.take() or ""
    start = lines.number
    if not _COUNT.fullmatch(head):
        while (line := lines.peek()) is not None and not _COUNT.fullmatch(line):
            lines.take()
        return refused(index, RefusalKind.MALFORMED, f"line {start}: a frame starts with its number of atoms, not with {_short(head)}")
    n_atoms = int(head)
    comment = lines.take()
    if comment is None:
        return refused(index, RefusalKind.TRUNCATED, f"line {start}: the file ends after the number of atoms; add the rest of the frame")
    n_columns = _count_columns(comment)
    rows: list[str] = []
    while len(rows) < n_atoms and (line := lines.peek()) is not None and line.strip() and not _COUNT.fullmatch(line):
        rows.append(lines.take() or "")
    if len(rows) < n_atoms:
        text = f"line {start}: the frame says {n_atoms} atoms, {len(rows)} lines follow; mend one of them"
        return refused(index, RefusalKind.TRUNCATED, text)
    vectors: list[str] = []
    while (line := lines.peek()) is not None and line.lstrip().startswith("VEC"):
        vectors.append(lines.take() or "")
    n_more = 0
    while (line := lines.peek()) is not None and _is_atom_row(line, n_columns or _PLAIN_COLUMNS):
        lines.take()
        n_more += 1
    if n_more:
        text = f"line {start}: the frame says {n_atoms} atoms, {n_atoms + n_more} lines follow; mend one of them"
        return refused(index, RefusalKind.MALFORMED, text)
    if n_atoms == 0:
        return refused(index, RefusalKind.NO_ATOMS, f"line {start}: the frame has no atoms; remove it")
    for offset, row in enumerate(rows if n_columns is not None else ()):
        if len(row.split()) != n_columns:
            # ASE drops surplus columns without a word.
            text = f"line {start + 2 + offset} has {len(row.split())} columns, Properties names {n_columns}; mend one of them"
            return refused(index, RefusalKind.MALFORMED, text)
    return _parse(index, start, "".join([head, comment, *rows, *vectors]))


def _parse(index: int, start: int, text: str) -> Frame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms: Any = next(iter(read_xyz(io.StringIO(text), 0)))
    except Exception as error:  # what ASE's parser raises on malformed text is not documented
        return refused(index, RefusalKind.MALFORMED, f"frame at line {start}: {describe_error(error)}")
    return Frame(index, atoms)


def _count_columns(comment: str) -> int | None:
    """Return the number of columns that `Properties` declares, None if it is absent or unreadable."""
    match = _PROPERTIES.search(comment)
    if match is None:
        return None
    counts = match.group(1).split(":")[2::3]
    return sum(int(count) for count in counts) if counts and all(count.isdecimal() for count in counts) else None


def _is_atom_row(line: str, n_columns: int) -> bool:
    """Tell a surplus line of atoms from the broken head of the next frame."""
    tokens = line.split()
    return len(tokens) >= n_columns and sum(_is_number(token) for token in tokens) >= 3


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True


def _short(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 40 else text[:39] + "…")
