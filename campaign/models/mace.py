"""MACE, equivariant message passing with many-body messages, as one batched forward pass over a model file of one's own.

I. Batatia et al., Adv. Neural Inf. Process. Syst. 35, 11423 (2022). The package `mace-torch` brings the network's code; weights come from a
file that the spec names.

A MACE file is a pickled module, and **loading it runs whatever code it holds**. Only name files that you trust as you trust a program, and
give their `sha256`, which is checked before anything is loaded.
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

__all__ = ["MACEModel"]


class MACEModel(nn.Module, BaseModelMixin):
    """A MACE model in float64 or float32.

    Options: `path` of the model file; `sha256` of it, optional, refused if it differs; `head` of a model with several. Bits of a system
    depend on its batch mates, in the last digits of the precision chosen. For a system that is periodic in one or two directions the stress
    is by the volume of its cell, where the package's own calculator takes that of a box it sets up itself.

    Raises:
        MissingDependencyError: `mace-torch` is not installed.
        SpecError: the file is missing, has another sha256, holds no MACE model, or has no such head.
    """

    name = "mace"

    def __init__(
        self,
        path: str,
        sha256: str | None = None,
        head: str | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self._path = Path(path).expanduser()
        if not self._path.is_file():
            raise SpecError(f"no MACE model is at {path!r}; weights are a file on this machine. Give its path in [model.options].")
        self.sha256 = hashlib.sha256(self._path.read_bytes()).hexdigest()
        if sha256 is not None and sha256.lower() != self.sha256:
            raise SpecError(f"{path!r} has sha256 {self.sha256}; the spec says {sha256}. Give the right file, or correct sha256.")
        import_optional("mace", "mace", "mace")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torch.load(self._path, map_location="cpu", weights_only=False)
        if not hasattr(network, "r_max") or not hasattr(network, "atomic_numbers"):
            raise SpecError(f"{path!r} holds a {type(network).__name__}; a model file of MACE holds its network. Give another path.")
        self.network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.dtype = dtype
        self.batch_dependence_ev_per_atom, self.batch_dependence_ev_per_ang = (1e-11, 1e-10) if dtype is torch.float64 else (4e-6, 2e-5)
        self._heads: Final = [str(one) for one in getattr(network, "heads", None) or ["Default"]]
        self.head = _chosen_head(self._heads, head, path)
        numbers = [int(number) for number in network.atomic_numbers]
        self.supported_elements = frozenset(numbers)
        column = torch.full((max(numbers) + 1,), -1, dtype=torch.int64)
        column[numbers] = torch.arange(len(numbers))
        self._column = column.to(device)
        self.cutoff_ang = float(network.r_max)
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
        edges = edges_within(data, self.cutoff_ang)
        volume = volumes(data)
        positions = data["positions"].detach().to(self.dtype, copy=True)
        has_cell = "cell" in data
        cell = data["cell"].to(self.dtype) if has_cell else torch.zeros((data.num_graphs, 3, 3), dtype=self.dtype, device=data.device)
        owners = data.batch_idx.long()
        graph: dict[str, Any] = {
            "positions": positions,
            "node_attrs": nn.functional.one_hot(self._column[data["atomic_numbers"].long()], len(self.supported_elements or ())).to(
                self.dtype
            ),
            "edge_index": torch.stack([edges.source, edges.target]),
            "unit_shifts": edges.shift.to(self.dtype),
            "shifts": torch.einsum("ek,ekx->ex", edges.shift.to(self.dtype), cell[owners[edges.source]]),
            "cell": cell.reshape(-1, 3),
            "batch": owners,
            "ptr": data.batch_ptr.long(),
            # The package would make these zeros from the sum of all positions, and so spread the NaN of one system over the batch.
            "displacement": torch.zeros((data.num_graphs, 3, 3), dtype=self.dtype, device=data.device).requires_grad_(True),
            "head": torch.full((data.num_graphs,), self._heads.index(self.head), device=data.device),
        }
        with torch.enable_grad():
            raw = self.network(graph, compute_force=True, compute_virials=True, compute_stress=False)
        has_volume = (volume > 0)[:, None, None]
        # The package's virials are minus dE/dε.
        stress = torch.where(has_volume, -raw["virials"].detach() / volume.to(self.dtype)[:, None, None], torch.zeros_like(raw["virials"]))
        computed = {"energy": raw["energy"].detach().reshape(-1, 1), "forces": raw["forces"].detach(), "stress": stress}
        return OrderedDict((name, computed[name]) for name in sorted(self.output_data()))

    def ase_calculator(self) -> Calculator:
        calculators = import_optional("mace.calculators", "mace", "mace")
        dtype = str(self.dtype).removeprefix("torch.")
        device = str(self._column.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = torch.load(self._path, map_location="cpu", weights_only=False)
            calculator: Calculator = calculators.MACECalculator(models=network, device=device, default_dtype=dtype, head=self.head)
        return calculator

    def provenance(self) -> dict[str, str | int | float]:
        return {
            **super().provenance(),
            "head": self.head,
            "dtype": str(self.dtype).removeprefix("torch."),
            "weights_sha256": self.sha256,
            "mace-torch": package_version("mace-torch"),
            "e3nn": package_version("e3nn"),
            "torch": torch.__version__,
            "device": device_type(self._column.device),
        }


def _chosen_head(heads: list[str], head: str | None, path: str) -> str:
    if head is None and len(heads) == 1:
        return heads[0]
    matches = [one for one in heads if one.lower() == (head or "default").lower()]
    if not matches:
        raise SpecError(f"head {head or 'default'!r} was asked of {path!r}; it has {', '.join(heads)}. Set head in [model.options].")
    return matches[0]
