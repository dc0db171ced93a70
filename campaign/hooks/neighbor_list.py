"""The hook that keeps neighbour lists on a batch up to date."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from torch import Tensor

from campaign.data import Batch
from campaign.errors import HookError
from campaign.hooks.context import HookContext
from campaign.hooks.stages import DynamicsStage
from campaign.neighbors import VerletList, is_coo, write_rows

if TYPE_CHECKING:
    from campaign.models.base import NeighborConfig

__all__ = ["UNLISTED", "NeighborListHook"]

UNLISTED: Final = "_unlisted"
"""Key of a batch, per system: those that wait for neighbours."""


class NeighborListHook:
    """Gives the batch the neighbours that a model asks for, before each evaluation.

    For the format "matrix" the batch gets `neighbor_matrix` [A, K] (neighbours, counted through the batch; A where a row has no more),
    `num_neighbors` [A] and `neighbor_matrix_shifts` [A, K, 3]; for "coo" it gets `neighbor_list` [E, 2] and `neighbor_list_shifts`
    [E, 3]. All are int32. Neighbour j of i is at r_j + S·C. Rows are in canonical order, see `campaign.neighbors.rows`.

    With a skin, pairs up to cutoff + skin are listed and a system's rows are kept until one of its atoms has moved half the skin, less
    where its cell is strained; so a model tests distances. K grows as needed. Systems may come, go and change places between calls: those
    that `system_id` recognises keep their rows.

    Where `may_lag` is set and the batch lies on a GPU, matrices are kept up to date without the host looking (`VerletList`). The batch then
    has `_unlisted` [N, 1]: systems whose rows did not fit, for which a model gives NaN until they do. Who sets it leaves those alone.

    The tensors belong to the hook and are written in place at later calls; who needs them longer makes a copy.

    Args:
        config: `model.model_config.neighbor_config`: cutoff in Å, format, half_list and skin.
        skin: Å; takes the place of the config's, if given.
        max_neighbors: K to begin with; by default what the first batch needs.
        stage: when to fire; before the model is evaluated, unless told otherwise.

    Raises:
        HookError: cutoff or skin is not usable.

    >>> from campaign.models.base import NeighborConfig, NeighborListFormat
    >>> hook = NeighborListHook(NeighborConfig(cutoff=5.0, format=NeighborListFormat.MATRIX), skin=0.5)
    >>> hook.stage, hook.frequency
    (<DynamicsStage.BEFORE_COMPUTE: 3>, 1)
    """

    def __init__(
        self,
        config: NeighborConfig,
        skin: float | None = None,
        max_neighbors: int | None = None,
        stage: Enum | None = None,
    ) -> None:
        self.config = config
        self.skin = config.skin if skin is None else skin
        if not (config.cutoff > 0 and self.skin >= 0):
            raise HookError(
                f"NeighborListHook has cutoff {config.cutoff!r} and skin {self.skin!r}; the cutoff must be positive and the skin not "
                "negative, both in Å. Correct them."
            )
        self.stage: Enum | None = DynamicsStage.BEFORE_COMPUTE if stage is None else stage
        self.frequency = 1
        self.neighbors = VerletList(config.cutoff, self.skin, config.half_list, max_neighbors)
        self._is_coo = is_coo(config.format)
        self.may_lag = False
        """Whether systems that `_unlisted` on the batch names are left alone."""
        self._noted: Tensor | None = None

    def __call__(self, ctx: HookContext, stage: Enum) -> None:
        """Bring the neighbours of `ctx.batch` up to date.

        Raises:
            NeighborListError: a system's list would be endless or larger than memory; the error has its position in the batch.
        """
        del stage
        if ctx.batch is not None:
            self.update(ctx.batch)

    def update(self, batch: Batch) -> bool:
        """Bring the neighbours of a batch up to date; return whether any have changed."""
        # Edges are counted on the host.
        self.neighbors.may_lag = self.may_lag and not self._is_coo
        has_changed = self.neighbors.update(batch)
        self._note(batch, self.neighbors.unlisted)
        if has_changed or not self._is_on(batch):
            write_rows(batch, self.neighbors.rows, self._is_coo)
        return has_changed

    def _note(self, batch: Batch, unlisted: Tensor | None) -> None:
        if unlisted is None:
            if UNLISTED in batch:
                del batch[UNLISTED]
        elif unlisted is not self._noted or UNLISTED not in batch:
            self._noted = unlisted
            batch[UNLISTED] = unlisted.view(-1, 1)

    def _is_on(self, batch: Batch) -> bool:
        rows = self.neighbors.rows
        if self._is_coo:
            return "neighbor_list" in batch
        return rows is not None and "neighbor_matrix" in batch and batch["neighbor_matrix"] is rows.matrix
