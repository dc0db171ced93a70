"""Who does the Dask tasks of a consolidation: threads of this process, processes on this machine, or workers of a scheduler elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias

from campaign.errors import StoreError

if TYPE_CHECKING:
    from distributed import Client

Kind: TypeAlias = Literal["auto", "threads", "local", "scheduler"]


@dataclass(frozen=True, slots=True)
class DaskWorkers:
    """Workers to be had: `n_workers` threads or processes (0: one for each core), or those of the scheduler at `address`."""

    kind: Kind = "auto"
    n_workers: int = 0
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """Workers that are there: `n_threads` Dask tasks at the same time in each of `n_processes`, of which each has `budget_bytes`.

    Without a client they are threads of this process. `dashboard` is a link for a browser, if there is one.
    """

    client: Client | None
    n_threads: int
    n_processes: int
    budget_bytes: int
    dashboard: str | None = None


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def connected(workers: DaskWorkers | Client, budget_bytes: int, is_large: bool = False, timeout_s: float = 30.0) -> Iterator[Connection]:
    """Yield a connection to `workers`; what was started for it ends with the block. A Client is used as it is.

    `auto` takes processes where the campaign is large, else threads: starting processes takes seconds. `budget_bytes` is for one machine:
    processes on this one share it with this process, while workers of a scheduler elsewhere have it each.

    Raises:
        StoreError: there is no scheduler at the address.
    """
    if not isinstance(workers, DaskWorkers):
        yield _of_client(workers, budget_bytes)
        return
    n_workers = workers.n_workers or usable_cores()
    if workers.kind == "scheduler":
        # distributed takes a second to import, and most campaigns need no cluster for this.
        from distributed import Client

        try:
            client = Client(workers.address, timeout=timeout_s)  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError, ValueError) as error:
            raise StoreError(
                f"there is no Dask scheduler at {workers.address!r}: {error}. Give an address such as tcp://10.0.0.1:8786, which "
                "`dask scheduler` prints when it starts."
            ) from error
        with client:
            yield _of_client(client, budget_bytes)
    elif workers.kind == "local" or (workers.kind == "auto" and is_large and n_workers > 1):
        with _local_cluster(n_workers) as client:
            # This process has the plan as well.
            yield Connection(client, 1, n_workers, budget_bytes // (n_workers + 1), _dashboard(client))
    else:
        yield Connection(None, n_workers, 1, budget_bytes)


def _of_client(client: Client, budget_bytes: int) -> Connection:
    threads = list(client.nthreads().values()) or [1]  # type: ignore[no-untyped-call]
    return Connection(client, max(threads), len(threads), budget_bytes, _dashboard(client))


@contextmanager
def _local_cluster(n_workers: int) -> Iterator[Client]:
    from distributed import Client, LocalCluster

    # Loopback only: whoever reaches a scheduler can run code as its user. The plan keeps the memory, so nobody is paused or killed for it.
    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", memory_limit=None
    )
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield client


def _dashboard(client: Client) -> str | None:
    """Return the link of the scheduler's pages, if it has any: they need bokeh."""
    services = client.scheduler_info().get("services", {})
    return str(client.dashboard_link) if "dashboard" in services and find_spec("bokeh") is not None else None
