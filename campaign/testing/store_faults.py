"""Stores that fail on purpose: after so many writes, for keys of a kind, or slowly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore


class FailingStore(WrapperStore[Store]):
    """A store whose writes fail from the moment at which `fails(key, n_writes_before)` first says so.

    What was written before is in the store that it wraps, exactly as a process would leave it that was killed at that moment.
    """

    def __init__(self, store: Store, fails: Callable[[str, int], BaseException | None] = lambda key, n_writes: None) -> None:
        super().__init__(store)
        self.fails = fails
        self.n_writes = 0
        self.keys: list[str] = []
        self._dead: BaseException | None = None
        self._lock = threading.Lock()

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self.fails)

    async def set(self, key: str, value: Buffer) -> None:
        """Write, or fail as asked."""
        self._count(key)
        await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write, or fail as asked."""
        self._count(key)
        await self._store.set_if_not_exists(key, value)

    def _count(self, key: str) -> None:
        with self._lock:
            if self._dead is None:
                self._dead = self.fails(key, self.n_writes)
            if self._dead is not None:
                raise self._dead
            self.n_writes += 1
            self.keys.append(key)


def kill_after(n_writes: int) -> Callable[[str, int], BaseException | None]:
    """Return a rule for `FailingStore`: so many writes succeed, and none after."""
    return lambda key, before: ConnectionAbortedError("killed by the test") if before >= n_writes else None
