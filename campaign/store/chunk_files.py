"""Reading the chunks of a store on a file system without Zarr's event loop: one read, one checksum, one decompression a chunk.

Errors name the file. What the bytes mean, `chunk_codec.py` says; arrays that it does not know are read by Zarr.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import StoreDamagedError
from campaign.store.chunk_codec import NO_CHUNK, ChunkCodec, check_chunk

RESTORE: Final = "The file was changed, cut or lost: run `campaign repair`, which keeps what is good, or restore it."
"""What to do about a damaged file of a store."""

CACHE_BYTES: Final = 64 * 2**20
"""Decoded chunks that a reader keeps, so that neighbouring structures cost one decompression."""


class ChunkFiles:
    """Chunks of the arrays of one store on a file system, decoded; those asked for one by one are kept up to `CACHE_BYTES`."""

    def __init__(self, root: Path | str) -> None:
        self._root = str(root)
        self._lock = threading.Lock()
        self._indices: dict[str, tuple[tuple[int, int, int], UInt64[ndarray, "chunks 2"]]] = {}
        self._kept: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._kept_bytes = 0

    def read(self, path: str, codec: ChunkCodec, start: int, stop: int) -> NDArray[Any]:
        """Return rows `start:stop` of the array at `path`, each chunk read and decoded once.

        Raises:
            StoreDamagedError: a chunk is missing or damaged; the text names its file.
            OSError: it cannot be read.
        """
        first, last = start // codec.chunk_rows, -(-stop // codec.chunk_rows)
        if last - first == 1:
            return self.chunk(path, codec, first)[start - first * codec.chunk_rows : stop - first * codec.chunk_rows]
        out = np.empty((stop - start, *codec.trailing), dtype=object if codec.dtype == "string" else codec.dtype)
        for number in range(first, last):
            begin = number * codec.chunk_rows
            low, high = max(begin, start), min(begin + codec.chunk_rows, stop)
            out[low - start : high - start] = self.decoded(path, codec, number)[low - begin : high - begin]
        return out

    def chunk(self, path: str, codec: ChunkCodec, number: int) -> NDArray[Any]:
        """Return one chunk, which must not be changed; it is kept for the next one who asks.

        Raises:
            StoreDamagedError, OSError: see `read`.
        """
        key = (path, number)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
        rows = self.decoded(path, codec, number)
        rows.flags.writeable = False
        n_bytes = 64 * len(rows) if codec.dtype == "string" else rows.nbytes
        with self._lock:
            if key not in self._kept and n_bytes <= CACHE_BYTES:
                self._kept[key] = rows
                self._kept_bytes += n_bytes
                while self._kept_bytes > CACHE_BYTES:
                    _, old = self._kept.popitem(last=False)
                    self._kept_bytes -= 64 * len(old) if old.dtype == object else old.nbytes
        return rows

    def decoded(self, path: str, codec: ChunkCodec, number: int) -> NDArray[Any]:
        """Return one chunk, which is not kept: for who asks once.

        Raises:
            StoreDamagedError, OSError: see `read`.
        """
        file, raw = self._encoded(path, codec, number)
        with _naming(file):
            return codec.decode(raw)

    def raw(self, path: str, codec: ChunkCodec, number: int) -> bytes:
        """Return one chunk as it lies in its file, with a right checksum.

        Raises:
            StoreDamagedError, OSError: see `read`.
        """
        file, raw = self._encoded(path, codec, number)
        with _naming(file):
            check_chunk(raw)
        return raw

    def check_file(self, path: str, codec: ChunkCodec, number: int) -> None:
        """Decode every chunk in one file of an array, those behind the last row too.

        Raises:
            StoreDamagedError, OSError: see `read`.
        """
        file = self._file(path, codec, number)
        raw = np.frombuffer(_whole(file), dtype=np.uint8)
        with _naming(file):
            for start, size in codec.places(raw):
                codec.decode(raw[start : start + size])

    def _encoded(self, path: str, codec: ChunkCodec, number: int) -> tuple[str, bytes]:
        """Return the file of a chunk, and the chunk."""
        if not codec.per_file:
            file = self._file(path, codec, number)
            return file, _whole(file)
        file = self._file(path, codec, number // codec.per_file)
        return file, self._inner(file, codec, number % codec.per_file)

    def _file(self, path: str, codec: ChunkCodec, number: int) -> str:
        # Text: making a Path costs as much as opening the file.
        return f"{self._root}/{path}/c/{number}{'/0' * len(codec.trailing)}"

    def _inner(self, file: str, codec: ChunkCodec, number: int) -> bytes:
        with _opened(file) as descriptor:
            start, size = self._index_of(file, descriptor, codec)[number].tolist()
            if start == NO_CHUNK:
                raise StoreDamagedError(f"{file} cannot be decoded: chunk {number} is not in it. {RESTORE}")
            return _pread(descriptor, size, start)

    def _index_of(self, file: str, descriptor: int, codec: ChunkCodec) -> UInt64[ndarray, "chunks 2"]:
        # A store that is published anew has other files under the same names.
        found = os.fstat(descriptor)
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._indices.get(file)
        if known is None or known[0] != version:
            tail = _pread(descriptor, codec.index_bytes, max(found.st_size - codec.index_bytes, 0))
            with _naming(file):
                known = version, codec.index(tail, found.st_size)
            self._indices[file] = known
        return known[1]


def _whole(file: str) -> bytes:
    with _opened(file) as descriptor:
        return _pread(descriptor, os.fstat(descriptor).st_size, 0)


@contextmanager
def _opened(file: str) -> Iterator[int]:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        raise StoreDamagedError(f"{file} is missing, though its rows are committed. {RESTORE}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Say which file a damage is in."""
    try:
        yield
    except StoreDamagedError as error:
        raise StoreDamagedError(f"{file} cannot be decoded: {error}. {RESTORE}") from error


def _pread(descriptor: int, n_bytes: int, start: int) -> bytes:
    # One call gives at most 2 GiB; whoever cut the file leaves less than there should be, which the checksum tells.
    parts = []
    while n_bytes > 0 and (part := os.pread(descriptor, n_bytes, start)):
        parts.append(part)
        n_bytes, start = n_bytes - len(part), start + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
