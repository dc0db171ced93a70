"""A hook that writes a row of numbers per system every so many steps, without making the step loop wait for the file.

A row is `step`, `graph_idx` (position in the batch), `system_id` where the batch has it, `status`, `energy`, `fmax`, `temperature` and
whatever the user adds. The numbers are computed on the device, brought over in one transfer and written by one background thread; what goes
wrong there is raised by the next call, or by `close`.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TextIO, get_args

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.hooks.observables import largest_force_per_system, temperature_per_system
from campaign.errors import ArgumentError, MissingDependencyError
from campaign.hooks.context import DynamicsContext
from campaign.hooks.stages import DynamicsStage

__all__ = ["LogBackend", "LoggingHook", "Row"]

LogBackend = Literal["csv", "tensorboard", "custom"]

Row = dict[str, float]
"""One system's numbers by column; `step`, `graph_idx`, `system_id` and `status` are integers."""

_INTEGERS: Final = frozenset({"step", "graph_idx", "system_id", "status"})

_MAX_PENDING: Final = 64
"""Steps whose rows may wait for the background thread before the loop waits for it."""


class LoggingHook:
    """Logs a row per system every `frequency` steps to a CSV file, to TensorBoard, or to a function.

    Used as a context manager, or by an engine that closes its hooks after a run, everything is written when the block or the run ends. A
    file is replaced by the first row that a hook writes, and continued by later runs with the same hook.

    Args:
        backend: "csv", "tensorboard" or "custom".
        frequency: steps between two rows of a system.
        log_path: file (csv) or folder (tensorboard).
        custom_scalars: further columns by name: functions that take the context and return one number, or one per system. A name of
            the standard columns replaces it.
        writer_fn: for "custom", is given the step and its rows, on the background thread.
        stage: when to log.

    Raises:
        ArgumentError: an unknown backend, or one without its path or function (a ValueError).
        MissingDependencyError: "tensorboard" without the package of that name.

    >>> forces, energy = torch.tensor([[0.0, 3.0, 4.0], [1.0, 0.0, 0.0]]), torch.tensor([[-1.0], [-2.0]])
    >>> batch = Batch.from_arrays([1, 1], {"forces": forces}, {"energy": energy})
    >>> with LoggingHook("custom", writer_fn=lambda step, rows: print(step, rows[0])) as hook:
    ...     hook(DynamicsContext(batch=batch, step_count=5), hook.stage)
    5 {'step': 5, 'graph_idx': 0, 'status': 0, 'energy': -1.0, 'fmax': 5.0}
    """

    def __init__(
        self,
        backend: LogBackend,
        frequency: int = 1,
        log_path: str | Path | None = None,
        custom_scalars: Mapping[str, Callable[[DynamicsContext], float | Tensor]] | None = None,
        writer_fn: Callable[[int, list[Row]], None] | None = None,
        stage: Enum = DynamicsStage.AFTER_STEP,
    ) -> None:
        if backend not in get_args(LogBackend):
            raise ArgumentError(f"backend is {backend!r}; it is one of {', '.join(get_args(LogBackend))}. Choose one.")
        needed = "writer_fn" if backend == "custom" else "log_path"
        if {"writer_fn": writer_fn, "log_path": log_path}[needed] is None:
            raise ArgumentError(f"a LoggingHook with backend {backend!r} has no {needed}; this backend requires {needed}. Pass it.")
        self.frequency = frequency
        self.stage = stage
        self.backend = backend
        self.log_path = log_path
        self.custom_scalars = custom_scalars
        self.writer_fn = writer_fn
        self._write = self._writer_of(backend)
        self._file: TextIO | None = None
        self._csv: csv.DictWriter[str] | None = None
        self._columns: list[str] = []
        self._board: Any = None
        self._thread: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Compute the rows of this step and hand them to the background thread.

        Raises:
            ArgumentError: a custom scalar has another number of values than there are systems.
            Exception: whatever an earlier write raised.
        """
        if ctx.batch is None or not ctx.batch.num_graphs:
            return
        names, table, copied = _to_host(self._compute(ctx, ctx.batch))
        while self._pending and (self._pending[0].done() or len(self._pending) >= _MAX_PENDING):
            self._pending.popleft().result()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="logging-hook")
        self._pending.append(self._thread.submit(self._dispatch, ctx.step_count, names, table, copied))

    def close(self) -> None:
        """Write what is pending and let go of thread and file; the hook can be used again.

        Raises:
            Exception: whatever a write raised.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True)
        if self._file is not None:
            self._file.close()
            self._file = self._csv = None
        if self._board is not None:
            self._board.close()
            self._board = None
        pending, self._pending = self._pending, deque()
        for future in pending:
            future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.close()
        except Exception as error:
            if value is None:
                raise
            value.add_note(f"writing the log failed too: {error}")

    def _compute(self, ctx: DynamicsContext, batch: Batch) -> dict[str, Tensor]:
        """Return the columns, each with one number per system."""
        n_systems = batch.num_graphs
        columns = {
            "step": torch.full((n_systems,), ctx.step_count, device=batch.device),
            "graph_idx": torch.arange(n_systems, device=batch.device),
        }
        if "system_id" in batch:
            columns["system_id"] = batch["system_id"]
        columns["status"] = batch["status"] if "status" in batch else torch.zeros(n_systems, dtype=torch.int64, device=batch.device)
        if "energy" in batch:
            columns["energy"] = batch["energy"]
        if "forces" in batch:
            columns["fmax"] = largest_force_per_system(batch)
        if "velocities" in batch and "atomic_masses" in batch:
            columns["temperature"] = temperature_per_system(batch)
        for name, function in (self.custom_scalars or {}).items():
            value = torch.as_tensor(function(ctx), device=batch.device)
            if value.numel() not in (1, n_systems):
                raise ArgumentError(
                    f"custom scalar {name!r} has shape {tuple(value.shape)}; it is one number or one for each of {n_systems} systems. "
                    "Reduce it."
                )
            columns[name] = value.reshape(()).expand(n_systems) if value.numel() == 1 else value
        return columns

    def _dispatch(self, step: int, names: list[str], table: Tensor, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        rows = [
            {name: int(value) if name in _INTEGERS else value for name, value in zip(names, values, strict=True)}
            for values in table.T.tolist()
        ]
        self._write(step, rows)

    def _writer_of(self, backend: LogBackend) -> Callable[[int, list[Row]], None]:
        if backend == "csv":
            return self._write_csv
        if backend == "tensorboard":
            _summary_writer()
            return self._write_tensorboard
        return self._write_custom

    def _write_csv(self, step: int, rows: list[Row]) -> None:
        if self._csv is None:
            first = not self._columns
            self._file = Path(str(self.log_path)).open("w" if first else "a", newline="", encoding="utf-8")  # noqa: SIM115 - `close` does
            self._columns = self._columns or list(rows[0])
            self._csv = csv.DictWriter(self._file, fieldnames=self._columns, restval="")
            if first:
                self._csv.writeheader()
        new = [name for name in rows[0] if name not in self._columns]
        if new:
            raise ArgumentError(
                f"column {new[0]!r} came up at step {step}; {self.log_path} has the columns of its first row, {', '.join(self._columns)}. "
                "Give the batch this field from the start."
            )
        self._csv.writerows(rows)
        if self._file is not None:
            self._file.flush()

    def _write_tensorboard(self, step: int, rows: list[Row]) -> None:
        if self._board is None:
            self._board = _summary_writer()(log_dir=str(self.log_path))
        for row in rows:
            tag = f"/graph_{row['graph_idx']}" if len(rows) > 1 else ""
            for name, value in row.items():
                if name not in ("step", "graph_idx"):
                    self._board.add_scalar(f"{name}{tag}", value, step)

    def _write_custom(self, step: int, rows: list[Row]) -> None:
        if self.writer_fn is not None:
            self.writer_fn(step, rows)


def _to_host(columns: Mapping[str, Tensor]) -> tuple[list[str], Tensor, torch.cuda.Event | None]:
    """Return names and a table [columns, N] in float64, and what to wait for before reading it."""
    # float64 holds every float32 and every integer up to 2^53 exactly, so one transfer does for all columns.
    table = torch.stack([column.detach().reshape(-1).to(torch.float64) for column in columns.values()])
    if table.device.type != "cuda":
        return list(columns), table.cpu(), None
    host = torch.empty(table.shape, dtype=table.dtype, pin_memory=True)
    host.copy_(table, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    return list(columns), host, copied


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional
    except ImportError as error:
        raise MissingDependencyError(
            "a LoggingHook with backend 'tensorboard' needs the package tensorboard, which is not installed. Run: pip install tensorboard"
        ) from error
    return SummaryWriter
