"""What bursts keep beside the neighbour rows: for each system its pairs within little more than the cutoff, one integer each.

Rows with a wide skin last long, but most of what they hold is beyond the cutoff, and they fill the caches. A near list is made out of them
by one look at each pair, hence often, so its own skin is narrow; the list of a small crystal then stays in the first level of the cache.
`system_loop.py` has the C++ that makes and reads them, `burst_kernel.py` says when.
"""

from __future__ import annotations

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.neighbors.skin import search_radius

__all__ = ["NearLists"]


class NearLists:
    """Room for the near lists of a batch on a CPU, and for where systems were when each was made.

    Args:
        cutoff: Å, of the potential.
        skin: Å, of the near lists.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff = cutoff
        self.skin = skin
        self.radius = search_radius(cutoff, skin, torch.float64)
        self._pairs = torch.empty(0, dtype=torch.int32)
        self._width = -1
        self._n_atoms = 0
        self._of_systems: list[Tensor] = []

    def follow(self, batch: Batch) -> None:
        """Make room for another batch; no system has a list then."""
        n_systems, self._n_atoms, self._width = batch.num_graphs, batch.num_nodes, -1
        self._of_systems = [
            torch.zeros(self._n_atoms, dtype=torch.int32),
            torch.zeros(n_systems, dtype=torch.int32),
            torch.empty(self._n_atoms, 3, dtype=torch.float64),
            torch.zeros(n_systems, 3, 3, dtype=torch.float64),
            torch.zeros(n_systems, 3, 3, dtype=torch.float64),
            torch.zeros(n_systems, 3, dtype=torch.bool),
        ]

    def arguments(self, width: int) -> list[Tensor | float]:
        """Return what a launch of `burst_kernel` needs, for rows so wide; lists made for other widths are forgotten."""
        if width != self._width:
            n_pairs = self._n_atoms * width
            if len(self._pairs) < n_pairs:
                self._pairs = torch.empty(n_pairs + n_pairs // 4, dtype=torch.int32)
            self._of_systems[2].fill_(torch.nan)  # where a list was made: nowhere, so that it is made anew
            self._width = width
        return [self._pairs, *self._of_systems, self.cutoff, self.skin, self.radius]
