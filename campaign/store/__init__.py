"""Arrays and fields on disk: CSR stores that are written durably, read lazily and consolidated with Dask. Knows no physics."""

from campaign.store.layout import FORMAT, FORMAT_VERSION, Chunking
from campaign.store.reader import StoreReader
from campaign.store.targets import Target
from campaign.store.writer import ShardWriter, write_store

__all__ = ["FORMAT", "FORMAT_VERSION", "Chunking", "ShardWriter", "StoreReader", "Target", "write_store"]
