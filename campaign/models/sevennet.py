"""SevenNet-0, an equivariant graph network for inorganic crystals, as one batched forward pass.

Y. Park, J. Kim, S. Hwang, S. Han, J. Chem. Theory Comput. 20, 4857 (2024). The package `sevenn` brings network and weights; this file makes
its input of a batch, and energies, forces and stress of its output. The network differentiates its energy by the edge vectors, so forces
and stress come out of one backward pass.

Weights: only checkpoints that lie in the installed wheel are loaded. They are pickles, which run code when loaded, just as the package
that they come with does; so no option names another file.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from campaign.data import Batch
from campaign.errors import SpecError
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs, NeighborConfig, NeighborListFormat, device_type
from campaign.models.edge_list import edges_within, volumes
from campaign.models.optional_package import import_optional, package_version

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

__all__ = ["CHECKPOINTS", "SevenNetModel"]

CHECKPOINTS: Final = {
    "7net-0": "SEVENNET_0_11Jul2024",
    "7net-0_22may2024": "SEVENNET_0_22May2024",
    "7net-l3i5": "SEVENNET_l3i5",
}
"""Checkpoints in the wheel, by the names that the package gives them."""


class SevenNetModel(nn.Module, BaseModelMixin):
    """SevenNet in float32, the only precision the package computes in.

    Option: `checkpoint`, one of `CHECKPOINTS`. Bits of a system depend on its batch mates, since matrix products and sums over edges are
    carried out in an order that depends on the whole batch; `batch_dependence_ev_per_atom` and `…_ev_per_ang` bound by how much.

    Raises:
        MissingDependencyError: `sevenn` is not installed.
        SpecError: there is no such checkpoint.
    """

    name = "sevennet"
    # Over crystals, a slab and a molecule 1e-6 and 2e-6 were measured, which is the rounding of float32 at 10 eV.
    batch_dependence_ev_per_atom = 4e-6
    batch_dependence_ev_per_ang = 2e-5

    def __init__(self, checkpoint: str = "7net-0", dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> None:
        super().__init__()
        if checkpoint not in CHECKPOINTS:
            raise SpecError(f"sevennet has no checkpoint {checkpoint!r}; the wheel brings {', '.join(CHECKPOINTS)}. Name one of them.")
        if dtype is not torch.float32:
            raise SpecError(f"sevennet was asked for in {dtype}; the package computes in float32. Set model.dtype to it.")
        self._keys = import_optional("sevenn._keys", "sevennet", "sevennet")
        constants = import_optional("sevenn._const", "sevennet", "sevennet")
        checkpoints = import_optional("sevenn.checkpoint", "sevennet", "sevennet")
        self.checkpoint = checkpoint
        self.dtype = dtype
        self._path = Path(getattr(constants, CHECKPOINTS[checkpoint]))
        with warnings.catch_warnings():
            # The package warns that it has no GPU accelerator, and e3nn of deprecated TorchScript; neither is for our user to mend.
            warnings.simplefilter("ignore")
            network = checkpoints.SevenNetCheckpoint(self._path).build_model()
        network.set_is_batch_data(True)
        self.network = network.to(device).eval().requires_grad_(False)
        self.cutoff_ang = float(network.cutoff)
        self.supported_elements = frozenset(int(number) for number in network.type_map)
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            optional_inputs=frozenset({"cell", "pbc", "neighbor_list_shifts"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=self.cutoff_ang, format=NeighborListFormat.COO, skin=0.5),
        )

    def forward(self, data: Batch) -> ModelOutputs:
        """Return energy [N, 1], forces [A, 3] and stress [N, 3, 3], those of them that are active.

        Raises:
            ContractError: the batch has no neighbour list.
        """
        key = self._keys
        # In the precision of the positions, and only then rounded, as the package's own calculator does.
        edges = edges_within(data, self.cutoff_ang)
        volume = volumes(data)
        numbers = data["atomic_numbers"].long()
        graph: dict[str, Any] = {
            key.NODE_FEATURE: numbers,
            key.ATOMIC_NUMBERS: numbers,
            key.POS: data["positions"].detach().to(self.dtype),
            key.EDGE_IDX: torch.stack([edges.source, edges.target]),
            key.EDGE_VEC: edges.vector.to(self.dtype),
            key.BATCH: data.batch_idx.long(),
            key.NUM_ATOMS: data.num_nodes_per_graph.long(),
            key.CELL_VOLUME: volume.to(self.dtype),
        }
        with torch.enable_grad():
            raw = self.network(graph)
        energy = raw[key.PRED_TOTAL_ENERGY].detach().reshape(-1, 1)
        # xx yy zz xy yz zx of minus the stress, which the package divides by 0.001 Å³ where there is no volume.
        minus = raw[key.PRED_STRESS].detach()[:, [0, 3, 5, 3, 1, 4, 5, 4, 2]].reshape(-1, 3, 3)
        stress = torch.where((volume > 0)[:, None, None], -minus, torch.zeros_like(minus))
        computed = {"energy": energy, "forces": raw[key.PRED_FORCE].detach(), "stress": stress}
        return OrderedDict((name, computed[name]) for name in sorted(self.output_data()))

    def ase_calculator(self) -> Calculator:
        calculators = import_optional("sevenn.calculator", "sevennet", "sevennet")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calculator: Calculator = calculators.SevenNetCalculator(model=str(self._path), device=next(self.network.parameters()).device)
        return calculator

    def provenance(self) -> dict[str, str | int | float]:
        return {
            **super().provenance(),
            "checkpoint": self.checkpoint,
            "dtype": "float32",
            "weights_sha256": hashlib.sha256(self._path.read_bytes()).hexdigest(),
            "sevenn": package_version("sevenn"),
            "e3nn": package_version("e3nn"),
            "torch": torch.__version__,
            "device": device_type(next(self.network.parameters()).device),
        }
