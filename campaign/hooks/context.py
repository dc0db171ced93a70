"""What a hook is told when it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool
from torch import Tensor

if TYPE_CHECKING:
    from campaign.data import Batch
    from campaign.models.base import BaseModelMixin

__all__ = ["DynamicsContext", "HookContext"]


@dataclass(kw_only=True)
class HookContext:
    """What every workflow tells its hooks. The batch is the live one: what a hook changes in it stays changed."""

    batch: Batch | None
    """None at stages that come before the first batch."""
    model: BaseModelMixin | None = None
    """Model that is evaluated."""
    global_rank: int = 0
    """Rank of this process among all of the run."""
    workflow: Any = None
    """Engine that calls, such as a `BaseDynamics`."""


@dataclass(kw_only=True)
class DynamicsContext(HookContext):
    """What the dynamics tells its hooks."""

    step_count: int = 0
    """Steps of the engine before this one."""
    converged_mask: Bool[Tensor, " N"] | None = None
    """Systems that converged in this step; None at other stages than ON_CONVERGE, and it may be all false there."""
    active_graph_mask: Bool[Tensor, " N"] | None = None
    """Systems that the calling stage works on; None means all."""
