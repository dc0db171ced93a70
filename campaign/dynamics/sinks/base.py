"""What a sink is: a place that systems are written to and read back from, as a batch, in the order in which they came.

Everything that ends a system, takes a snapshot or buffers between stages talks to this class, whoever calls and wherever the data goes.
Writing a new sink takes five methods; `stored.py` has the checks that all sinks share, and `campaign.testing.sink_contract` the tests
that each must pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from jaxtyping import Bool
from torch import Tensor
from torch import distributed as dist

from campaign.data import Batch

__all__ = ["DataSink"]


class DataSink(ABC):
    """Store of systems with a fixed capacity.

    A sink has the fields of the first batch written to it: name, level, dtype and shape of a row; a batch with others is refused. It keeps
    all of them, custom ones too, except keys that begin with an underscore, which are bookkeeping of hooks. What a sink does with
    neighbour data is its own matter and stands in its docstring; it is never part of what must agree.

    A sink never changes the batch it is given and keeps no reference to it.

    >>> from campaign.dynamics.sinks import HostMemory
    >>> isinstance(HostMemory(capacity=2), DataSink)
    True
    """

    @abstractmethod
    def write(self, batch: Batch, mask: Bool[Tensor, " N"] | None = None) -> None:
        """Add systems of `batch`: all, or those where `mask` is true.

        All of them are added or none; a batch or mask without systems changes nothing.

        Raises:
            SinkFullError: they do not all fit (a RuntimeError).
            ArgumentError: `mask` does not have one entry per system (a ValueError).
            FieldError: the batch has other fields than the sink (a ValueError).
        """

    @abstractmethod
    def read(self) -> Batch:
        """Return all systems in the order in which they were written, as a batch of its own.

        Raises:
            EmptySinkError: there are none (a RuntimeError).
        """

    @abstractmethod
    def zero(self) -> None:
        """Remove all systems; the next write may have other fields."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of systems."""

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Number of systems that fit."""

    @property
    def is_full(self) -> bool:
        """Whether no further system fits."""
        return len(self) >= self.capacity

    @property
    def waited_s(self) -> float:
        """Seconds for which writes waited for those before them; 0 for a sink that writes at once."""
        return 0.0

    def drain(self) -> Batch:
        """Return all systems and remove them.

        Raises:
            EmptySinkError: there are none (a RuntimeError).
        """
        batch = self.read()
        self.zero()
        return batch

    def flush(self) -> None:  # noqa: B027 - not abstract: right as it is for a sink in memory
        """Return when everything written is where this sink keeps it; nothing to do for a sink in memory."""

    def close(self) -> None:  # noqa: B027
        """Flush and let go of files and threads. What was written can still be read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.close()
        except Exception as error:
            if value is None:
                raise
            # What went wrong in the block is what to tell.
            value.add_note(f"closing the sink failed too: {error}")

    @property
    def local_rank(self) -> int:
        """Rank of this process on its node; 0 without torch.distributed."""
        return dist.get_node_local_rank(fallback_rank=0) if dist.is_available() and dist.is_initialized() else 0

    @property
    def global_rank(self) -> int:
        """Rank of this process; 0 without torch.distributed."""
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
