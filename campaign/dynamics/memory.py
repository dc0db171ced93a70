"""How large a batch may be, learned from below: from what calls took and from what did not fit, never by trying where the limit is.

    bytes of a call  ≤  a × atoms + p × pairs        a, p: fitted to what calls took, then raised until they cover all of them

A meter says what a call took and what there is; with one, a batch starts small, at most doubles at a time, and stops at a share of what
there is. Without a meter (on a CPU), or where the fit was wrong, a call may run out of memory: then the largest part of it that went
through is the most that is tried again.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Final, Protocol

import numpy as np
import torch
import warp as wp

from campaign.data import Batch, Segments

__all__ = ["CudaMeter", "MemoryLearner", "MemoryMeter", "device_peak_bytes", "meter_for"]

FIRST_ATOMS: Final = 256
"""Atoms of the first batch where a meter learns."""
GROWTH: Final = 2.0
"""How much larger than any call so far the next may be."""
SHARE: Final = 0.8
"""Share of what there is that a call may be expected to take: fragments take some, and lists grow as systems shrink."""
N_CALLS: Final = 32
"""Calls that are remembered."""
ALIKE: Final = 0.25
"""Calls smaller than this share of the largest say more about what any call takes than about atoms; they are left out of the fit."""


class MemoryMeter(Protocol):
    """Measures what calls take of the memory of a device."""

    def start(self) -> None:
        """Measure from here."""
        ...

    def taken_bytes(self) -> int:
        """Return the most that was taken at a time since `start`, above what was there then."""
        ...

    def capacity_bytes(self) -> int:
        """Return what a call could take now at the very most."""
        ...


class CudaMeter:
    """What torch, and Warp beside it, have taken of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        self._warp_before = self._warp_peak_before = 0

    def start(self) -> None:
        """Measure from here."""
        _PEAKS[self._device] = device_peak_bytes(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)
        self._warp_before, self._warp_peak_before = _warp_bytes(self._device)

    def taken_bytes(self) -> int:
        """Return the most that was taken since `start`."""
        used, peak = _warp_bytes(self._device)
        # Warp's peak is never reset: unless it has risen, it is of some call before.
        of_warp = (peak if peak > self._warp_peak_before else used) - self._warp_before
        return int(torch.cuda.max_memory_allocated(self._device)) - self._before + max(0, of_warp)

    def capacity_bytes(self) -> int:
        """Return what the device has free, together with what torch holds and does not use; no more than this process may take."""
        free, total = torch.cuda.mem_get_info(self._device)
        held, used = torch.cuda.memory_reserved(self._device), torch.cuda.memory_allocated(self._device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(self._device) * total)
        return max(0, min(int(free) + held, allowed) - used)


_PEAKS: Final[dict[torch.device, int]] = {}
"""The most that torch had taken of a device before its count was last reset."""


def device_peak_bytes(device: torch.device) -> int:
    """Return the most that torch has taken of a CUDA device in this process."""
    return max(_PEAKS.get(device, 0), int(torch.cuda.max_memory_allocated(device)))


def _warp_bytes(device: torch.device) -> tuple[int, int]:
    """Return what Warp has taken of its own memory pool, and the most it ever had; on a device without one it takes next to nothing."""
    place = wp.device_from_torch(device)
    if not wp.is_mempool_supported(place):
        return 0, 0
    return int(wp.get_mempool_used_mem_current(place)), int(wp.get_mempool_used_mem_high(place))


def meter_for(device: torch.device) -> MemoryMeter | None:
    """Return the meter of a device, or None where nobody measures."""
    return CudaMeter(device) if device.type == "cuda" else None


class MemoryLearner:
    """Learns from calls how many atoms a batch may have.

    Args:
        meter: measures calls; None learns from failures only.
    """

    def __init__(self, meter: MemoryMeter | None = None) -> None:
        self._meter = meter
        self._calls: deque[tuple[int, int, int]] = deque(maxlen=N_CALLS)
        self._of: Segments | None = None
        self._capacity_bytes = 0
        self._ceiling: tuple[int, int] | None = None
        self._largest_now = 0, 0
        self._failed_now: list[tuple[int, int]] = []
        self._has_culprit = False
        self._limit = sys.maxsize if meter is None else FIRST_ATOMS
        self.n_failures = 0
        """Calls that ran out of memory."""

    @property
    def most_atoms(self) -> int:
        """Atoms that a batch may have; at least 1. A single system may be larger."""
        return self._limit

    def per_atom_and_pair(self) -> tuple[float, float]:
        """Return a and p in bytes; without a meter both are 1, a measure of size."""
        calls = np.asarray(self._calls, dtype=np.float64).reshape(-1, 3)
        if self._meter is None or not calls[:, 2].any():
            return 1.0, 1.0
        calls = calls[calls[:, 0] >= ALIKE * calls[:, 0].max()]
        sizes, taken = calls[:, :2], calls[:, 2]
        rates, *_ = np.linalg.lstsq(sizes, taken, rcond=None)
        if (rates < 0).any() or not rates.any():
            rates = np.array([float(taken.sum() / sizes[:, 0].sum()), 0.0])
        rates = rates * float((taken / (sizes @ rates)).max())
        return float(rates[0]), float(rates[1])

    # What whoever calls a model says

    def begin(self) -> None:
        """Say that a batch is about to be evaluated, as a whole or in parts."""
        self._largest_now = 0, 0
        self._failed_now = []
        self._has_culprit = False

    def is_hopeless(self, batch: Batch) -> bool:
        """Return whether a part of the batch being evaluated is as large as one that has just failed, so that trying it is in vain."""
        return batch.num_graphs > 1 and any(batch.num_nodes >= atoms for atoms, _ in self._failed_now)

    def start(self, batch: Batch) -> None:
        """Say that a call begins. Only the first of many calls for the same systems is measured."""
        if self._meter is not None and batch.atom_segments is not self._of:
            self._meter.start()

    def succeeded(self, batch: Batch) -> None:
        """Say that the call went through."""
        if batch.atom_segments is self._of:
            return
        self._of = batch.atom_segments
        size = batch.num_nodes, _pairs_of(batch)
        self._largest_now = max(self._largest_now, size)
        taken = 0
        if self._meter is not None:
            taken = self._meter.taken_bytes()
            self._capacity_bytes = self._meter.capacity_bytes()
        self._calls.append((*size, taken))
        self._limit = self._learned()

    def failed(self, batch: Batch) -> None:
        """Say that the call ran out of memory."""
        self.n_failures += 1
        if batch.num_graphs == 1:
            self._has_culprit = True
        else:
            self._failed_now.append((batch.num_nodes, _pairs_of(batch)))

    def end(self) -> None:
        """Say that all parts of the batch were evaluated. The first largest part that went through is all that is tried from now on.

        Where a system ran out of memory by itself, that may have been all that was wrong, and nothing is learned about others.
        """
        if self._failed_now and not self._has_culprit:
            atoms, pairs = min(self._failed_now)
            largest = self._largest_now if self._largest_now[0] else (atoms // 2, pairs // 2)
            self._ceiling = largest if self._ceiling is None else min(self._ceiling, largest, key=self._cost)
            self._limit = self._learned()

    def _cost(self, size: tuple[int, int]) -> float:
        per_atom, per_pair = self.per_atom_and_pair()
        return per_atom * size[0] + per_pair * size[1]

    def _learned(self) -> int:
        """Return the limit in atoms, each with as many pairs as atoms had where they were densest."""
        per_atom, per_pair = self.per_atom_and_pair()
        per_atom += per_pair * max((pairs / max(atoms, 1) for atoms, pairs, _ in self._calls), default=0.0)
        limits = [float(sys.maxsize)]
        if self._ceiling is not None:
            limits.append(self._cost(self._ceiling) / per_atom)
        if self._meter is not None:
            limits.append(GROWTH * max((atoms for atoms, *_ in self._calls), default=FIRST_ATOMS))
            if per_atom > 0:
                limits.append(SHARE * self._capacity_bytes / per_atom)
        return max(1, int(min(limits)))


def _pairs_of(batch: Batch) -> int:
    """Return the pairs that neighbour lists on the batch hold; none are 0."""
    if "num_neighbors" in batch:
        return int(batch["num_neighbors"].sum())
    return batch.num_edges
