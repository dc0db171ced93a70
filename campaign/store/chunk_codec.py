"""Chunks and files of one array as bytes, without Zarr's event loop: the one place that knows how rows become bytes and come back.

Zarr needs about a millisecond a chunk for its own work, which is nothing for a whole array and everything for the many small chunks of many
shards. Only what this project writes, or ever wrote, is known here: `bytes` or `vlen-utf8`, then Blosc, zstd or nothing, then `crc32c`, and
`sharding_indexed` around. For any other array `ChunkCodec.of` returns None, and Zarr does it. Any Zarr reader decodes what is encoded here;
tests compare the bytes with zarr-python's. See docs/decisions/0006-codec.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Self, TypeAlias

import google_crc32c
import numpy as np
from jaxtyping import UInt64
from numcodecs import Blosc, VLenUTF8
from numcodecs.zstd import Zstd
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import StoreDamagedError, StoreError
from campaign.store.layout import ArraySpec

Encoded: TypeAlias = "bytes | NDArray[np.uint8]"
"""What is encoded; a view where copying would cost."""

NO_CHUNK: Final = 2**64 - 1
"""Offset and length, in the index of a file, of a chunk that is not in it."""

_CRC_BYTES: Final = 4

_SHUFFLES: Final = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE}

_PLAIN: Final = ("", "{}")
"""The compression of chunks that are not compressed."""


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """How a chunk of `chunk_rows` rows becomes bytes, and a file, which holds up to `per_file` chunks and an index, or one if that is 0.

    `compression` is the name and, as JSON, the configuration of the codec that compresses. Objects may be shared between threads.
    """

    dtype: str
    trailing: tuple[int, ...]
    chunk_rows: int
    per_file: int
    compression: tuple[str, str]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self | None:
        """Return the codec of an array by its zarr.json, or None if only Zarr can read it.

        Raises:
            KeyError, TypeError, ValueError, IndexError: it is no document of an array.
        """
        codecs, shape, dtype = document["codecs"], document["chunk_grid"]["configuration"]["chunk_shape"], document["data_type"]
        per_file = 0
        if codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            index_codecs = [codec["name"] for codec in inner["index_codecs"]]
            if len(codecs) > 1 or inner.get("index_location", "end") != "end" or index_codecs != ["bytes", "crc32c"]:
                return None
            per_file = int(shape[0]) // int(inner["chunk_shape"][0])
            codecs, shape = inner["codecs"], inner["chunk_shape"]
        if len(codecs) < 2:
            return None  # no checksum
        serializer, *compressing, last = codecs
        is_ours = (
            isinstance(dtype, str)
            and serializer["name"] == ("vlen-utf8" if dtype == "string" else "bytes")
            and serializer.get("configuration", {}).get("endian", "little") == "little"
            and len(compressing) < 2
            and last["name"] == "crc32c"
            and list(shape[1:]) == list(document["shape"][1:])
        )
        compression = _compression(compressing[0]) if compressing else _PLAIN
        return cls(dtype, tuple(shape[1:]), int(shape[0]), per_file, compression) if is_ours and compression is not None else None

    @property
    def index_bytes(self) -> int:
        """Bytes at the end of a file that say where its chunks lie."""
        return 16 * self.per_file + _CRC_BYTES

    def has_chunks_of(self, other: ChunkCodec) -> bool:
        """Tell whether equal rows are equal chunks with both, however many of them lie in a file."""
        return replace(self, per_file=other.per_file) == other

    def encode(self, rows: NDArray[Any]) -> bytes:
        """Return a chunk; rows that are missing at its end are zeros or empty text. Equal rows give equal bytes.

        Single-threaded but on the main thread, and without Python's lock for most of the time.
        """
        if len(rows) < self.chunk_rows:
            padded = np.zeros((self.chunk_rows, *self.trailing), dtype=np.dtypes.StringDType() if self.dtype == "string" else self.dtype)
            padded[: len(rows)] = rows
            rows = padded
        if self.dtype == "string":
            payload = VLenUTF8().encode(rows.astype(object))
        else:
            payload = np.ascontiguousarray(rows, dtype=np.dtype(self.dtype).newbyteorder("<"))
        compressor = _compressor(*self.compression)
        return _with_checksum(bytes(payload) if compressor is None else compressor.encode(payload))

    def encode_all(self, rows: NDArray[Any]) -> list[bytes]:
        """Return the chunks of `rows`, the first of which begins a chunk; see `encode`."""
        return [self.encode(rows[at : at + self.chunk_rows]) for at in range(0, len(rows), self.chunk_rows)]

    def decode(self, raw: Encoded) -> NDArray[Any]:
        """Return the rows of a chunk; they cannot be written to if they are numbers.

        Raises:
            StoreDamagedError: the checksum is wrong, or it does not hold its rows; the text names no file.
        """
        payload = _checked(raw)
        compressor = _compressor(*self.compression)
        try:
            data = payload if compressor is None else compressor.decode(payload)
            if self.dtype == "string":
                texts: NDArray[Any] = VLenUTF8().decode(data)
                return texts.reshape(self.chunk_rows)
            return np.frombuffer(data, dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.chunk_rows, *self.trailing)
        except (RuntimeError, ValueError) as error:
            raise StoreDamagedError(f"it does not hold {self.chunk_rows} rows: {error}") from error

    def join(self, chunks: Sequence[bytes]) -> bytes:
        """Return the file of some chunks, the first that fit into it: one behind the other, where each lies, the checksum of that."""
        if not self.per_file:
            (chunk,) = chunks
            return chunk
        sizes = np.array([len(chunk) for chunk in chunks], dtype="<u8")
        index = np.full((self.per_file, 2), NO_CHUNK, dtype="<u8")
        index[: len(chunks), 0] = np.cumsum(sizes) - sizes
        index[: len(chunks), 1] = sizes
        return b"".join([*chunks, _with_checksum(index.tobytes())])

    def places(self, raw: Encoded) -> list[tuple[int, int]]:
        """Return position and size of each chunk that is in a file.

        Raises:
            StoreDamagedError: see `index`.
        """
        if not self.per_file:
            return [(0, len(raw))]
        index = self.index(raw[-self.index_bytes :], len(raw))
        return [(start, size) for start, size in index.tolist() if start != NO_CHUNK]

    def split(self, raw: bytes) -> list[bytes]:
        """Return the chunks that are in a file, each with a right checksum.

        Raises:
            StoreDamagedError: one is not, or they do not fill the file. The text names no file.
        """
        places = self.places(raw)
        if self.per_file and sum(size for _, size in places) + self.index_bytes != len(raw):
            raise StoreDamagedError("its chunks do not fill it")
        chunks = [raw[start : start + size] for start, size in places]
        for chunk in chunks:
            check_chunk(chunk)
        return chunks

    def index(self, tail: Encoded, file_bytes: int) -> UInt64[ndarray, "chunks 2"]:
        """Return position and size of each chunk of a file by its last `index_bytes`; both are `NO_CHUNK` for one that is not in it.

        Raises:
            StoreDamagedError: the checksum is wrong, or a chunk is not within the file; the text names no file.
        """
        if len(tail) != self.index_bytes:
            raise StoreDamagedError(f"{file_bytes} bytes hold no index of {self.per_file} chunks")
        index = _checked(tail).view("<u8").reshape(self.per_file, 2)
        there = index[:, 0] != NO_CHUNK
        if np.any(index[there].sum(axis=1) > file_bytes - self.index_bytes):
            raise StoreDamagedError("its index names a chunk that is not within the file")
        return index


@lru_cache(maxsize=256)
def codec_of(spec: ArraySpec) -> ChunkCodec:
    """Return the codec of an array that we write.

    Raises:
        StoreError: the layout names codecs that only Zarr knows.
    """
    document = spec.document(0)
    codec = ChunkCodec.of(document)
    if codec is None:
        raise StoreError(f"{spec.path} has the codecs {document['codecs']}, which chunk_codec.py does not write. Add them there.")
    return codec


def check_chunk(raw: Encoded) -> None:
    """Look at the checksum of a chunk.

    Raises:
        StoreDamagedError: it is wrong; the text names no file.
    """
    _checked(raw)


def _checked(raw: Encoded) -> NDArray[np.uint8]:
    view = np.frombuffer(raw, dtype=np.uint8)
    payload = view[:-_CRC_BYTES]
    if len(view) <= _CRC_BYTES or _crc(payload) != view[-_CRC_BYTES:].tobytes():
        raise StoreDamagedError("its checksum is wrong")
    return payload


def _with_checksum(data: bytes) -> bytes:
    return data + _crc(data)


def _crc(data: Encoded) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CRC_BYTES, "little")


def _compression(codec: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return name and configuration of a codec that compresses as we do, else None."""
    name, configuration = codec["name"], codec.get("configuration", {})
    if name == "zstd":
        is_ours = not configuration.get("checksum")
    else:
        is_ours = name == "blosc" and configuration.get("shuffle") in _SHUFFLES
    return (name, json.dumps(configuration, sort_keys=True)) if is_ours else None


@lru_cache(maxsize=64)
def _compressor(name: str, configuration: str) -> Zstd | Blosc | None:
    given = json.loads(configuration)
    if name == "":
        return None
    if name == "zstd":
        return Zstd(level=int(given["level"]))
    return Blosc(given["cname"], int(given["clevel"]), _SHUFFLES[given["shuffle"]], int(given.get("blocksize", 0)))
