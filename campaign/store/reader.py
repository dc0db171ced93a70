"""Reading any store: committed rows and nothing else, lazily, whole chunks at a time.

`StoreReader` opens shards that are still being written, published stores, stores in memory or behind a URL, and stores that
nvalchemi-toolkit wrote. What exists is what the root document says; a chunk that is missing, cut or changed raises, and never gives
numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypeAlias

import numpy as np
import zarr
from jaxtyping import Int64
from numpy import ndarray
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, StorePath, WrapperStore

from campaign.errors import CampaignError, FieldError, StoreDamagedError, StoreError, StoreNotFoundError
from campaign.fields import FIELDS, Field, Group, Level
from campaign.store.chunk_codec import ChunkCodec
from campaign.store.chunk_files import RESTORE, ChunkFiles
from campaign.store.csr import atom_rows, check_pointers, chunk_runs
from campaign.store.layout import FORMAT, FORMAT_VERSION
from campaign.store.targets import Target, describe, first_part, get_document, is_unreachable, local_path, mapped_errors, open_target

Rows: TypeAlias = "slice | Sequence[int] | NDArray[np.int64]"
"""Systems to read: a slice, or positions in any order, repeats allowed."""

READ_BYTES: Final = 32 * 2**20
"""Bytes that one read of neighbouring chunks decodes at most, beyond the answer itself."""


class StoreReader:
    """A store as it was when it was opened; `open` again to see rows that were committed since.

    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> from campaign.fields import FIELDS
    >>> from campaign.store.writer import write_store
    >>> target = MemoryStore()
    >>> write_store(target, [FIELDS["energy"]], np.array([1, 1]), {"energy": np.array([[-1.0], [-2.0]])})
    >>> StoreReader.open(target).read_system("energy", [1]).tolist()
    [[-2.0]]
    """

    def __init__(self, where: str, store: Store, root: Mapping[str, Any], documents: Mapping[str, Any] | None) -> None:
        # Use `open`; this only puts the parts together.
        self._where = where
        self._root = root
        self._documents = dict(documents or {})
        self._ours = root.get("attributes", {}).get("format") == FORMAT
        # Others leave out chunks that hold nothing but zeros; we never do, so a missing one is damage.
        self._store: Store = _NothingMissing(store, where) if self._ours else store
        self._arrays: dict[str, zarr.Array[Any]] = {}
        # Zarr reads what is behind a URL or in memory, and what others wrote.
        self._files = ChunkFiles(store.root) if self._ours and isinstance(store, LocalStore) else None
        self._codecs: dict[str, ChunkCodec | None] = {}
        self._ptr: Int64[ndarray, " N+1"] | None = None
        self._n_stored = _count(root, where)
        self._kept = None if self._ours else self._active_rows()
        self._n_systems = self._n_stored if self._kept is None else len(self._kept)
        self._fields = tuple(self._declared_fields())

    @classmethod
    def open(cls, target: Target) -> Self:
        """Open a store for reading.

        Raises:
            StoreNotFoundError: no store is there.
            StoreDamagedError: its documents do not add up.
            StoreError: it was made by a newer release, or cannot be reached.
        """
        where = describe(target)
        path = local_path(target)
        if path is not None and not path.is_dir():
            raise StoreNotFoundError(f"there is no store at {where}. Give the folder of a store, such as store.zarr.")
        with mapped_errors(where, "opening"):
            store = open_target(target, read_only=True)
            root = get_document(store, "zarr.json", where)
        if root is None or "num_samples" not in root.get("attributes", {}):
            raise StoreNotFoundError(
                f"{where} holds no store: no zarr.json with num_samples. Give the folder of a store, such as store.zarr."
            )
        attributes = root["attributes"]
        if attributes.get("format") == FORMAT and not 1 <= int(attributes.get("format_version", 0)) <= FORMAT_VERSION:
            seen = f"{where} has format_version {attributes.get('format_version')}"
            raise StoreError(f"{seen}; this release reads 1 to {FORMAT_VERSION}. Install a newer relax-campaign.")
        inline = root.get("consolidated_metadata") or {}
        return cls(where, store, root, inline.get("metadata"))

    @property
    def n_systems(self) -> int:
        """Committed systems."""
        return self._n_systems

    @property
    def format_version(self) -> int:
        """Version of the format; ours for a store of another program."""
        return int(self._root["attributes"]["format_version"]) if self._ours else FORMAT_VERSION

    @property
    def fields(self) -> tuple[Field, ...]:
        """Columns of the store."""
        return self._fields

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root, the layout's own included."""
        return dict(self._root["attributes"])

    @property
    def atoms_ptr(self) -> Int64[ndarray, " N+1"]:
        """Pointers of the committed systems into the atom arrays.

        Raises:
            StoreDamagedError: they do not start at 0, or fall.
        """
        if self._kept is not None:
            seen = f"{self._where} has deleted systems"
            raise StoreError(f"{seen}, so its atoms do not lie one behind the other. Use n_atoms and read_atoms.")
        return self._pointers()

    def n_atoms(self, rows: Rows = slice(None)) -> Int64[ndarray, " M"]:
        """Number of atoms of each of the systems `rows`."""
        at = self._positions(rows)
        ptr = self._pointers()
        counts: NDArray[np.int64] = ptr[at + 1] - ptr[at]
        return counts

    def read_system(self, name: str, rows: Rows = slice(None)) -> NDArray[Any]:
        """Return a field per system, `[M, ...]`, in the order of `rows`.

        Raises:
            FieldError: the store has no such field per system.
            StoreDamagedError: a chunk is missing or damaged; the text names its file.
        """
        self._field(name, Level.SYSTEM)
        return self.read(rows, [name])[name]

    def read_atoms(self, name: str, rows: Rows = slice(None)) -> tuple[Int64[ndarray, " M"], NDArray[Any]]:
        """Return the number of atoms of each of the systems `rows`, and a field per atom, `[A, ...]`, one system behind the other.

        Raises:
            FieldError: the store has no such field per atom.
            StoreDamagedError: a chunk is missing or damaged; the text names its file.
        """
        self._field(name, Level.ATOM)
        return self.n_atoms(rows), self.read(rows, [name])[name]

    def read(self, rows: Rows = slice(None), names: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return fields by name, by default all, for the systems `rows`; atom fields have the atoms one system behind the other."""
        at = self._positions(rows)
        wanted = [field.name for field in self._fields] if names is None else list(names)
        by_name = {field.name: field for field in self._fields}
        values = {}
        span = _span(at)
        atoms: NDArray[np.int64] | None = None
        for name in wanted:
            field = by_name.get(name) or self._field(name, None)
            if span is not None:
                start, stop = span if field.level is Level.SYSTEM else (int(row) for row in self._pointers()[list(span)])
                values[name] = self._read_span(field.path, start, stop)
            elif field.level is Level.SYSTEM:
                values[name] = self._take(field.path, at)
            else:
                atoms = atom_rows(self._pointers(), at)[1] if atoms is None else atoms
                values[name] = self._take(field.path, atoms)
        return values

    def array(self, path: str) -> zarr.Array[Any]:
        """Return one array of the store as zarr sees it, such as `core/positions`; it may have more rows than are committed."""
        if path not in self._arrays:
            with mapped_errors(f"{self._where}/{path}", "opening"):
                document = self._documents.get(path) or get_document(self._store, f"{path}/zarr.json", self._where)
                if document is None:
                    raise StoreDamagedError(f"{self._where}/{path}/zarr.json is missing, though the store lists the array. {RESTORE}")
                try:
                    self._arrays[path] = zarr.Array.from_dict(StorePath(self._store, path), document)
                except Exception as error:
                    # Whatever zarr raises here means that the document is not the one that was written.
                    seen = f"{self._where}/{path}/zarr.json describes no array that can be read: {first_part(error)}"
                    raise StoreDamagedError(f"{seen}. {RESTORE}") from error
        return self._arrays[path]

    def differing_copies(self) -> list[str]:
        """Return the members whose own document is not the copy in the root document, which is the one that readers follow.

        Raises:
            StoreDamagedError: one of them is no document.
        """
        with mapped_errors(self._where, "reading"):
            own = {path: get_document(self._store, f"{path}/zarr.json", self._where) for path in self._documents}
        return [path for path, document in own.items() if document != self._documents[path]]

    def _pointers(self) -> Int64[ndarray, " N+1"]:
        if self._ptr is None:
            if not self._n_stored:
                self._ptr = np.zeros(1, dtype=np.int64)
            else:
                ptr = self._take("meta/atoms_ptr", np.arange(self._n_stored + 1)).astype(np.int64)
                atom = [field.path for field in self._declared_fields() if field.level is Level.ATOM]
                n_rows = min((self.array(path).shape[0] for path in atom), default=int(ptr[-1]))
                check_pointers(ptr, n_rows, f"{self._where}/meta/atoms_ptr")
                self._ptr = ptr
        return self._ptr

    def _active_rows(self) -> NDArray[np.int64] | None:
        """Systems that a store of nvalchemi-toolkit keeps; None if that is all of them."""
        if not self._n_stored and get_document(self._store, "meta/samples_mask/zarr.json", self._where) is None:
            return None  # all were deleted and the store defragmented: it has no arrays any more
        mask = np.asarray(self.array("meta/samples_mask")[:], dtype=bool)
        self._n_stored = len(mask)
        return None if mask.all() else np.flatnonzero(mask)

    def _positions(self, rows: Rows) -> NDArray[np.int64]:
        if isinstance(rows, slice):
            at = np.arange(*rows.indices(self._n_systems), dtype=np.int64)
        else:
            at = np.asarray(rows, dtype=np.int64).reshape(-1)
            outside = np.flatnonzero((at < 0) | (at >= self._n_systems))
            if len(outside):
                raise IndexError(f"system {at[outside[0]]} was asked of {self._where}, which has {self._n_systems}. Positions run from 0.")
        return at if self._kept is None else self._kept[at]

    def _field(self, name: str, level: Level | None) -> Field:
        for field in self._fields:
            if field.name == name and level in (None, field.level):
                return field
        kind = f" per {level}" if level else ""
        names = ", ".join(field.name for field in self._fields if level in (None, field.level))
        raise FieldError(f"{self._where} has no field {name!r}{kind}. It has {names}. Ask for one of these.")

    def _declared_fields(self) -> Iterable[Field]:
        attributes = self._root["attributes"]
        groups = {**attributes.get("fields", {}), "labels": attributes.get("labels", {})}
        for group in Group:
            for name, level in groups.get(group, {}).items():
                if not name or "/" in name or name in (".", ".."):
                    raise StoreDamagedError(
                        f"{self._where}/zarr.json lists a field {name!r}, which is no name: it would lead elsewhere. {RESTORE}"
                    )
                known = FIELDS.get(name)
                if known is not None and self._ours:
                    yield known
                elif level != Level.EDGE:
                    array = self.array(f"{group}/{name}")
                    yield Field(name, Level(level), str(array.dtype), tuple(array.shape[1:]), "", "from another program", group)

    def _read_span(self, path: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows `start:stop` of an array: what most reads ask for, without an index a row."""
        if start == stop:
            return self._take(path, np.zeros(0, dtype=np.int64))
        array = self.array(path)
        if stop > array.shape[0]:
            raise StoreDamagedError(f"{self._where}/{path} has {array.shape[0]} rows, but row {stop - 1} is committed. {RESTORE}")
        block = self.read_block(path, start, stop)
        # What is kept for the next reader must not change under this one.
        return np.array(block, dtype=object if block.dtype.kind not in "biuf" else block.dtype, copy=not block.flags.owndata or None)

    def _take(self, path: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows of an array in any order, reading each chunk once."""
        field = FIELDS.get(path.rsplit("/", 1)[1])
        if field is not None and self._ours and not (len(rows) or self._n_stored):
            return np.zeros((0, *field.trailing), dtype=object if field.dtype == "string" else field.dtype)
        array = self.array(path)
        is_text = array.dtype.kind not in "biuf"
        dtype = np.dtype(object) if is_text else array.dtype
        out = np.empty((len(rows), *array.shape[1:]), dtype=dtype)
        if not len(rows):
            return out
        if int(rows.max()) >= array.shape[0]:
            raise StoreDamagedError(f"{self._where}/{path} has {array.shape[0]} rows, but row {int(rows.max())} is committed. {RESTORE}")
        in_order = bool(np.all(rows[1:] >= rows[:-1]))
        order = None if in_order else np.argsort(rows, kind="stable")
        sorted_rows = rows if order is None else rows[order]
        row_bytes = max(int(np.prod(array.shape[1:], dtype=np.int64)) * (64 if is_text else dtype.itemsize), 1)
        for part in chunk_runs(sorted_rows, array.chunks[0], array.shape[0], READ_BYTES // row_bytes):
            block = self.read_block(path, part.start, part.stop)
            chosen = block[sorted_rows[part.first : part.last] - part.start]
            if order is None:
                out[part.first : part.last] = chosen
            else:
                out[order[part.first : part.last]] = chosen
        return out

    def read_block(self, path: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows `start:stop` of the array at `path` as they lie there, whatever is committed.

        Raises:
            StoreDamagedError: a chunk is missing or damaged; the text names its file.
            StoreError: the place cannot be reached or read.
        """
        array = self.array(path)
        codec = self.chunk_codec(path)
        try:
            if codec is not None and self._files is not None:
                return self._files.read(path, codec, start, stop)
            return np.asarray(array[start:stop])
        except (CampaignError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:
            if is_unreachable(error):
                seen = f"reading {self._where}/{path}: {error if isinstance(error, OSError) else first_part(error)}"
                raise StoreError(f"{seen}. Check that the place can be reached and read.") from error
            key, cause = self._find_damage(array, path, start, stop, error)
            raise StoreDamagedError(f"{self._where}/{key} cannot be decoded: {cause}. {RESTORE}") from error

    def chunk_codec(self, path: str) -> ChunkCodec | None:
        """Return how the chunks of an array become rows; None if only Zarr can read them."""
        if path not in self._codecs:
            document: Any = self.array(path).metadata.to_dict()
            self._codecs[path] = None if self._files is None else ChunkCodec.of(document)
        return self._codecs[path]

    def check_file(self, path: str, number: int) -> bool:
        """Decode every chunk in one file of an array, padding too; return False, having done nothing, if only Zarr can.

        Raises:
            StoreDamagedError: a chunk is missing or damaged; the text names the file.
            StoreError: it cannot be read.
        """
        codec = self.chunk_codec(path)
        if codec is None or self._files is None:
            return False
        try:
            self._files.check_file(path, codec, number)
            return True
        except OSError as error:
            raise StoreError(f"reading {self._where}/{path}: {error}. Check that the place can be reached and read.") from error

    def _find_damage(self, array: zarr.Array[Any], path: str, start: int, stop: int, error: Exception) -> tuple[str, Exception]:
        """Name the file that does not decode, by trying them one by one."""
        rows = (array.shards or array.chunks)[0]
        for index in range(start // rows, -(-stop // rows)):
            try:
                array[max(index * rows, start) : min((index + 1) * rows, stop)]
            except Exception as found:
                return f"{path}/{array.metadata.encode_chunk_key((index, *(0 for _ in array.shape[1:])))}", found
        return path, error


def _span(rows: NDArray[np.int64]) -> tuple[int, int] | None:
    """Return `first, last + 1` of rows that follow one another; None if they do not."""
    if not len(rows) or rows[-1] - rows[0] != len(rows) - 1 or (len(rows) > 2 and np.any(rows[1:] - rows[:-1] != 1)):
        return None
    return int(rows[0]), int(rows[-1]) + 1


class _NothingMissing(WrapperStore[Store]):
    """A store in which a chunk that is not there, or empty, is damage, where Zarr would take it for zeros."""

    def __init__(self, store: Store, where: str = "") -> None:
        super().__init__(store)
        self._place = where

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._place)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        value = await self._store.get(key, prototype, byte_range)
        if value is None and not key.endswith("zarr.json"):
            raise StoreDamagedError(f"{self._place}/{key} is missing, though its rows are committed. {RESTORE}")
        if value is not None and not len(value) and not key.endswith("zarr.json"):
            # Zarr takes an output shard without a single byte for one without chunks, whose rows are zeros.
            raise StoreDamagedError(f"{self._place}/{key} is empty or cut short, though its rows are committed. {RESTORE}")
        return value


def _count(root: Mapping[str, Any], where: str) -> int:
    count = root["attributes"]["num_samples"]
    if not isinstance(count, int) or count < 0:
        raise StoreDamagedError(f"{where}/zarr.json has num_samples {count!r}; it is a whole number of 0 or more. {RESTORE}")
    return count
