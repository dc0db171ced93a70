"""zarr's own contract suite for stores, run on the durable store.

The suite is written for pytest-asyncio, which we need for nothing else; its coroutines are run here by `asyncio.run`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.testing.store import StoreTests

from campaign.store.durable import DurableStore


def _run_coroutines(suite: type) -> type:
    for name, test in inspect.getmembers(suite, inspect.iscoroutinefunction):
        if name.startswith("test_"):
            setattr(suite, name, _synchronous(test))
    return suite


def _synchronous(test: Any) -> Any:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@_run_coroutines
class TestDurableStore(StoreTests[DurableStore, cpu.Buffer]):
    store_cls = DurableStore
    buffer_cls = cpu.Buffer

    async def get(self, store: DurableStore, key: str) -> Buffer:
        return self.buffer_cls.from_bytes((store.root / key).read_bytes())

    async def set(self, store: DurableStore, key: str, value: Buffer) -> None:
        (store.root / key).parent.mkdir(parents=True, exist_ok=True)
        (store.root / key).write_bytes(value.to_bytes())

    @pytest.fixture
    def store_kwargs(self, tmp_path: Path) -> dict[str, str]:
        return {"root": str(tmp_path)}

    @pytest.fixture
    def open_kwargs(self, store_kwargs: dict[str, Any]) -> dict[str, Any]:
        return store_kwargs

    @pytest.fixture
    def store(self, store_kwargs: dict[str, Any]) -> DurableStore:
        return asyncio.run(DurableStore.open(**store_kwargs))

    @pytest.fixture
    def store_not_open(self, store_kwargs: dict[str, Any]) -> DurableStore:
        return DurableStore(**store_kwargs)

    def test_store_repr(self, store: DurableStore) -> None:
        assert repr(store) == f"LocalStore('file://{store.root.as_posix()}')"

    def test_store_supports_writes(self, store: DurableStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: DurableStore) -> None:
        assert store.supports_listing
