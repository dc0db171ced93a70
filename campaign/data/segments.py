"""How the rows of one level are shared out among the systems of a batch, on the host and on the device.

An object never changes: whenever systems come, go or change places, a batch gets a new one. So two batches, or one batch at two times,
have the same systems in the same order if they hold the same object, and whoever keeps something per system can ask that for free.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int32, Int64
from numpy import ndarray
from torch import Tensor

from campaign.data.pointers import ptr_from_lengths

__all__ = ["Segments"]


class Segments:
    """Lengths and pointer of N segments; copies on the device are made when first asked for and kept.

    >>> atoms = Segments(np.array([2, 3]), torch.device("cpu"))
    >>> atoms.batch_idx.tolist(), atoms.batch_ptr.tolist()
    ([0, 0, 1, 1, 1], [0, 2, 5])
    """

    __slots__ = ("_batch_idx", "_batch_ptr", "_lengths_on_device", "device", "lengths", "ptr")

    def __init__(self, lengths: Int64[ndarray, " N"], device: torch.device) -> None:
        self.lengths = lengths
        self.ptr = ptr_from_lengths(lengths)
        self.device = device
        self._batch_idx: Tensor | None = None
        self._batch_ptr: Tensor | None = None
        self._lengths_on_device: Tensor | None = None
        self.lengths.flags.writeable = False
        self.ptr.flags.writeable = False

    @property
    def n_segments(self) -> int:
        """N."""
        return len(self.lengths)

    @property
    def n_rows(self) -> int:
        """Rows of all segments together."""
        return int(self.ptr[-1])

    @property
    def batch_ptr(self) -> Int32[Tensor, " N+1"]:
        """Pointer on the device."""
        if self._batch_ptr is None:
            self._batch_ptr = torch.from_numpy(self.ptr.astype(np.int32)).to(self.device)
        return self._batch_ptr

    @property
    def batch_idx(self) -> Int32[Tensor, " A"]:
        """Segment of each row, on the device."""
        if self._batch_idx is None:
            owners = np.repeat(np.arange(self.n_segments, dtype=np.int32), self.lengths)
            self._batch_idx = torch.from_numpy(owners).to(self.device)
        return self._batch_idx

    @property
    def lengths_on_device(self) -> Int32[Tensor, " N"]:
        """Rows of each segment, on the device."""
        if self._lengths_on_device is None:
            self._lengths_on_device = torch.from_numpy(self.lengths.astype(np.int32)).to(self.device)
        return self._lengths_on_device

    def to(self, device: torch.device) -> Segments:
        """Return the same segments for another device; itself where it is that device."""
        return self if device == self.device else Segments(self.lengths, device)
