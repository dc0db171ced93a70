"""LoggingHook: rows, files, and errors of the background thread."""

from __future__ import annotations

import csv
import importlib.util
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from campaign.dynamics.hooks import LoggingHook
from campaign.dynamics.integrators import NVE
from campaign.dynamics.loop import BaseDynamics
from campaign.errors import ArgumentError, MissingDependencyError
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.testing.harmonic import HarmonicTrap, random_cloud
from campaign.units import EV_PER_K


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Rows:
    """A writer function that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def __call__(self, step: int, rows: list[dict[str, float]]) -> None:
        self.rows += [(step, row) for row in rows]


def test_a_row_per_system_and_step(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    batch = random_cloud([2, 3], first_id=7)
    NVE(HarmonicTrap(), dt=1.0, hooks=[LoggingHook("csv", frequency=2, log_path=path)]).run(batch, 5)
    rows = read(path)
    assert list(rows[0]) == ["step", "graph_idx", "system_id", "status", "energy", "fmax", "temperature"]
    assert [(row["step"], row["graph_idx"], row["system_id"]) for row in rows] == [
        (str(step), str(i), str(7 + i)) for step in (0, 2, 4) for i in range(2)
    ]


def test_the_numbers() -> None:
    rows = Rows()
    batch = random_cloud([2, 3])
    batch["velocities"] = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch["status"] = torch.tensor([[0], [3]])
    hook = LoggingHook("custom", writer_fn=rows)
    with hook:
        BaseDynamics(HarmonicTrap(k=3.0)).compute(batch)
        hook(DynamicsContext(batch=batch, step_count=11), DynamicsStage.AFTER_STEP)
    for i, (step, row) in enumerate(rows.rows):
        own = batch.index_select([i])
        kinetic = 0.5 * float((own.atomic_masses.unsqueeze(1) * own.velocities**2).sum())
        assert step == row["step"] == 11
        assert (row["graph_idx"], row["status"]) == (i, [0, 3][i])
        assert row["energy"] == pytest.approx(1.5 * float((own.positions**2).sum()), rel=1e-14)
        assert row["fmax"] == pytest.approx(3 * float(own.positions.norm(dim=1).max()), rel=1e-14)
        assert row["temperature"] == pytest.approx(2 * kinetic / (3 * own.num_nodes * EV_PER_K), rel=1e-14)


def test_fixed_components_count_neither_as_force_nor_as_freedom() -> None:
    rows = Rows()
    batch = random_cloud([2])
    batch["forces"] = torch.tensor([[3.0, 100.0, 4.0], [1.0, 1.0, 1.0]])
    batch["velocities"] = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    batch["fixed"] = torch.tensor([[False, True, False], [True, True, True]])
    with LoggingHook("custom", writer_fn=rows) as hook:
        hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    row = rows.rows[0][1]
    assert row["fmax"] == 5.0
    assert row["temperature"] == pytest.approx(2 * 0.5 * float(batch.atomic_masses[0]) * 4 / (2 * EV_PER_K))


def test_a_system_without_freedom_has_no_temperature() -> None:
    rows = Rows()
    batch = random_cloud([1])
    batch["velocities"] = torch.zeros(1, 3, dtype=torch.float64)
    batch["fixed"] = torch.ones(1, 3, dtype=torch.bool)
    with LoggingHook("custom", writer_fn=rows) as hook:
        hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    assert rows.rows[0][1]["temperature"] == 0.0


def test_rows_are_of_the_moment() -> None:
    # The batch changes right after the call, while the row waits for a slow writer.
    begun = threading.Event()
    rows = Rows()

    def slow(step: int, new: list[dict[str, float]]) -> None:
        begun.wait(10)
        rows(step, new)

    batch = random_cloud([1])
    batch["energy"] = torch.tensor([[1.0]])
    with LoggingHook("custom", writer_fn=slow) as hook:
        hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
        batch["energy"].fill_(2.0)
        begun.set()
    assert rows.rows[0][1]["energy"] == 1.0


def test_the_loop_does_not_wait_for_the_writer() -> None:
    batch = random_cloud([1])
    with LoggingHook("custom", writer_fn=lambda step, rows: time.sleep(0.2)) as hook:
        start = time.perf_counter()
        for _ in range(3):
            hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
        assert time.perf_counter() - start < 0.15
    assert time.perf_counter() - start > 0.55, "closing did not wait"


def test_further_columns() -> None:
    rows = Rows()
    scalars: dict[str, Any] = {
        "one": lambda ctx: 1.5,
        "by_system": lambda ctx: torch.arange(3.0),
        "column": lambda ctx: torch.arange(3.0).unsqueeze(1),
        "energy": lambda ctx: torch.full((3,), -9.0),  # replaces the standard column
    }
    batch = random_cloud([1, 2, 1])
    batch["energy"] = torch.zeros(3, 1)
    with LoggingHook("custom", writer_fn=rows, custom_scalars=scalars) as hook:
        hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    assert [(row["one"], row["by_system"], row["column"], row["energy"]) for _, row in rows.rows] == [
        (1.5, 0.0, 0.0, -9.0),
        (1.5, 1.0, 1.0, -9.0),
        (1.5, 2.0, 2.0, -9.0),
    ]


def test_a_column_of_wrong_length() -> None:
    words = r"custom scalar 'bad' has shape \(2,\); it is one number or one for each of 3 systems"
    scalars = {"bad": lambda ctx: torch.zeros(2)}
    with LoggingHook("custom", writer_fn=Rows(), custom_scalars=scalars) as hook, pytest.raises(ArgumentError, match=words):
        hook(DynamicsContext(batch=random_cloud([1, 1, 1])), DynamicsStage.AFTER_STEP)


def test_a_second_run_goes_on_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("from an earlier program\n")
    dynamics = NVE(HarmonicTrap(), dt=1.0, hooks=[LoggingHook("csv", log_path=str(path))])
    batch = random_cloud([1])
    dynamics.run(batch, 2)
    dynamics.run(batch, 2)
    assert [row["step"] for row in read(path)] == ["0", "1", "2", "3"]


def test_a_column_that_comes_late_is_an_error(tmp_path: Path) -> None:
    hook = LoggingHook("csv", log_path=tmp_path / "log.csv")
    batch = random_cloud([1])
    hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    batch["energy"] = torch.zeros(1, 1)
    hook(DynamicsContext(batch=batch, step_count=4), DynamicsStage.AFTER_STEP)
    with pytest.raises(ArgumentError, match=r"column 'energy' came up at step 4; .*log.csv has the columns of its first row"):
        hook.close()
    assert [row["step"] for row in read(tmp_path / "log.csv")] == ["0"]


def test_errors_of_the_writer_are_raised() -> None:
    def failing(step: int, rows: list[dict[str, float]]) -> None:
        raise OSError("disk on fire")

    batch = random_cloud([1])
    hook = LoggingHook("custom", writer_fn=failing)
    hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    with pytest.raises(OSError, match="disk on fire"):
        for _ in range(100):
            hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
            time.sleep(0.01)
    with suppress(OSError):  # a row behind the one whose error was raised
        hook.close()
    with pytest.raises(OSError, match="disk on fire"), hook:
        hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
    with pytest.raises(KeyError, match="the real one") as caught, hook:
        hook(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)
        raise KeyError("the real one")
    assert caught.value.__notes__ == ["writing the log failed too: disk on fire"]


def test_arguments_are_checked() -> None:
    with pytest.raises(ArgumentError, match="backend is 'xml'; it is one of csv, tensorboard, custom"):
        LoggingHook("xml")  # type: ignore[arg-type]
    for backend, needed in (("csv", "log_path"), ("tensorboard", "log_path"), ("custom", "writer_fn")):
        with pytest.raises(ArgumentError, match=f"a LoggingHook with backend '{backend}' has no {needed}; this backend requires {needed}"):
            LoggingHook(backend)  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        LoggingHook("tensorboard", log_path=tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed: pip install tensorboard")
def test_tensorboard(tmp_path: Path) -> None:
    with LoggingHook("tensorboard", log_path=tmp_path) as hook:
        hook(DynamicsContext(batch=random_cloud([1, 2])), DynamicsStage.AFTER_STEP)
    assert list(tmp_path.glob("events.*"))
