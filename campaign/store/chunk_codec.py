"""Chunks of one array as bytes, encoded and decoded without Zarr's event loop, and the output shards that hold several of them.

Zarr needs about a millisecond a chunk, which is nothing for whole arrays and everything for the many small chunks of many shards. Only the
codecs that this project writes are known here: bytes, zstd, CRC-32C. For any other array `chunk_codec` returns None, and Zarr does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import google_crc32c
import numpy as np
from jaxtyping import UInt64
from numcodecs.zstd import Zstd
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import StoreDamagedError

_CRC_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """How a chunk of `chunk_rows` rows becomes bytes. Two arrays of equal codecs have equal bytes for equal rows."""

    dtype: str
    trailing: tuple[int, ...]
    chunk_rows: int
    zstd_level: int

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
            values = np.frombuffer(_zstd(self.zstd_level).decode(payload), dtype=np.dtype(self.dtype).newbyteorder("<"))
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

    def unused(self) -> bytes:
        """Return the bytes of a chunk in which no row is used: zeros, or empty text."""
        if not self.is_text:
            return self.encode(np.zeros((0, *self.trailing), dtype=self.dtype))
        # vlen-utf8: the number of texts, then the length of each and the text.
        return self.compress(np.array([self.chunk_rows, *[0] * self.chunk_rows], dtype="<u4"))

    def compress(self, payload: NDArray[Any]) -> bytes:
        """Return the bytes of a chunk that is serialized already."""
        encoded: bytes = _zstd(self.zstd_level).encode(payload)
        return encoded + _crc(encoded)


def chunk_codec(document: Mapping[str, Any]) -> ChunkCodec | None:
    """Return the codec of the chunks of an array, or of those inside its output shards; None if they need Zarr."""
    chunk_shape = document["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = document["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        chunk_shape, codecs = inner["chunk_shape"], inner["codecs"]
    if [codec["name"] for codec in codecs[1:]] != ["zstd", "crc32c"]:
        return None
    dtype, first = document["data_type"], codecs[0]
    if dtype == "string":
        is_ours = first["name"] == "vlen-utf8"
    else:
        is_ours = first["name"] == "bytes" and first.get("configuration", {}).get("endian", "little") == "little"
    zstd = codecs[1]["configuration"]
    if not is_ours or zstd.get("checksum") or not isinstance(dtype, str) or list(chunk_shape[1:]) != list(document["shape"][1:]):
        return None
    return ChunkCodec(dtype, tuple(chunk_shape[1:]), int(chunk_shape[0]), int(zstd["level"]))


def check_chunk(raw: bytes) -> bytes:
    """Return `raw` if its checksum is right.

    Raises:
        StoreDamagedError: it is not; the text names no file.
    """
    _checked(raw)
    return raw


def join_chunks(chunks: Sequence[bytes]) -> bytes:
    """Return the output shard of whole chunks: one behind the other, then where each lies, then the checksum of that."""
    sizes = np.array([len(chunk) for chunk in chunks], dtype="<u8")
    index = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1).astype("<u8").tobytes()
    return b"".join([*chunks, index, _crc(index)])


def split_chunks(raw: bytes, n_chunks: int) -> list[bytes]:
    """Return the chunks of an output shard, each with a right checksum.

    Raises:
        StoreDamagedError: one is not, or they do not fill the file. The text names no file.
    """
    index_bytes = 16 * n_chunks + _CRC_BYTES
    index = _index(raw[-index_bytes:], n_chunks, len(raw))
    return [check_chunk(raw[start : start + size]) for start, size in index.tolist()]


def _index(tail: bytes, n_chunks: int, n_bytes: int) -> UInt64[ndarray, "n 2"]:
    if len(tail) != 16 * n_chunks + _CRC_BYTES:
        raise StoreDamagedError(f"{n_bytes} bytes hold no index of {n_chunks} chunks.")
    index = np.frombuffer(_checked(tail), dtype="<u8").reshape(n_chunks, 2)
    if int(index[:, 1].sum()) + len(tail) != n_bytes or (index[:, 0] != np.cumsum(index[:, 1]) - index[:, 1]).any():
        raise StoreDamagedError("its chunks do not fill it.")
    return index


def _checked(raw: bytes) -> bytes:
    payload = raw[:-_CRC_BYTES]
    if len(raw) <= _CRC_BYTES or _crc(payload) != raw[-_CRC_BYTES:]:
        raise StoreDamagedError("its checksum is wrong.")
    return payload


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CRC_BYTES, "little")


def _zstd(level: int) -> Zstd:
    return Zstd(level=level)
