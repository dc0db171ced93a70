"""Structures as tensors: `AtomicData` is one, `Batch` is many, with levels atom, edge and system."""

from campaign.data.atomic_data import AtomicData
from campaign.data.batch import Batch
from campaign.data.segments import Segments

__all__ = ["AtomicData", "Batch", "Segments"]
