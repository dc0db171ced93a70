"""What reading gives: a frame of a file with its structure, or with the reason why there is none.

A refusal is a value and never an exception: one broken structure must not stop the reading of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class RefusalKind(StrEnum):
    """Why an input was refused, for counting; the sentence beside it has the details."""

    EMPTY_FILE = "empty file"
    UNREADABLE = "unreadable file"
    FORMAT = "format not read"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    PARTIAL_OCCUPANCY = "partial occupancy"
    NO_ATOMS = "no atoms"
    NOT_FINITE = "not finite"
    ELEMENT = "unknown element"
    CELL = "bad cell"
    OVERLAP = "two atoms on one spot"
    CONSTRAINT = "unsupported constraint"
    REFUSED_EARLIER = "refused earlier"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an input is invalid: the kind, and a sentence that says what was seen, what is allowed and what to do."""

    kind: RefusalKind
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a file.

    `index` counts from 0. Exactly one of `atoms` (an `ase.Atoms`) and `refusal` is set, except that a frame that could be read but
    must be refused may have both.
    """

    index: int
    atoms: Any | None = None
    refusal: Refusal | None = None


def refused(index: int, kind: RefusalKind, text: str, atoms: Any | None = None) -> Frame:
    """Return a frame that is refused.

    >>> refused(2, RefusalKind.NO_ATOMS, "the frame has no atoms").refusal.kind.value
    'no atoms'
    """
    return Frame(index, atoms, Refusal(kind, text))


def describe_error(error: BaseException, limit: int = 120) -> str:
    """Return a foreign exception as one line of printable text, at most `limit` characters long.

    >>> describe_error(ValueError("bad\\nvalue"))
    'ValueError: bad value'
    """
    text = " ".join(str(error).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    name = type(error).__name__
    whole = f"{name}: {text}" if text else name
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"
