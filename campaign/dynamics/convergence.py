"""When a system has converged: criteria that reduce a tensor of the batch to one number per system and compare it with a threshold.

Criteria are combined with AND. A `ConvergenceHook` only evaluates them, or also moves converged systems from one status to the next,
which is how a `FusedStage` hands them on. What a campaign counts as converged, with stress and fixed atoms, is `exits.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from campaign.data import Batch
from campaign.errors import ArgumentError, BatchKeyError, OperandError
from campaign.fields import Level
from campaign.hooks import DynamicsContext, DynamicsStage

__all__ = ["ConvergenceCriterion", "ConvergenceHook"]


class ConvergenceCriterion(BaseModel):
    """One key of the batch, reduced to one number per system; at or below `threshold` it is satisfied.

    `reduce_op` acts on the last dimensions of each atom's or system's row; of the atoms of a system the largest value counts.
    `custom_op` replaces all of it: it gets the tensor and returns a mask with one entry per system.

    >>> ConvergenceCriterion(key="forces", threshold=0.05, reduce_op="norm").key
    'forces'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)

    key: str = Field(description="key of the batch")
    threshold: float = Field(description="satisfied at or below")
    reduce_dims: int | list[int] = Field(default=-1, description="dimensions that reduce_op reduces")
    reduce_op: Literal["min", "max", "norm", "mean", "sum"] | None = Field(
        default=None, description="reduction within a row; None does none"
    )
    custom_op: Callable[[Tensor], Tensor] | None = Field(
        default=None, description="tensor in, mask of systems out; replaces everything else"
    )

    def __call__(self, batch: Batch) -> Bool[Tensor, " N"]:
        """Return which systems satisfy the criterion.

        Raises:
            BatchKeyError: the batch does not have the key (a KeyError).
        """
        if self.key not in batch:
            available = ", ".join(key for key, _ in batch)
            raise BatchKeyError(
                f"convergence is measured by {self.key!r}, which the batch lacks; it has {available}. Set it, or use another key."
            )
        tensor = batch[self.key]
        if self.custom_op is not None:
            chosen: Tensor = self.custom_op(tensor)
            return chosen
        values = self._reduced(tensor)
        values = values.reshape(values.shape[0], -1).amax(-1)
        if batch.level_of(self.key) is Level.ATOM:
            largest = torch.full((batch.num_graphs,), -torch.inf, dtype=values.dtype, device=values.device)
            # amax keeps NaN, so a system with bad forces never passes.
            values = largest.scatter_reduce_(0, batch.batch_idx.long(), values, reduce="amax", include_self=False)
        satisfied: Tensor = values <= self.threshold
        return satisfied

    def _reduced(self, tensor: Tensor) -> Tensor:
        match self.reduce_op:
            case "min":
                return tensor.amin(self.reduce_dims)
            case "max":
                return tensor.amax(self.reduce_dims)
            case "norm":
                norm: Tensor = torch.linalg.vector_norm(tensor, dim=self.reduce_dims)
                return norm
            case "mean":
                return tensor.mean(self.reduce_dims)
            case "sum":
                return tensor.sum(self.reduce_dims)
            case None:
                return tensor

    def __repr__(self) -> str:
        if self.custom_op is not None:
            return f"ConvergenceCriterion(key={self.key!r}, custom_op={getattr(self.custom_op, '__name__', repr(self.custom_op))})"
        reduction = "" if self.reduce_op is None else f", reduce_op={self.reduce_op!r}, reduce_dims={self.reduce_dims!r}"
        return f"ConvergenceCriterion(key={self.key!r}, threshold={self.threshold}{reduction})"


CriterionLike = ConvergenceCriterion | dict[str, Any]


class ConvergenceHook:
    """Says which systems satisfy all criteria; as a hook, moves them from `source_status` to `target_status`.

    Without criteria it is the largest force on an atom, at most 0.05 eV/Å.

    Raises:
        OperandError: a criterion is neither a dictionary nor a `ConvergenceCriterion` (a TypeError).

    >>> ConvergenceHook.from_fmax(0.01, source_status=0, target_status=1).num_criteria
    1
    """

    def __init__(
        self,
        criteria: CriterionLike | Sequence[CriterionLike] | None = None,
        source_status: int | None = None,
        target_status: int | None = None,
        frequency: int = 1,
    ) -> None:
        self.stage: Enum | None = DynamicsStage.AFTER_STEP
        self.frequency = frequency
        self.source_status = source_status
        self.target_status = target_status
        if criteria is None:
            criteria = ConvergenceCriterion(key="forces", threshold=0.05, reduce_op="norm")
        several = criteria if isinstance(criteria, (list, tuple)) else [criteria]
        if not several:
            raise ArgumentError("criteria is an empty list; with none, every system would count as converged. Give at least one, or None.")
        self.criteria = [_criterion(item) for item in several]

    @classmethod
    def from_fmax(
        cls, threshold: float = 0.05, source_status: int | None = None, target_status: int | None = None, frequency: int = 1
    ) -> ConvergenceHook:
        """Return a hook for the largest force on an atom, in eV/Å."""
        return cls.from_forces(threshold, frequency, source_status, target_status)

    @classmethod
    def from_forces(
        cls, threshold: float, frequency: int = 1, source_status: int | None = None, target_status: int | None = None
    ) -> ConvergenceHook:
        """Return a hook for the largest force on an atom, in eV/Å."""
        criterion = ConvergenceCriterion(key="forces", threshold=threshold, reduce_op="norm")
        return cls(criterion, source_status=source_status, target_status=target_status, frequency=frequency)

    @property
    def num_criteria(self) -> int:
        """Number of criteria."""
        return len(self.criteria)

    def evaluate_mask(self, batch: Batch) -> Bool[Tensor, " N"]:
        """Return which systems satisfy all criteria; nothing waits for the device.

        Raises:
            BatchKeyError: the batch lacks the key of a criterion.
        """
        mask = self.criteria[0](batch)
        for criterion in self.criteria[1:]:
            mask = mask & criterion(batch)
        return mask

    def evaluate(self, batch: Batch) -> Int64[Tensor, " M"] | None:
        """Return the positions of systems that satisfy all criteria, or None if there is none.

        Raises:
            BatchKeyError: the batch lacks the key of a criterion.
        """
        positions = self.evaluate_mask(batch).nonzero().view(-1)
        return positions if len(positions) else None

    def __call__(self, ctx: DynamicsContext, stage: Enum) -> None:
        """Give converged systems of `source_status` the `target_status`; nothing if either is None or the batch has no status."""
        del stage
        batch = ctx.batch
        if batch is None or self.source_status is None or self.target_status is None or "status" not in batch:
            return
        status = batch["status"].view(-1)
        status.masked_fill_(self.evaluate_mask(batch) & (status == self.source_status), self.target_status)

    def __repr__(self) -> str:
        parts = [f"criteria=[{', '.join(map(repr, self.criteria))}]"]
        if self.source_status is not None:
            parts.append(f"source_status={self.source_status}")
        if self.target_status is not None:
            parts.append(f"target_status={self.target_status}")
        return f"ConvergenceHook({', '.join(parts)}, frequency={self.frequency})"


def _criterion(item: object) -> ConvergenceCriterion:
    if isinstance(item, ConvergenceCriterion):
        return item
    if isinstance(item, dict):
        return ConvergenceCriterion(**item)
    raise OperandError(
        f"a criterion is a {type(item).__name__}; it must be a dictionary or a ConvergenceCriterion. Use {{'key': …, 'threshold': …}}."
    )
