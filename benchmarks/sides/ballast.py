"""A network whose answer is thrown away: it makes a fast potential as slow as a small network, and changes no result.

The same lines for all sides, so torch is all that is imported. Two rounds of messages over 16 edges an atom, as SevenNet-0 has in these
crystals, and the gradient by the positions, in float64. Edges go to the atoms that follow, whatever is near, so that no side's neighbour
lists matter.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

EDGES_PER_ATOM: Final = 16
FEATURES: Final = 16
MESSAGE_ROUNDS: Final = 2
BASIS: Final = 8


class Ballast(nn.Module):
    """The network; the same numbers each time it is made."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self._of_edges = nn.ModuleList(_two_layers(BASIS) for _ in range(MESSAGE_ROUNDS))
            self._of_atoms = nn.ModuleList(_two_layers(FEATURES) for _ in range(MESSAGE_ROUNDS))
        self.register_buffer("_widths", torch.arange(1, BASIS + 1, dtype=torch.float64).square() * 10)
        self.requires_grad_(False)

    def forward(self, positions: Tensor) -> Tensor:
        """Return what would be minus the forces [A, 3]."""
        n_atoms = len(positions)
        source = torch.arange(n_atoms).repeat_interleave(EDGES_PER_ATOM)
        target = (source + torch.arange(1, EDGES_PER_ATOM + 1).repeat(n_atoms)) % n_atoms
        with torch.enable_grad():
            moved = positions.detach().to(torch.float64).requires_grad_(True)
            squares = (moved[source] - moved[target]).square().sum(1, keepdim=True)
            basis = torch.exp(-squares / self._widths)
            features = torch.ones(n_atoms, FEATURES, dtype=torch.float64)
            for of_edges, of_atoms in zip(self._of_edges, self._of_atoms, strict=True):
                messages = torch.zeros_like(features).index_add(0, source, of_edges(basis) * features[target])
                features = features + of_atoms(messages)
            (gradient,) = torch.autograd.grad(features.sum(), moved)
        return gradient


def add_ballast(model: nn.Module) -> None:
    """Have the network evaluated before each call of a model with a batch."""
    ballast = Ballast()

    def evaluate(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        ballast(arguments[0].positions)

    model.register_forward_pre_hook(evaluate)


def _two_layers(n_inputs: int) -> nn.Sequential:
    layers = nn.Linear(n_inputs, FEATURES, dtype=torch.float64), nn.SiLU(), nn.Linear(FEATURES, FEATURES, dtype=torch.float64)
    return nn.Sequential(*layers)
