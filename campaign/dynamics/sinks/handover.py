"""From the device to a sink that writes on the host: the step loop queues copies to page-locked memory and goes on.

The copies are queued on the device's stream, behind the step that made the values and before the next one that changes them; so nothing is
cloned, and the host waits for nothing. A thread waits until the copies have arrived, and hands them on in the order in which they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final

import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

__all__ = ["Columns", "DeviceHandover"]

Columns = Mapping[str, ndarray[Any, Any]]
"""Values by field."""


class DeviceHandover:
    """Hands systems on from a CUDA device; tensors that lie in main memory are copied at once.

    Args:
        deliver: is given the number of atoms of each system and the columns, on a thread of its own; it may wait, and copies what it keeps.

    >>> import numpy as np
    >>> seen = []
    >>> handover = DeviceHandover(lambda n_atoms, columns: seen.append((n_atoms.tolist(), columns["energy"].tolist())))
    >>> handover.put(np.array([2, 1]), {"energy": torch.tensor([-1.0, -2.0])})
    >>> handover.finish()
    >>> seen
    [([2, 1], [-1.0, -2.0])]
    >>> handover.close()
    """

    MOST_IN_FLIGHT: Final = 4
    """Handovers on their way, each with its page-locked memory, at which the next one waits for the oldest."""

    def __init__(self, deliver: Callable[[Int64[ndarray, " N"], Columns], None]) -> None:
        self.waited_s = 0.0
        """Seconds for which `put` waited because too much was on its way."""
        self._deliver = deliver
        self._thread: ThreadPoolExecutor | None = None
        self._in_flight: deque[Future[None]] = deque()
        self._error: Exception | None = None

    def put(self, n_atoms: Int64[ndarray, " N"], tensors: Mapping[str, Tensor]) -> None:
        """Queue the copies and return; the tensors, all on one device, may be changed by what is queued on its stream afterwards.

        Raises:
            Exception: what an earlier delivery raised; nothing was taken since.
        """
        start = perf_counter()
        while self._in_flight and (self._in_flight[0].done() or len(self._in_flight) >= self.MOST_IN_FLIGHT):
            self._in_flight.popleft().result()
        self.waited_s += perf_counter() - start
        self._raise_error()
        on_host = {name: _queue_copy(tensor.detach()) for name, tensor in tensors.items()}
        arrived = _event_behind(next(iter(tensors.values())).device)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device-handover")
        self._in_flight.append(self._thread.submit(self._hand_on, arrived, n_atoms.copy(), on_host))

    def finish(self) -> None:
        """Return when all has been handed on.

        Raises:
            Exception: what a delivery raised.
        """
        while self._in_flight:
            self._in_flight.popleft().result()
        self._raise_error()

    def close(self) -> None:
        """Hand all on and end the thread. What went wrong, `finish` tells."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _hand_on(self, arrived: torch.cuda.Event | None, n_atoms: Int64[ndarray, " N"], on_host: Mapping[str, Tensor]) -> None:
        if self._error is not None:
            return  # rows would be missing before these
        try:
            if arrived is not None:
                arrived.synchronize()
            self._deliver(n_atoms, {name: tensor.numpy() for name, tensor in on_host.items()})
        except Exception as error:
            self._error = error


def _queue_copy(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)


def _event_behind(device: torch.device) -> torch.cuda.Event | None:
    """Return what has happened when the copies have arrived; None where they have already."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
