"""Bursts: many steps of every system in one launch, where nobody listens in between.

A step through `loop.py` costs about 0.1 ms of Python whatever the batch is, and reads all of it from memory again. Where there are no
hooks, the potential is one of ours and the batch lies on a CPU, `burst_kernel.py` takes one system after the other through as many steps as
fit into `TARGET_S`; so a system stays in the cache, and a small batch is as fast as a large one. Nothing else changes: same functions, same
order, same bits.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import torch
from torch import Tensor

from campaign.data import Batch, Segments
from campaign.data.warp_interop import launch
from campaign.dynamics.burst_kernel import burst_kernel
from campaign.dynamics.exits import Exits
from campaign.dynamics.isolation import IsolatingModel
from campaign.dynamics.near_lists import NearLists
from campaign.dynamics.optimizers.optimizer import Optimizer
from campaign.dynamics.symmetry import followed_keys, symmetry_arguments
from campaign.hooks.neighbor_list import NeighborListHook
from campaign.models.kernel_model import KernelModel
from campaign.neighbors.search import likely_width
from campaign.neighbors.skin import search_radius
from campaign.neighbors.verlet import VerletList

__all__ = ["Burst"]


class Burst:
    """Runs the systems of a batch that have not ended by many steps at once.

    Args:
        dynamics: whose rule moves them.
        exits: which judge them.
        model: whose potential gives the forces.
        neighbors: which keep the lists that the model asks for.
        most_steps: steps of a burst; None adapts to how long they take.
    """

    TARGET_S: Final = 0.03
    """How long a burst should take: long beside what surrounds it, short beside how long a request to stop may wait."""

    SKIN: Final = 2.0
    """Skin of the rows over that of the model: near lists are made out of them and nothing else, so wide ones cost little and last long."""

    NEAR_SKIN: Final = 0.5
    """Skin of the near lists over that of the model."""

    FIRST_ATOM_STEPS: Final = 10_000
    """Atoms times steps of the first burst, before it is known how long they take: 2 to 30 ms."""

    def __init__(
        self, dynamics: Optimizer, exits: Exits, model: KernelModel, neighbors: NeighborListHook, most_steps: int | None = None
    ) -> None:
        self._dynamics = dynamics
        self._exits = exits
        self._model = model
        lists = neighbors.neighbors
        self._near = NearLists(lists.cutoff, self.NEAR_SKIN * lists.skin)
        # Near lists are made out of the rows, so these must have all that is within the radius of those.
        self._lists = VerletList(lists.cutoff + self._near.skin, (self.SKIN - self.NEAR_SKIN) * lists.skin, lists.half)
        self._most_steps = most_steps
        self._quota = most_steps or 0
        self._kernel = burst_kernel(dynamics.rule(), model.loops)
        self._of: Segments | None = None
        self._room: list[Tensor] = []
        self._has_fixed = 1
        self._no_symmetry = [
            torch.zeros(0, 1, dtype=torch.int32),
            torch.zeros(0, 3, 3, dtype=torch.float64),
            torch.zeros(0, 9, 9, dtype=torch.float64),
        ]

    @classmethod
    def where_possible(
        cls, dynamics: Optimizer, exits: Exits, model: IsolatingModel, device: torch.device, most_steps: int | None
    ) -> Burst | None:
        """Return one where nobody listens to single steps and all parts are ours; otherwise None."""
        potential, hooks = model.model, model.neighbor_hooks
        if not isinstance(potential, KernelModel) or potential.dtype != torch.float64 or not potential.asks_for_half_lists:
            return None
        if type(potential).forward is not KernelModel.forward or potential._forward_hooks or potential._forward_pre_hooks:
            return None  # someone does more than what the loops do
        if dynamics.hooks or device.type != "cpu" or len(hooks) != 1 or not isinstance(hooks[0], NeighborListHook):
            return None
        return cls(dynamics, exits, potential, hooks[0], most_steps)

    def can_run(self, batch: Batch) -> bool:
        """Return whether a batch is in the precision of the kernel."""
        return bool(batch["positions"].dtype == torch.float64)

    def run(self, batch: Batch) -> int:
        """Take all systems further by so many steps, unless they end; return how many.

        Raises:
            NeighborListError: the list of a system would be endless or larger than memory.
        """
        start = perf_counter()
        dynamics, lists, model = self._dynamics, self._lists, self._model
        dynamics._ensure_state_initialized(batch)
        is_other = self._follow(batch)
        if dynamics._fresh is None:
            dynamics._fresh = torch.zeros(batch.num_graphs, dtype=torch.bool)
        # Of a batch that was here before, the launch renews what it can; who is not evaluated then waits for the host.
        if is_other or bool(dynamics._fresh.any()):
            lists.update(batch)
        rows, reference = lists.rows, lists.reference
        if rows is None or reference is None:
            return 0  # never: `update` makes both
        rule = dynamics.rule_arguments(batch)
        rule[2] = self._has_fixed
        tally = self._exits.start_tally(batch.device)
        quota = self._quota
        launch(
            self._kernel,
            batch.num_graphs,
            [
                quota,
                dynamics._fresh,
                *rule,
                *self._symmetry(batch),
                batch["atomic_numbers"],
                model.table_on(batch.device),
                model.scratch_for(batch.num_nodes, rows.width, batch.device),
                rows.matrix,
                rows.counts,
                rows.shifts,
                reference.positions,
                reference.vectors,
                reference.duals,
                reference.pbc,
                *self._room,
                lists.cutoff,
                lists.skin,
                search_radius(lists.cutoff, lists.skin, torch.float64),
                *self._near.arguments(rows.width),
                *self._exits.judge_arguments(batch, tally),
            ],
            batch.device,
        )
        self._exits.post_tally()
        dynamics.step_count += quota
        self._adapt(perf_counter() - start)
        return quota

    def _symmetry(self, batch: Batch) -> list[Tensor | int]:
        """Return whether somebody keeps symmetry, how, and where the model writes."""
        if followed_keys(batch) == ("forces", "stress"):
            return [0, *self._no_symmetry, batch["forces"], batch["stress"]]
        return [1, *symmetry_arguments(batch)[:5]]

    def _follow(self, batch: Batch) -> bool:
        """Make what is sized by the batch, if that has changed; return whether it has."""
        if self._of is batch.atom_segments:
            return False
        n = batch.num_graphs
        self._of = batch.atom_segments
        self._room = [
            torch.zeros(n, 3, 3, dtype=torch.float64),
            torch.zeros(n, 3, dtype=torch.float64),
            torch.zeros(n, dtype=torch.int32),
        ]
        self._near.follow(batch)
        self._has_fixed = int(bool(batch["fixed"].any()))
        if self._lists.rows is None:
            self._lists.width = likely_width(batch, self._lists.cutoff + self._lists.skin)
        if self._quota == 0:
            self._quota = max(4, self.FIRST_ATOM_STEPS // max(1, batch.num_nodes))
        return True

    def _adapt(self, seconds: float) -> None:
        if self._most_steps is None:
            self._quota = max(4, min(1000, int(self._quota * min(4.0, max(0.25, self.TARGET_S / max(seconds, 1e-6))))))
