"""CHGNet, a graph network for inorganic crystals that also knows magnetic moments, as one batched forward pass.

B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023). The package `chgnet` brings network, weights and the conversion of a structure to its
graph of atoms and bonds. That conversion is made per system and step on the CPU, by the package, and is where much of the time goes.

Weights: only those in the installed wheel are loaded. They are pickles, which run code when loaded, just as the package that they come
with does; so no option names another file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from campaign.data import Batch
from campaign.errors import InputError, SpecError
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs, device_type
from campaign.models.edge_list import volumes
from campaign.models.optional_package import import_optional, package_version
from campaign.units import GPA_PER_EV_PER_ANG3

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

__all__ = ["VERSIONS", "CHGNetModel"]

VERSIONS: Final = ("0.3.0", "0.2.0", "r2scan")
"""Sets of weights in the wheel, by the names that the package gives them."""


class CHGNetModel(nn.Module, BaseModelMixin):
    """CHGNet in float32, the only precision the package computes in; systems need a cell with a volume.

    Option: `version`, one of `VERSIONS`. Bits of a system depend on its batch mates; `batch_dependence_ev_per_atom` and
    `…_ev_per_ang` bound by how much.

    Raises:
        MissingDependencyError: `chgnet` is not installed.
        SpecError: there is no such version.
    """

    name = "chgnet"
    supported_elements = frozenset(range(1, 95))
    # Over crystals and a slab 1e-6 and 2e-7 were measured, which is the rounding of float32 at 10 eV.
    batch_dependence_ev_per_atom = 4e-6
    batch_dependence_ev_per_ang = 2e-5

    def __init__(self, version: str = "0.3.0", dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> None:
        super().__init__()
        if version not in VERSIONS:
            raise SpecError(f"chgnet has no version {version!r}; the wheel brings {', '.join(VERSIONS)}. Name one of them.")
        if dtype is not torch.float32:
            raise SpecError(f"chgnet was asked for in {dtype}; the package computes in float32. Set model.dtype to it.")
        package = import_optional("chgnet.model.model", "chgnet", "chgnet")
        self._structures = import_optional("pymatgen.core", "chgnet", "chgnet")
        self.version = version
        self.dtype = dtype
        self.device = torch.device("cpu") if device is None else device
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            network = package.CHGNet.load(model_name=version, use_device=str(self.device), verbose=False)
        # By default the converter refuses a structure with an isolated atom; its energy is as defined as any other.
        network.graph_converter.set_isolated_atom_response("ignore")
        self.network = network.eval().requires_grad_(False)
        folder = Path(str(package.__file__)).parent.parent / "pretrained" / version
        (self._weights,) = folder.glob("*.pth.tar")
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            required_inputs=frozenset({"cell"}),
            supports_pbc=True,
            needs_pbc=True,
        )

    def forward(self, data: Batch) -> ModelOutputs:
        """Return energy [N, 1], forces [A, 3] and stress [N, 3, 3], those of them that are active.

        Raises:
            InputError: a system has no volume.
        """
        if (volumes(data) <= 0).any():
            raise InputError("a system without a volume was given to chgnet; it computes crystals and slabs. Give it a cell and pbc.")
        graphs = [self._graph(data, system) for system in range(data.num_graphs)]
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = self.network(graphs, task="efs")
        n_atoms = data.num_nodes_per_graph.to(self.dtype) if self.network.is_intensive else 1.0
        # The converter takes an atom at NaN for one without neighbours.
        is_finite = [bool(torch.isfinite(atoms).all()) for atoms in data["positions"].split(data.num_nodes_list)]
        unless_nan = torch.where(torch.tensor(is_finite, device=data.device), 1.0, float("nan"))
        computed = {
            "energy": (raw["e"].detach() * n_atoms * unless_nan).reshape(-1, 1),
            "forces": torch.cat([force.detach() for force in raw["f"]]),
            # The package divides by the determinant of the cell, which is minus the volume for a left-handed one.
            "stress": torch.stack([stress.detach() for stress in raw["s"]]) * (_handedness(data) / GPA_PER_EV_PER_ANG3),
        }
        return OrderedDict((name, computed[name]) for name in sorted(self.output_data()))

    def _graph(self, data: Batch, system: int) -> Any:
        first, last = (int(end) for end in data.atom_segments.ptr[system : system + 2])
        lattice = self._structures.Lattice(data["cell"][system].cpu().numpy(), pbc=tuple(data["pbc"][system].tolist()))
        structure = self._structures.Structure(
            lattice,
            data["atomic_numbers"][first:last].tolist(),
            data["positions"][first:last].detach().cpu().numpy(),
            coords_are_cartesian=True,
        )
        return self.network.graph_converter(structure).to(str(self.device))

    def ase_calculator(self) -> Calculator:
        dynamics = import_optional("chgnet.model.dynamics", "chgnet", "chgnet")
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            calculator: Calculator = dynamics.CHGNetCalculator(model=self.network, use_device=str(self.device), on_isolated_atoms="ignore")
        return calculator

    def provenance(self) -> dict[str, str | int | float]:
        return {
            **super().provenance(),
            "version": self.version,
            "dtype": "float32",
            "weights_sha256": hashlib.sha256(self._weights.read_bytes()).hexdigest(),
            "chgnet": package_version("chgnet"),
            "pymatgen": package_version("pymatgen"),
            "torch": torch.__version__,
            "device": device_type(self.device),
        }


def _handedness(data: Batch) -> Float[Tensor, "N 1 1"]:
    sign: Tensor = torch.linalg.det(data["cell"].to(torch.float32)).sign()
    return sign[:, None, None]
