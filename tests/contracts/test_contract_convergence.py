"""ConvergenceHook beside the reference's: criteria, reductions, migration of status."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from specimens import batch, below
from two_packages import Package, differs, same, same_error


def met(criteria: Any, **properties: Any) -> Any:
    return lambda p: p.ConvergenceHook(criteria).evaluate(batch(p, **properties))


CRITERIA: dict[str, Any] = {
    "default": None,
    "norm": {"key": "forces", "threshold": 2.0, "reduce_op": "norm"},
    "two": [{"key": "forces", "threshold": 2.0, "reduce_op": "norm"}, {"key": "energy", "threshold": 0.5}],
    "per system": {"key": "energy", "threshold": 1.0},
    "all": {"key": "energy", "threshold": 9.0},
    "none": {"key": "energy", "threshold": -1.0},
    "equal": {"key": "energy", "threshold": 0.0},
    "max": {"key": "forces", "threshold": 1.0, "reduce_op": "max"},
    "min": {"key": "forces", "threshold": -0.5, "reduce_op": "min"},
    "mean": {"key": "forces", "threshold": 0.3, "reduce_op": "mean"},
    "sum": {"key": "forces", "threshold": 0.6, "reduce_op": "sum"},
    "no reduction": {"key": "forces", "threshold": 0.9},
    "dimensions": {"key": "positions", "threshold": 1.0, "reduce_op": "norm", "reduce_dims": [-1]},
    "own": {"key": "energy", "threshold": 0.0, "custom_op": lambda energy: energy.flatten() > 0.5},
}


@pytest.mark.parametrize("criteria", CRITERIA.values(), ids=CRITERIA)
def test_criteria(criteria: Any) -> None:
    result = same(met(criteria))
    assert result is None or result["dtype"] == "torch.int64"


def test_as_many_atoms_as_systems() -> None:
    assert same(met({"key": "forces", "threshold": 1.5, "reduce_op": "norm"}, sizes=(1, 1, 1)))["shape"] == [3]


def test_tensors_of_two_dimensions_per_system() -> None:
    def script(p: Package, dimensions: Any) -> Any:
        made = batch(p)
        made["stress"] = torch.arange(27.0).reshape(3, 3, 3)
        return p.ConvergenceHook({"key": "stress", "threshold": 10.0, "reduce_op": "max", "reduce_dims": dimensions}).evaluate(made)

    assert same(lambda p: script(p, [-2, -1]))["numbers"] == [0.0]
    differs("criteria", lambda p: script(p, -1).tolist(), RuntimeError, [0])


def test_bad_forces_never_pass() -> None:
    def script(p: Package) -> Any:
        made = batch(p)
        made.forces[0, 0] = float("nan")
        return p.ConvergenceHook.from_fmax(1e9).evaluate(made)

    assert same(script)["numbers"] == [1.0, 2.0]


BAD: dict[str, tuple[Any, type[Exception]]] = {
    "a key that is not there": ({"key": "stress", "threshold": 1.0}, KeyError),
    "a reduction that is none": ({"key": "energy", "threshold": 0.0, "reduce_op": "median"}, ValueError),
    "no threshold": ({"key": "energy"}, ValueError),
    "a number": (3, TypeError),
    "a list of numbers": ([3], TypeError),
    "a name": ("forces", TypeError),
}


@pytest.mark.parametrize(("criteria", "error"), BAD.values(), ids=BAD)
def test_criteria_that_cannot_be(criteria: Any, error: type[Exception]) -> None:
    same_error(met(criteria), error)


def test_criteria_that_only_one_takes() -> None:
    differs("criteria", lambda p: met({"key": "energy", "threshold": 0.0, "bogus": 1})(p).tolist(), [0], ValueError)
    differs("criteria", lambda p: met([])(p).tolist(), [0, 1, 2], ValueError)


def test_shortcuts() -> None:
    def script(p: Package) -> Any:
        hooks = [p.ConvergenceHook.from_fmax(), p.ConvergenceHook.from_fmax(0.1, 0, 1), p.ConvergenceHook.from_forces(2.0, 3, 4, 5)]
        return [[h.num_criteria, h.stage, h.frequency, h.source_status, h.target_status, h.evaluate(batch(p))] for h in hooks]

    assert same(script)[2][:5] == [1, "AFTER_STEP", 3, 4, 5]
    # The name of the class of a criterion is not part of the contract.
    assert same(lambda p: repr(p.ConvergenceHook.from_fmax(0.1, 0, 1)).replace("_C", "C")).startswith("ConvergenceHook(criteria=[C")


@pytest.mark.parametrize(
    ("status", "source", "target", "after"),
    [([0, 0, 0], 0, 1, [1, 1, 0]), ([0, 1, 0], 0, 5, [5, 1, 0]), ([0, 0, 0], None, 5, [0, 0, 0]), ([0, 0, 0], 0, None, [0, 0, 0])],
)
@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_migration(status: list[int], source: int | None, target: int | None, after: list[int], shape: tuple[int, ...]) -> None:
    def script(p: Package) -> Any:
        made = batch(p)
        made["status"] = torch.tensor(status).reshape(shape)
        hook = p.ConvergenceHook(**below(1.0), source_status=source, target_status=target)
        hook(p.DynamicsContext(batch=made), p.DynamicsStage.AFTER_STEP)
        return made.status

    result = same(script)
    assert (result["numbers"], result["shape"]) == (after, list(shape))


def test_migration_without_a_status() -> None:
    def script(p: Package) -> bool:
        made = batch(p)
        p.ConvergenceHook(**below(1.0), source_status=0, target_status=1)(p.DynamicsContext(batch=made), p.DynamicsStage.AFTER_STEP)
        return "status" in made

    assert same(script) is False
