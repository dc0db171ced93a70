"""How an assignment is cut into blocks: large ones first, single positions at the end. Pure arithmetic.

This is guided self-scheduling (Polychronopoulos and Kuck, 1987): a block is a fixed share of what is left. It differs from the
textbook in that the blocks are fixed beforehand, so that a shared count of blocks is all that ranks need to agree on, and a claim
file a block is enough where there is no MPI. An assignment is ordered by size, largest first, so the last blocks are also the cheapest.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

SHARE: Final = 4
"""A block is 1 / (SHARE · ranks) of what is left: a rank that comes late or is slow costs the others at most that much."""

LARGEST: Final = 64
"""Most positions of a block, unless that would make more than `MOST_BLOCKS` blocks."""

MOST_BLOCKS: Final = 4096
"""About how many blocks there are at most before they grow: each is a claim, and without MPI a file."""


@dataclass(frozen=True, slots=True)
class ClaimBlocks:
    """Blocks of positions 0 … n_positions-1. Block b is `starts[b]` up to the next start."""

    n_positions: int
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.starts)

    def block(self, index: int) -> range:
        """Positions of a block; empty beyond the last one.

        >>> plan_blocks(10, n_ranks=1).block(0)
        range(0, 2)
        >>> len(plan_blocks(10, n_ranks=1).block(99))
        0
        """
        if index >= len(self.starts):
            return range(self.n_positions, self.n_positions)
        stop = self.starts[index + 1] if index + 1 < len(self.starts) else self.n_positions
        return range(self.starts[index], stop)

    def holder(self, position: int) -> int:
        """Index of the block that has `position`.

        Raises:
            IndexError: there is no such position.
        """
        if not 0 <= position < self.n_positions:
            raise IndexError(f"position {position} is not one of the {self.n_positions} of this assignment; count from 0.")
        return bisect_right(self.starts, position) - 1


def plan_blocks(n_positions: int, n_ranks: int, largest: int = LARGEST) -> ClaimBlocks:
    """Cut `n_positions` into blocks for `n_ranks` ranks.

    Raises:
        ValueError: a count is negative, or there is no rank.

    >>> [len(plan_blocks(10, n_ranks=1).block(b)) for b in range(9)]
    [2, 2, 1, 1, 1, 1, 1, 1, 0]
    """
    if n_positions < 0 or n_ranks < 1 or largest < 1:
        raise ValueError(
            f"cannot cut {n_positions} positions into blocks of at most {largest} for {n_ranks} ranks: positions count from 0, "
            "ranks and block sizes from 1. Correct the caller."
        )
    largest = max(largest, -(-n_positions // MOST_BLOCKS))
    starts = []
    start = 0
    while start < n_positions:
        starts.append(start)
        start += max(1, min(largest, (n_positions - start) // (SHARE * n_ranks)))
    return ClaimBlocks(n_positions, tuple(starts))
