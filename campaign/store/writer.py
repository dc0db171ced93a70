"""Writing stores: a per-rank shard that grows while a campaign runs, and a whole store at once.

One writer per shard, ever: creating a shard is exclusive, and there is no way to open one for more. A commit has three steps in this
order: fields, then pointers, then `num_samples` in the root document, which alone says what exists. A kill between any two of them
leaves what was committed before, because chunk files are replaced whole and only ever gain rows behind the committed ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from campaign.errors import CampaignError, StoreError
from campaign.fields import Field
from campaign.store.arrays import check_columns
from campaign.store.commit import StoreBody, create_empty, staged
from campaign.store.layout import Chunking, check_fields
from campaign.store.targets import Target, describe, local_path, mapped_errors

MAX_PENDING_BYTES: Final = 128 * 2**20
"""Bytes that wait for the background thread before `append` waits too; half of it is written without waiting for more."""

REWRITTEN_BYTES: Final = 16 * 2**20
"""Bytes that a timed commit may write again per `flush_s`: where the unfinished files are larger, it waits in proportion."""


class ShardWriter:
    """Appends finished systems to one new shard; a background thread puts them on disk.

    Rows are written when 64 MiB of them wait, or `flush_s` seconds after they came, whichever is first. Each commit also writes the
    unfinished file of each array again; where these are larger than 16 MiB together, a timed commit waits longer in proportion, at most
    five times as long for the fields of a result. An error of the background thread is raised by the next `append`, `flush` or `close`;
    what was committed before it stays readable.

    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> from campaign.fields import FIELDS
    >>> from campaign.store.reader import StoreReader
    >>> target = MemoryStore()
    >>> with ShardWriter.create(target, [FIELDS["positions"], FIELDS["energy"]]) as writer:
    ...     writer.append(np.array([2]), {"positions": np.zeros((2, 3)), "energy": np.array([[-1.0]])})
    >>> StoreReader.open(target).n_systems
    1
    """

    def __init__(
        self, target: Target, store: Store, fields: tuple[Field, ...], attributes: Mapping[str, Any], flush_s: float, chunking: Chunking
    ):
        # Use `create`; this only puts the parts together.
        self._where = describe(target)
        self._fields = fields
        self._attributes = dict(attributes)
        self._flush_s = flush_s
        self._chunking = chunking
        self._body = StoreBody(store, fields, chunking, self._attributes)
        self._lock = threading.Condition()
        self._pending: list[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]] = []
        self._pending_bytes = 0
        self._since: float | None = None
        self._n_appended = 0
        self._waited_s = 0.0
        self._flush_asked = False
        self._state = "open"
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=f"shard-writer {self._where}", daemon=True)
        self._thread.start()

    @classmethod
    def create(
        cls,
        target: Target,
        fields: Sequence[Field],
        attributes: Mapping[str, Any] | None = None,
        flush_s: float = 5.0,
        chunking: Chunking | None = None,
    ) -> Self:
        """Create a new, empty shard at `target` and return its writer.

        Raises:
            StoreExistsError: something is there already.
            FieldError: a field is not in the table, per edge, or named twice.
            ResourceError, StoreError: it cannot be written.
        """
        checked = check_fields(fields)
        chunking = chunking or Chunking.of_shards()
        with mapped_errors(describe(target), "creating the store"):
            store = create_empty(target, checked, attributes or {}, chunking)
        return cls(target, store, checked, attributes or {}, flush_s, chunking)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Columns that every append gives."""
        return self._fields

    @property
    def n_appended(self) -> int:
        """Systems that were appended, committed or not."""
        return self._n_appended

    @property
    def n_committed(self) -> int:
        """Systems that are on disk and visible to readers."""
        return self._body.n_systems

    @property
    def waited_s(self) -> float:
        """Seconds that `append` has waited for room, because the disk was slower than what was given."""
        return self._waited_s

    def append(self, n_atoms: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
        """Add systems; atom columns hold the atoms of all of them one behind the other. Waits only when too much waits already.

        Raises:
            FieldError: a column is missing, unknown or misshaped; nothing was added.
            ResourceError, StoreError: an earlier write failed, or the writer is closed.
        """
        counts = np.array(n_atoms, dtype=np.int64) if np.asarray(n_atoms).size == 0 else np.array(n_atoms)
        checked = check_columns(self._fields, counts, columns, self._where)
        n_bytes = sum(column.nbytes for column in checked.values())
        with self._lock:
            self._raise_if_broken()
            self._wait_for_room(n_bytes)
            if not len(counts):
                return
            self._pending.append((counts.astype(np.int64), checked))
            self._pending_bytes += n_bytes
            self._n_appended += len(counts)
            # The background thread is woken when there is a reason to: it would take the interpreter's lock from the caller each time.
            if self._since is None:
                self._since = time.monotonic()
                self._lock.notify_all()
            elif self._pending_bytes >= MAX_PENDING_BYTES // 2:
                self._lock.notify_all()

    def _wait_for_room(self, n_bytes: int) -> None:
        begun = time.monotonic()
        while self._pending and self._pending_bytes + n_bytes > MAX_PENDING_BYTES:
            self._lock.wait()
            self._waited_s += time.monotonic() - begun
            begun = time.monotonic()
            self._raise_if_broken()

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Add root attributes that are known late, such as device seconds; they are written by the next commit, at the latest by `close`.

        Raises:
            StoreError: a name is the layout's own.
        """
        with self._lock:
            self._body.annotate(attributes)

    def flush(self) -> None:
        """Return when everything appended before this call is committed and durable.

        Raises:
            ResourceError, StoreError: it could not be written.
        """
        with self._lock:
            self._raise_if_broken()
            goal = self._n_appended
            while self._body.n_systems < goal:
                self._flush_asked = True
                self._lock.notify_all()
                self._lock.wait()
                self._raise_if_broken()

    def close(self) -> None:
        """Flush, then end the background thread. A closed writer takes no more; closing twice is fine.

        Raises:
            ResourceError, StoreError: something could not be written and no earlier call said so.
        """
        with self._lock:
            if self._state == "closed":
                return
            if self._state == "open":
                self._state = "closing"
            self._lock.notify_all()
        self._thread.join()
        with self._lock:
            error, self._error = self._error, None
            self._state = "closed"
        if error is not None:
            raise error
        with mapped_errors(self._where, "closing the store"):
            self._body.write_annotations()

    def abandon(self) -> None:
        """End without writing what waits, as a kill would; what is committed stays. For a caller that is failing already."""
        with self._lock:
            self._pending.clear()
            if self._state == "open":
                self._state = "closing"
            self._lock.notify_all()
        self._thread.join()
        with self._lock:
            self._error, self._state = None, "closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        # Finished systems are worth keeping even if the caller fails, but its error is the one to tell.
        try:
            self.close()
        except CampaignError as error:
            if value is not None:
                value.add_note(f"closing {self._where} failed too: {error}")

    def _raise_if_broken(self) -> None:
        if self._state == "broken":
            # The writer stays broken: rows that were taken are lost, and another attempt opens another shard.
            error, self._error = self._error, None
            raise error or StoreError(f"{self._where} takes nothing more since a write failed. Open a new shard under the next attempt.")
        if self._state != "open":
            raise StoreError(f"{self._where} is closed and takes nothing more. Create another shard.")

    def _due_in(self) -> float | None:
        """Seconds until the pending rows must be written; None while there are none."""
        if self._since is None:
            return None
        if self._flush_asked or self._state != "open" or self._pending_bytes >= MAX_PENDING_BYTES // 2:
            return 0.0
        wait_s = self._flush_s * max(self._body.unfinished_bytes / REWRITTEN_BYTES, 1.0)
        return max(self._since + wait_s - time.monotonic(), 0.0)

    def _work(self) -> None:
        while True:
            with self._lock:
                while (due := self._due_in()) is None or due > 0:
                    if due is None:
                        self._flush_asked = False
                        if self._state != "open":
                            return
                    self._lock.wait(due)
                taken, self._pending = self._pending, []
                self._pending_bytes, self._since, self._flush_asked = 0, None, False
                self._lock.notify_all()
            try:
                with mapped_errors(self._where, "writing to the store"):
                    self._body.commit(taken)
            except BaseException as error:
                with self._lock:
                    self._error, self._state = error, "broken"
                    self._pending.clear()
                    self._lock.notify_all()
                return
            with self._lock:
                self._lock.notify_all()


def write_store(
    target: Target,
    fields: Sequence[Field],
    n_atoms: NDArray[np.int64],
    columns: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any] | None = None,
    chunking: Chunking | None = None,
) -> None:
    """Write a whole store at once. On a file system it appears by one rename, complete or not at all.

    Raises:
        StoreExistsError: something is there already.
        FieldError: a field or a column is not as declared; nothing was written.
        ResourceError, StoreError: it cannot be written; nothing is left at `target`.

    >>> import numpy as np
    >>> from zarr.storage import MemoryStore
    >>> from campaign.fields import FIELDS
    >>> target = MemoryStore()
    >>> write_store(target, [FIELDS["energy"]], np.array([2]), {"energy": np.array([[-1.0]])})
    """
    checked = check_fields(fields)
    counts = np.asarray(n_atoms)
    values = check_columns(checked, counts, columns, describe(target))
    chunking = chunking or Chunking.of_shards()
    batches = [(counts.astype(np.int64), values)] if len(counts) else []
    with mapped_errors(describe(target), "writing the store"):
        path = local_path(target)
        if path is None:
            store = create_empty(target, checked, attributes or {}, chunking)
            StoreBody(store, checked, chunking, attributes or {}).commit(batches)
            return
        with staged(path.absolute()) as staging:
            body = StoreBody(staging, checked, chunking, attributes or {})
            body.write_empty()
            body.commit(batches)
