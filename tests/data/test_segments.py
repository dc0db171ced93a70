"""Segments never change, and know themselves on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from campaign.data import Segments

CPU = torch.device("cpu")


def test_pointer_owner_and_lengths() -> None:
    segments = Segments(np.array([2, 0, 3]), CPU)
    assert (segments.n_segments, segments.n_rows) == (3, 5)
    assert segments.batch_ptr.tolist() == [0, 2, 2, 5]
    assert segments.batch_idx.tolist() == [0, 0, 2, 2, 2]
    assert segments.lengths_on_device.tolist() == [2, 0, 3]
    assert {t.dtype for t in (segments.batch_ptr, segments.batch_idx, segments.lengths_on_device)} == {torch.int32}


def test_what_is_on_the_device_is_made_once() -> None:
    segments = Segments(np.array([1]), CPU)
    assert segments.batch_idx is segments.batch_idx and segments.batch_ptr is segments.batch_ptr


def test_it_does_not_change() -> None:
    segments = Segments(np.array([1, 2]), CPU)
    with pytest.raises(ValueError, match="read-only"):
        segments.lengths[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        segments.ptr[0] = 5


def test_to_the_same_device_is_itself() -> None:
    segments = Segments(np.array([1, 2]), CPU)
    assert segments.to(CPU) is segments


def test_none() -> None:
    segments = Segments(np.zeros(0, dtype=np.int64), CPU)
    assert (segments.n_segments, segments.n_rows, segments.batch_ptr.tolist(), segments.batch_idx.tolist()) == (0, 0, [0], [])
