"""Criteria reduce a tensor of the batch to one number per system; levels are declared, never guessed from shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from campaign.data import Batch
from campaign.dynamics import ConvergenceHook, DynamicsStage
from campaign.dynamics.convergence import ConvergenceCriterion
from campaign.errors import ArgumentError, BatchKeyError, OperandError
from campaign.hooks import DynamicsContext


def batch_of_forces(forces: list[list[float]], n_atoms: list[int]) -> Batch:
    return Batch.from_arrays(n_atoms, {"positions": torch.zeros(len(forces), 3), "forces": torch.tensor(forces)}, {})


FORCES = [[3.0, 4.0, 0.0], [0.0, 0.0, 0.1], [0.0, 0.0, -0.2], [float("nan"), 0.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("options", "threshold", "expected"),
    [
        ({"reduce_op": "norm"}, 5.0, [True, True, False, True]),  # the threshold itself is enough
        ({"reduce_op": "norm"}, 0.2, [False, True, False, True]),
        ({"reduce_op": "max"}, 0.15, [False, True, False, True]),  # signed: -0.2 has a largest component of 0
        ({"reduce_op": "min"}, -0.1, [False, True, False, False]),
        ({"reduce_op": "sum"}, 0.0, [False, True, False, True]),
        ({"reduce_op": "mean"}, 2.4, [True, True, False, True]),
        ({}, 0.15, [False, True, False, True]),  # without a reduction, the largest component of any atom
        ({"reduce_op": "norm", "reduce_dims": [-1]}, 5.0, [True, True, False, True]),
    ],
)
def test_reductions(options: dict[str, Any], threshold: float, expected: list[bool]) -> None:
    batch = batch_of_forces(FORCES, [2, 1, 1, 1])
    assert ConvergenceCriterion(key="forces", threshold=threshold, **options)(batch).tolist() == expected


def test_as_many_atoms_as_systems() -> None:
    batch = batch_of_forces(FORCES[:2], [1, 1])
    assert ConvergenceHook.from_fmax(1.0).evaluate_mask(batch).tolist() == [False, True]
    # Two atoms in the first of two systems: five rows would not tell whose they are.
    batch = Batch.from_arrays([2, 0], {"positions": torch.zeros(2, 3), "forces": torch.tensor(FORCES[:2])}, {})
    assert ConvergenceHook.from_fmax(1.0).evaluate_mask(batch).tolist() == [False, True]


def test_system_level_and_custom_op() -> None:
    batch = batch_of_forces(FORCES[:3], [2, 1])
    batch["energy"] = torch.tensor([[1.0], [-1.0]])
    batch["stress"] = torch.tensor([1.0, 0.1]).view(2, 1, 1) * torch.eye(3)
    assert ConvergenceCriterion(key="energy", threshold=0.0)(batch).tolist() == [False, True]
    assert ConvergenceCriterion(key="stress", threshold=0.2)(batch).tolist() == [False, True]
    own = ConvergenceCriterion(key="energy", threshold=0.0, custom_op=lambda energy: energy.view(-1) > 0)
    assert own(batch).tolist() == [True, False]
    assert "lambda" in repr(own)


def test_criteria_are_combined_with_and() -> None:
    batch = batch_of_forces(FORCES[:3], [1, 1, 1])
    batch["energy"] = torch.tensor([[0.0], [5.0], [0.0]])
    hook = ConvergenceHook([{"key": "forces", "threshold": 1.0, "reduce_op": "norm"}, {"key": "energy", "threshold": 1.0}])
    assert hook.num_criteria == 2
    assert hook.evaluate_mask(batch).tolist() == [False, False, True]
    positions = hook.evaluate(batch)
    assert positions is not None
    assert positions.tolist() == [2]
    assert ConvergenceHook.from_forces(1e-9).evaluate(batch) is None


def test_default_is_fmax() -> None:
    hook = ConvergenceHook()
    assert (hook.criteria[0].key, hook.criteria[0].threshold, hook.stage) == ("forces", 0.05, DynamicsStage.AFTER_STEP)
    assert repr(ConvergenceHook.from_fmax(0.1, 0, 1, frequency=2)) == (
        "ConvergenceHook(criteria=[ConvergenceCriterion(key='forces', threshold=0.1, reduce_op='norm', reduce_dims=-1)], "
        "source_status=0, target_status=1, frequency=2)"
    )


def test_status_migration() -> None:
    batch = batch_of_forces([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]], [1, 1, 1])
    context = DynamicsContext(batch=batch)
    hook = ConvergenceHook.from_fmax(0.1, source_status=1, target_status=2)
    hook(context, DynamicsStage.AFTER_STEP)  # without a status on the batch nothing happens
    batch["status"] = torch.tensor([[0], [1], [1]])
    ConvergenceHook.from_fmax(0.1)(context, DynamicsStage.AFTER_STEP)
    assert batch["status"].view(-1).tolist() == [0, 1, 1]
    hook(context, DynamicsStage.AFTER_STEP)
    assert batch["status"].view(-1).tolist() == [0, 2, 1]


def test_arguments_are_checked() -> None:
    with pytest.raises(OperandError, match="a criterion is a int; it must be a dictionary or a ConvergenceCriterion") as caught:
        ConvergenceHook([3])  # type: ignore[list-item]
    assert isinstance(caught.value, TypeError)
    with pytest.raises(ArgumentError, match="criteria is an empty list"):
        ConvergenceHook([])
    with pytest.raises(ValidationError, match="reduce_op"):
        ConvergenceHook({"key": "forces", "threshold": 1.0, "reduce_op": "median"})
    with pytest.raises(BatchKeyError, match=r"measured by 'energy', which the batch lacks; it has positions, forces") as missing:
        ConvergenceHook({"key": "energy", "threshold": 1.0}).evaluate(batch_of_forces(FORCES[:1], [1]))
    assert isinstance(missing.value, KeyError)
