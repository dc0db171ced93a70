"""Counts that a kernel makes on the device and the host reads without stopping it.

On a CPU the host reads what was just counted. On a GPU it reads what was counted one or two steps ago, copied to page-locked memory
behind its back: since a system that has ended is left alone on the device, reading late costs a step's work and changes no result.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from numpy import ndarray
from torch import Tensor

__all__ = ["LaggedTally"]


class LaggedTally:
    """Counts of `size` things.

    >>> tally = LaggedTally(2, torch.device("cpu"))
    >>> tally.start()[0] = 7
    >>> tally.post()
    >>> tally.read().tolist()
    [7, 0]
    """

    MOST_IN_FLIGHT = 2
    """Posted counts after which the host waits for the oldest, so that it cannot run away from the device."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._counts = torch.zeros(size, dtype=torch.int32, device=device)
        self._is_lagging = device.type == "cuda"
        self._latest: ndarray[Any, Any] = np.zeros(size, dtype=np.int32) if self._is_lagging else self._counts.numpy()
        self._in_flight: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def start(self) -> Int32[Tensor, " C"]:
        """Return the tensor to count in, all zero."""
        return self._counts.zero_()

    def post(self) -> None:
        """Say that counting is done, or rather, has been queued."""
        if self._is_lagging:
            host = torch.empty(self._counts.shape, dtype=torch.int32, pin_memory=True)
            host.copy_(self._counts, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._in_flight.append((host, event))

    def read(self) -> Int32[ndarray, " C"]:
        """Return the newest counts that have arrived; zeros before the first."""
        while self._in_flight:
            host, event = self._in_flight[0]
            has_arrived: bool = event.query()  # type: ignore[no-untyped-call]
            if not has_arrived and len(self._in_flight) <= self.MOST_IN_FLIGHT:
                break
            event.synchronize()
            self._latest = host.numpy()
            self._in_flight.popleft()
        return self._latest

    def forget(self) -> None:
        """Drop counts that are still on their way: they are of a batch that is no more."""
        self._in_flight.clear()
        if self._is_lagging:
            self._latest = np.zeros_like(self._latest)
        else:
            self._counts.zero_()
