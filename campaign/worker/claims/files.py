"""Claims without MPI: a block belongs to the rank that created its file.

Exclusive creation (O_CREAT | O_EXCL) is atomic on local file systems and on NFS from version 3 on; there are no locks, which NFS,
Lustre and others may have switched off. If a server's answer is lost and the client asks again, the creator may be told that the file
exists: the block is then nobody's in this round and planned again in the next. It is never two ranks'.
"""

from __future__ import annotations

import os
from pathlib import Path

from campaign.worker.claims.blocks import ClaimBlocks


class FileClaims:
    """Claims of one rank in `folder`, which all ranks of one attempt of an array task share and nobody else uses.

    >>> import tempfile
    >>> from campaign.worker.claims import plan_blocks
    >>> claims = FileClaims(Path(tempfile.mkdtemp()), plan_blocks(3, n_ranks=1), rank=0)
    >>> [list(claims.next()) for _ in range(4)]
    [[0], [1], [2], []]
    """

    def __init__(self, folder: Path, blocks: ClaimBlocks, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._blocks = blocks
        self._rank = rank
        self._candidate = 0

    def next(self) -> range:
        """Return the next block that no rank has claimed."""
        while self._candidate < len(self._blocks):
            block = self._candidate
            self._candidate += 1
            if self._create(block):
                return self._blocks.block(block)
        return self._blocks.block(self._candidate)

    def close(self) -> None:
        """Do nothing: ranks do not wait for each other."""

    def _create(self, block: int) -> bool:
        try:
            descriptor = os.open(self._folder / f"{block:08d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, f"{self._rank}\n".encode())  # for people who look why a block was not done
        finally:
            os.close(descriptor)
        return True
