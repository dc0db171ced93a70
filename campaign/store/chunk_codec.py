"""Chunks of one array as bytes, encoded and decoded without Zarr's event loop, and the output shards that hold several of them.

Zarr needs about a millisecond a chunk, which is nothing for whole arrays and everything for the many small chunks of many shards. Only the
codecs that this project writes are known here: bytes, then zstd or Blosc, then CRC-32C. For any other array `chunk_codec` returns None,
and Zarr does it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import google_crc32c
import numpy as np
from jaxtyping import UInt64
from numcodecs import Blosc
from numcodecs.zstd import Zstd
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import StoreDamagedError

_CRC_BYTES: Final = 4

_NO_CHUNK: Final = 2**64 - 1
"""Offset and length, in the index of an output shard, of a chunk that is not there since no row of it is used."""

_SHUFFLES: Final = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE}


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """How a chunk of `chunk_rows` rows becomes bytes. Two arrays of equal codecs have equal bytes for equal rows.

    `compression` is the name and, as JSON, the configuration of the codec that compresses.
    """

    dtype: str
    trailing: tuple[int, ...]
    chunk_rows: int
    compression: tuple[str, str]

    @property
    def is_text(self) -> bool:
        """Whether rows are text, whose chunks can be checked and copied here but not decoded."""
        return self.dtype == "string"

    def decode(self, raw: bytes) -> NDArray[Any]:
        """Return the rows of a chunk.

        Raises:
            StoreDamagedError: the checksum is wrong, or it does not hold as many rows as it should. The text names no file.
        """
        payload = _checked(raw)
        try:
            values = np.frombuffer(_compressor(*self.compression).decode(payload), dtype=np.dtype(self.dtype).newbyteorder("<"))
            return values.reshape(self.chunk_rows, *self.trailing)
        except (RuntimeError, ValueError) as error:
            raise StoreDamagedError(f"it does not hold {self.chunk_rows} rows: {error}.") from error

    def encode(self, rows: NDArray[Any]) -> bytes:
        """Return the bytes of a chunk; rows that are missing at its end are zeros."""
        if len(rows) < self.chunk_rows:
            padded = np.zeros((self.chunk_rows, *self.trailing), dtype=self.dtype)
            padded[: len(rows)] = rows
            rows = padded
        return self.compress(np.ascontiguousarray(rows, dtype=np.dtype(self.dtype).newbyteorder("<")))

    def compress(self, payload: NDArray[Any]) -> bytes:
        """Return the bytes of a chunk that is serialized already."""
        encoded: bytes = _compressor(*self.compression).encode(payload)
        return encoded + _crc(encoded)


def chunk_codec(document: Mapping[str, Any]) -> ChunkCodec | None:
    """Return the codec of the chunks of an array, or of those inside its output shards; None if they need Zarr."""
    chunk_shape = document["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = document["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        chunk_shape, codecs = inner["chunk_shape"], inner["codecs"]
    if len(codecs) != 3 or codecs[1]["name"] not in ("zstd", "blosc") or codecs[2]["name"] != "crc32c":
        return None
    dtype, first, compressing = document["data_type"], codecs[0], codecs[1]
    if dtype == "string":
        is_ours = first["name"] == "vlen-utf8"
    else:
        is_ours = first["name"] == "bytes" and first.get("configuration", {}).get("endian", "little") == "little"
    configuration = compressing["configuration"]
    if not is_ours or configuration.get("checksum") or configuration.get("shuffle", "noshuffle") not in _SHUFFLES:
        return None
    if not isinstance(dtype, str) or list(chunk_shape[1:]) != list(document["shape"][1:]):
        return None
    return ChunkCodec(dtype, tuple(chunk_shape[1:]), int(chunk_shape[0]), (compressing["name"], json.dumps(configuration, sort_keys=True)))


def check_chunk(raw: bytes) -> bytes:
    """Return `raw` if its checksum is right.

    Raises:
        StoreDamagedError: it is not; the text names no file.
    """
    _checked(raw)
    return raw


def join_chunks(chunks: Sequence[bytes], n_chunks: int) -> bytes:
    """Return the output shard of the first of `n_chunks` chunks: one behind the other, then where each lies, then the checksum of that."""
    sizes = np.array([len(chunk) for chunk in chunks], dtype="<u8")
    index = np.full((n_chunks, 2), _NO_CHUNK, dtype="<u8")
    index[: len(chunks), 0] = np.cumsum(sizes) - sizes
    index[: len(chunks), 1] = sizes
    return b"".join([*chunks, index.tobytes(), _crc(index.tobytes())])


def split_chunks(raw: bytes, n_chunks: int) -> list[bytes]:
    """Return the chunks of an output shard, each with a right checksum.

    Raises:
        StoreDamagedError: one is not, or they do not fill the file. The text names no file.
    """
    index = chunk_index(raw[-index_bytes(n_chunks) :], n_chunks)
    used = index[index[:, 1] != _NO_CHUNK]
    if int(used[:, 1].sum()) + index_bytes(n_chunks) != len(raw):
        raise StoreDamagedError("its chunks do not fill it.")
    return [check_chunk(raw[start : start + size]) for start, size in used.tolist()]


def index_bytes(n_chunks: int) -> int:
    """Return the length of what stands behind the chunks of an output shard."""
    return 16 * n_chunks + _CRC_BYTES


def chunk_index(tail: bytes, n_chunks: int) -> UInt64[ndarray, "n 2"]:
    """Return where each chunk of an output shard begins, and how long it is.

    Raises:
        StoreDamagedError: the checksum is wrong, or there is no such index. The text names no file.
    """
    if len(tail) != index_bytes(n_chunks):
        raise StoreDamagedError(f"it has no index of {n_chunks} chunks.")
    return np.frombuffer(_checked(tail), dtype="<u8").reshape(n_chunks, 2)


def _checked(raw: bytes) -> bytes:
    payload = raw[:-_CRC_BYTES]
    if len(raw) <= _CRC_BYTES or _crc(payload) != raw[-_CRC_BYTES:]:
        raise StoreDamagedError("its checksum is wrong.")
    return payload


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CRC_BYTES, "little")


@lru_cache(maxsize=64)
def _compressor(name: str, configuration: str) -> Zstd | Blosc:
    given = json.loads(configuration)
    if name == "zstd":
        return Zstd(level=int(given["level"]))
    return Blosc(given["cname"], int(given["clevel"]), _SHUFFLES[given["shuffle"]], int(given.get("blocksize", 0)))
