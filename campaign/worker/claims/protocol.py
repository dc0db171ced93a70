"""What claiming is, whoever keeps the count."""

from __future__ import annotations

from typing import Protocol


class Claims(Protocol):
    """One rank's view of the count that all ranks of an array task share.

    Positions are places in the assignment of the array task, from 0. Over all ranks each position is given out at most once, and
    exactly once if all ranks go on until `next` is empty. A rank that dies keeps what it claimed; the next round plans it again.
    """

    def next(self) -> range:
        """Return the next block of positions for this rank alone; empty when nothing is left, and empty ever after."""
        ...

    def close(self) -> None:
        """Leave. May wait until all ranks leave, without using the processor; call it when this rank's work is done."""
        ...
