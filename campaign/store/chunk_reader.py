"""Decoding chunks of a store on a file system without Zarr's event loop: one read, one checksum, one decompression a chunk.

Zarr needs about a millisecond a chunk for its own work, which is nothing for a whole array and everything for one structure of a million.
Only what this project writes is known here: bytes or text, zstd or nothing, CRC-32C, plain or in output shards. For any other array
`ChunkFormat.of` returns None, and Zarr reads it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import google_crc32c
import numpy as np
from jaxtyping import UInt64
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import StoreDamagedError

_CRC_BYTES: Final = 4
_NOWHERE: Final = 2**64 - 1
"""What the index of an output shard says of a chunk that is not in it."""

RESTORE: Final = "The file was changed, cut or lost: run `campaign repair`, which keeps what is good, or restore it."
"""What to do about a damaged file of a store."""

CACHE_BYTES: Final = 64 * 2**20
"""Decoded chunks that a reader keeps, so that neighbouring structures cost one decompression."""

_ZSTD: Final = Zstd()


@dataclass(frozen=True, slots=True)
class ChunkFormat:
    """How `chunk_rows` rows of an array lie in a file, which holds `per_file` such chunks if the array has output shards, else one."""

    dtype: str
    trailing: tuple[int, ...]
    chunk_rows: int
    per_file: int
    is_compressed: bool

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self | None:
        """Return the format of an array by its zarr.json, or None if only Zarr can read it."""
        codecs, shape = document["codecs"], document["chunk_grid"]["configuration"]["chunk_shape"]
        file_rows = int(shape[0])
        if codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            index = [codec["name"] for codec in inner["index_codecs"]]
            if len(codecs) > 1 or inner.get("index_location", "end") != "end" or index != ["bytes", "crc32c"]:
                return None
            codecs, shape = inner["codecs"], inner["chunk_shape"]
        is_sharded = codecs is not document["codecs"]
        names = [codec["name"] for codec in codecs]
        serializer = codecs[0]
        dtype = document["data_type"]
        is_ours = (
            serializer["name"] == ("vlen-utf8" if dtype == "string" else "bytes")
            and serializer.get("configuration", {}).get("endian", "little") == "little"
            and names[1:] in (["zstd", "crc32c"], ["crc32c"])
            and list(shape[1:]) == list(document["shape"][1:])
        )
        if not is_ours or not isinstance(dtype, str):
            return None
        per_file = file_rows // int(shape[0]) if is_sharded else 0
        return cls(dtype, tuple(shape[1:]), int(shape[0]), per_file, names[1] == "zstd")

    @property
    def file_rows(self) -> int:
        """Rows in one file."""
        return self.chunk_rows * max(self.per_file, 1)

    @property
    def index_bytes(self) -> int:
        """Bytes at the end of an output shard that say where its chunks lie."""
        return 16 * self.per_file + _CRC_BYTES

    def decode(self, raw: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the rows of a chunk; they cannot be written to.

        Raises:
            StoreDamagedError: the checksum is wrong, or it does not hold its rows; the text names no file.
        """
        payload = _checked(raw)
        try:
            data = _ZSTD.decode(payload) if self.is_compressed else payload
            if self.dtype == "string":
                rows: NDArray[Any] = VLenUTF8().decode(data)
                return rows.reshape(self.chunk_rows)
            return np.frombuffer(data, dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.chunk_rows, *self.trailing)
        except (RuntimeError, ValueError) as error:
            raise StoreDamagedError(f"it does not hold {self.chunk_rows} rows: {error}") from error

    def index(self, tail: NDArray[np.uint8], file_bytes: int) -> UInt64[ndarray, "chunks 2"]:
        """Return where the chunks of an output shard lie: position and size of each.

        Raises:
            StoreDamagedError: its checksum is wrong, or a chunk is not within the file.
        """
        if len(tail) != self.index_bytes:
            raise StoreDamagedError(f"{file_bytes} bytes hold no index of {self.per_file} chunks")
        index = _checked(tail).view("<u8").reshape(self.per_file, 2)
        there = index[:, 0] != _NOWHERE
        if np.any(index[there].sum(axis=1) > file_bytes - self.index_bytes):
            raise StoreDamagedError("its index names a chunk that is not within the file")
        return index


class ChunkFiles:
    """Chunks of the arrays of one store on a file system, decoded; those asked for one by one are kept up to `CACHE_BYTES`."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._lock = threading.Lock()
        self._indices: dict[str, tuple[tuple[int, int, int], UInt64[ndarray, "chunks 2"]]] = {}
        self._kept: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._kept_bytes = 0

    def read(self, path: str, form: ChunkFormat, start: int, stop: int) -> NDArray[Any]:
        """Return rows `start:stop` of the array at `path`, each chunk read and decoded once.

        Raises:
            StoreDamagedError: a chunk is missing or damaged; the text names its file.
            OSError: it cannot be read.
        """
        first, last = start // form.chunk_rows, -(-stop // form.chunk_rows)
        if last - first == 1:
            return self.chunk(path, form, first)[start - first * form.chunk_rows : stop - first * form.chunk_rows]
        out = np.empty((stop - start, *form.trailing), dtype=object if form.dtype == "string" else form.dtype)
        for number in range(first, last):
            begin = number * form.chunk_rows
            low, high = max(begin, start), min(begin + form.chunk_rows, stop)
            out[low - start : high - start] = self._decode(path, form, number)[low - begin : high - begin]
        return out

    def chunk(self, path: str, form: ChunkFormat, number: int) -> NDArray[Any]:
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
        rows = self._decode(path, form, number)
        rows.flags.writeable = False
        n_bytes = 64 * len(rows) if form.dtype == "string" else rows.nbytes
        with self._lock:
            if key not in self._kept and n_bytes <= CACHE_BYTES:
                self._kept[key] = rows
                self._kept_bytes += n_bytes
                while self._kept_bytes > CACHE_BYTES:
                    _, old = self._kept.popitem(last=False)
                    self._kept_bytes -= 64 * len(old) if old.dtype == object else old.nbytes
        return rows

    def check_file(self, path: str, form: ChunkFormat, number: int) -> None:
        """Decode every chunk in one file of an array, those behind the last row too.

        Raises:
            StoreDamagedError, OSError: see `read`.
        """
        file = self._file(path, form, number)
        raw = self._bytes(file)
        with _naming(file):
            for start, size in self._places(form, raw):
                form.decode(raw[start : start + size])

    def _places(self, form: ChunkFormat, raw: NDArray[np.uint8]) -> list[tuple[int, int]]:
        if not form.per_file:
            return [(0, len(raw))]
        return [(int(start), int(size)) for start, size in form.index(raw[-form.index_bytes :], len(raw)) if int(start) != _NOWHERE]

    def _decode(self, path: str, form: ChunkFormat, number: int) -> NDArray[Any]:
        file = self._file(path, form, number // max(form.per_file, 1))
        raw = self._inner(file, form, number % form.per_file) if form.per_file else self._bytes(file)
        with _naming(file):
            return form.decode(raw)

    def _file(self, path: str, form: ChunkFormat, number: int) -> str:
        # Text: making a Path costs as much as opening the file.
        return f"{self._root}/{path}/c/{number}{'/0' * len(form.trailing)}"

    def _bytes(self, file: str) -> NDArray[np.uint8]:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            raise _missing(file) from None
        try:
            return np.frombuffer(_pread(descriptor, os.fstat(descriptor).st_size, 0), dtype=np.uint8)
        finally:
            os.close(descriptor)

    def _inner(self, file: str, form: ChunkFormat, number: int) -> NDArray[np.uint8]:
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            raise _missing(file) from None
        try:
            start, size = (int(value) for value in self._index_of(file, descriptor, form)[number])
            if start == _NOWHERE:
                raise StoreDamagedError(f"{file} cannot be decoded: chunk {number} is not in it. {RESTORE}")
            raw = _pread(descriptor, size, start)
        finally:
            os.close(descriptor)
        return np.frombuffer(raw, dtype=np.uint8)

    def _index_of(self, file: str, descriptor: int, form: ChunkFormat) -> UInt64[ndarray, "chunks 2"]:
        # A store that is published anew has other files under the same names.
        found = os.fstat(descriptor)
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._indices.get(file)
        if known is None or known[0] != version:
            tail = _pread(descriptor, form.index_bytes, max(found.st_size - form.index_bytes, 0))
            with _naming(file):
                known = version, form.index(np.frombuffer(tail, dtype=np.uint8), found.st_size)
            self._indices[file] = known
        return known[1]


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


def _missing(file: str) -> StoreDamagedError:
    return StoreDamagedError(f"{file} is missing, though its rows are committed. {RESTORE}")


def _checked(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    payload = raw[:-_CRC_BYTES]
    if len(raw) <= _CRC_BYTES or int(google_crc32c.value(payload)).to_bytes(_CRC_BYTES, "little") != raw[-_CRC_BYTES:].tobytes():
        raise StoreDamagedError("its checksum is wrong")
    return payload
