"""Where systems go: on the device, in main memory, or to a Zarr store on disk, in memory or behind a URL."""

from campaign.dynamics.sinks.base import DataSink
from campaign.dynamics.sinks.gpu_buffer import GPUBuffer
from campaign.dynamics.sinks.host_memory import HostMemory
from campaign.dynamics.sinks.zarr_data import ZarrData

__all__ = ["DataSink", "GPUBuffer", "HostMemory", "ZarrData"]
