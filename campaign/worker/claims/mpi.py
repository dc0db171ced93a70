"""Claims by one-sided MPI: one integer in a window on rank 0, incremented by `Fetch_and_op`. No rank serves the others.

The count is of blocks, not positions. Reaching it needs rank 0 to make progress while it computes outside MPI. On one node
implementations do that in shared memory by themselves (seen with MPICH 5.0: 0.1 ms while rank 0 sleeps; Open MPI 4.1 with a window it
allocated). Across nodes they do not (seen with Open MPI 4.1: 8 s); there a thread on rank 0 enters MPI every millisecond (then 13 ms).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from campaign.errors import LauncherError
from campaign.worker.claims.blocks import ClaimBlocks

if TYPE_CHECKING:
    from mpi4py import MPI

PROGRESS_INTERVAL_S: Final = 0.001
"""How often rank 0's thread enters MPI when ranks are on several nodes."""

CLOSE_INTERVAL_S: Final = 0.02
"""How often a rank that has finished looks whether the others have. Blocking calls of MPI would keep its core busy meanwhile."""


class MpiClaims:
    """Claims of this rank of `comm`. Making it and `close` are collective: all ranks of `comm` do both.

    Raises:
        LauncherError: the ranks are on several nodes and MPI was not initialised for several threads.

    Example, in every rank of `mpiexec -n 4 python …`:

        claims = MpiClaims(MPI.COMM_WORLD, plan_blocks(1000, n_ranks=4))
        while block := claims.next():
            ...
        claims.close()
    """

    def __init__(self, comm: MPI.Intracomm, blocks: ClaimBlocks, progress_thread: bool | None = None) -> None:
        from mpi4py import MPI  # loads the MPI library

        self._mpi = MPI
        self._comm = comm
        self._blocks = blocks
        self._exhausted = False
        if progress_thread is None:
            progress_thread = _is_on_several_nodes(comm)
        if progress_thread and MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise LauncherError(
                f"the {comm.size} ranks are on several nodes and MPI was initialised without MPI_THREAD_MULTIPLE, so claims would wait "
                "for rank 0's steps. Initialise MPI with Init_thread(THREAD_MULTIPLE), use one node per array task, "
                'or set launcher = "none".'
            )
        size_bytes = 8 if comm.rank == 0 else 0
        self._window: Any = MPI.Win.Allocate(size_bytes, 8, comm=comm)
        if comm.rank == 0:
            self._window.Lock(0)
            self._window.tomemory()[:] = bytes(8)
            self._window.Unlock(0)
        comm.Barrier()  # nobody counts before the count is zero
        self._window.Lock_all(MPI.MODE_NOCHECK)
        self._one = np.ones(1, np.int64)
        self._count = np.zeros(1, np.int64)
        self._progress = _Progress() if progress_thread and comm.rank == 0 else None

    def next(self) -> range:
        """Return the next block that no rank has claimed."""
        if self._exhausted:
            return self._blocks.block(len(self._blocks))
        self._window.Fetch_and_op(self._one, self._count, 0, 0, self._mpi.SUM)
        self._window.Flush(0)
        block = self._blocks.block(int(self._count[0]))
        self._exhausted = not block
        return block

    def close(self) -> None:
        """Wait, asleep, until all ranks close, and free the window. Rank 0 goes on answering while it waits."""
        if self._window is None:
            return
        self._window.Unlock_all()
        everyone = self._comm.Ibarrier()
        while not everyone.Test():
            time.sleep(CLOSE_INTERVAL_S)
        if self._progress is not None:
            self._progress.stop()
        self._window.Free()
        self._window = None


class _Progress:
    """A thread that enters MPI regularly. A C call that keeps the interpreter's lock holds it up; torch and Warp release it."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self._comm = MPI.COMM_SELF
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claims-progress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(PROGRESS_INTERVAL_S):
            self._comm.Iprobe()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _is_on_several_nodes(comm: MPI.Intracomm) -> bool:
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    alone = node.size < comm.size
    node.Free()
    return bool(comm.allreduce(alone, MPI.LOR))
