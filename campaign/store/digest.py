"""Fingerprints of the arrays of a store, so that two runs can be compared byte for byte."""

from __future__ import annotations

import hashlib

from campaign.store.layout import Chunking, meta_arrays
from campaign.store.reader import StoreReader
from campaign.store.targets import Target, encode_document, get_bytes, open_target


def digest(target: Target) -> dict[str, str]:
    """Return the SHA-256 of each array: its document, then the bytes of its files in order.

    Root attributes, which hold provenance, are left out.

    Raises:
        StoreNotFoundError, StoreDamagedError: there is no such store, or it does not add up.

    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> from campaign.fields import FIELDS
    >>> from campaign.store.writer import write_store
    >>> stores = [MemoryStore(), MemoryStore()]
    >>> for job, store in enumerate(stores):
    ...     write_store(store, [FIELDS["energy"]], np.array([2]), {"energy": np.array([[-1.0]])}, {"job": job})
    >>> digest(stores[0]) == digest(stores[1])
    True
    """
    reader = StoreReader.open(target)
    store = open_target(target, read_only=True)
    paths = [*(spec.path for spec in meta_arrays(Chunking())), *(field.path for field in reader.fields)]
    digests = {}
    for path in sorted(paths):
        array = reader.array(path)
        hashed = hashlib.sha256(encode_document(array.metadata.to_dict()))
        rows = (array.shards or array.chunks)[0]
        for index in range(-(-array.shape[0] // rows)):
            key = array.metadata.encode_chunk_key((index, *(0 for _ in array.shape[1:])))
            hashed.update(get_bytes(store, f"{path}/{key}") or b"")
        digests[path] = hashed.hexdigest()
    return digests
