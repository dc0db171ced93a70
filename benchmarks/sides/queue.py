"""Structures that the processes of a side share: each takes the next ones when it is done with its last."""

from __future__ import annotations

import fcntl
from pathlib import Path


class Queue:
    """Numbers 0 to `total`, without the latter, each taken once.

    Args:
        total: how many.
        path: of an empty file, the same one for all who share; None is for one alone.
        n_sharing: how many share.

    >>> queue = Queue(5)
    >>> queue.take(3), queue.take(3), queue.take(3)
    (range(0, 3), range(3, 5), range(5, 5))
    """

    def __init__(self, total: int, path: Path | None = None, n_sharing: int = 1) -> None:
        self.total = total
        self.share = -(-total // n_sharing)
        """An even share, rounded up."""
        self.n_sharing = n_sharing
        self.is_exhausted = total == 0
        """Whether the last `take` was the last that gives anything, as far as one can know."""
        self._path = path
        self._next = 0

    def take(self, most: int) -> range:
        """Return the next numbers, at most so many; an empty range if there are none left."""
        if self._path is None:
            taken = self._advance(self._next, most)
            self._next = taken.stop
        else:
            with self._path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                taken = self._advance(int.from_bytes(file.read(8), "little"), most)
                file.seek(0)
                file.write(taken.stop.to_bytes(8, "little"))
        self.is_exhausted = taken.stop >= self.total
        return taken

    def _advance(self, first: int, most: int) -> range:
        return range(first, min(first + most, self.total))
