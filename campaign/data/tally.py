"""Counts that a kernel makes on the device and the host reads without stopping it.

On a CPU the host reads what was just counted. On a GPU it reads what was counted one or two steps ago, copied to page-locked memory
behind its back: since a system that has ended, or that waits for something, is left alone on the device, reading late costs a step's work
and changes no result.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from numpy import ndarray
from torch import Tensor

__all__ = ["LaggedTally", "runs_behind"]


def runs_behind(device: torch.device) -> bool:
    """Return whether a device works through what the host has queued at its own pace, so that looking at a tensor means waiting.

    >>> runs_behind(torch.device("cpu"))
    False
    """
    return device.type == "cuda"


class _Copy:
    """A copy of counts on its way to page-locked memory of the host."""

    def __init__(self, counts: Tensor) -> None:
        self._host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def start(self, counts: Tensor) -> None:
        self._host.copy_(counts, non_blocking=True)
        self._event.record(torch.cuda.current_stream(counts.device))

    def has_arrived(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> ndarray[Any, Any]:
        self._event.synchronize()
        numbers: ndarray[Any, Any] = self._host.numpy().copy()
        return numbers


class LaggedTally:
    """Counts of `size` things.

    >>> tally = LaggedTally(2, torch.device("cpu"))
    >>> tally.start()[0] = 7
    >>> tally.post()
    >>> tally.read().tolist()
    [7, 0]
    """

    MOST_IN_FLIGHT = 2
    """Posted counts after which the host waits for the oldest, so that it cannot run away from the device. This, and only this, is where
    steps without exchange wait for a device: it has two more of them to work on meanwhile."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._counts = torch.zeros(size, dtype=torch.int32, device=device)
        self._is_lagging = runs_behind(device)
        self._latest: ndarray[Any, Any] = np.zeros(size, dtype=np.int32) if self._is_lagging else self._counts.numpy()
        self._in_flight: deque[_Copy] = deque()
        self._spare: deque[_Copy] = deque()

    @property
    def counts(self) -> Int32[Tensor, " C"]:
        """The tensor to count in, with what it holds."""
        return self._counts

    def start(self) -> Int32[Tensor, " C"]:
        """Return the tensor to count in, all zero."""
        return self._counts.zero_()

    def post(self) -> None:
        """Say that counting is done, or rather, has been queued."""
        if not self._is_lagging:
            return
        # Page-locked memory is dear, so copies are used again. One that was forgotten may be under way still; it queues behind itself.
        copy = self._spare.popleft() if self._spare else _Copy(self._counts)
        copy.start(self._counts)
        self._in_flight.append(copy)
        while len(self._in_flight) > self.MOST_IN_FLIGHT:
            self._take()

    def read(self) -> Int32[ndarray, " C"]:
        """Return the newest counts that have arrived; zeros before the first."""
        while self._in_flight and self._in_flight[0].has_arrived():
            self._take()
        return self._latest

    def _take(self) -> None:
        copy = self._in_flight.popleft()
        self._latest = copy.wait()
        self._spare.append(copy)

    def forget(self) -> None:
        """Drop counts that are still on their way: they are of a batch that is no more."""
        self._spare.extend(self._in_flight)
        self._in_flight.clear()
        self._counts.zero_()
        if self._is_lagging:
            self._latest = np.zeros_like(self._latest)
