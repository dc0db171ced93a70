"""Base of the analytic potentials: takes a batch apart for kernels over neighbour rows, and puts their results together.

A potential adds its parameters, its kernels and the order in which they run. What is kept here between calls is scratch space that no
caller sees; it grows and is used again, since small batches spend most of their time in Python.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor, nn

from campaign import __version__
from campaign.data import Batch
from campaign.data.warp_interop import launch, precision_of
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs, NeighborConfig, NeighborListFormat, device_type
from campaign.models.row_kernels import system_sums_kernel

__all__ = ["SKIN_OVER_CUTOFF", "AtomResults", "KernelModel", "Rows"]

SKIN_OVER_CUTOFF = 0.1
"""Default Verlet skin over cutoff: a third more pairs in the list, which then lasts for several steps of a relaxation."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch as kernels over neighbour rows read it; floating-point tensors have the model's dtype."""

    n_systems: int
    n_atoms: int
    device: torch.device
    atomic_numbers: Int64[Tensor, " A"]
    positions: Float[Tensor, "A 3"]
    cell: Float[Tensor, "N 3 3"]
    pbc: Bool[Tensor, "N 3"]
    batch_idx: Int32[Tensor, " A"]
    batch_ptr: Int32[Tensor, " N+1"]
    neighbor_matrix: Int32[Tensor, "A K"]
    num_neighbors: Int32[Tensor, " A"]
    shifts: Int32[Tensor, "A K 3"]


@dataclass(frozen=True, slots=True)
class AtomResults:
    """What the kernels of a potential write per atom; all but `forces` is scratch space of at least A rows."""

    energy: Float[Tensor, " A"]
    virial_diagonal: Float[Tensor, "A 3"]
    virial_off_diagonal: Float[Tensor, "A 3"]
    forces: Float[Tensor, "A 3"]


class KernelModel(nn.Module, BaseModelMixin):
    """A potential made of Warp kernels over neighbour rows, with analytic forces and stress, in float64 or float32.

    Outputs are in the model's dtype, whatever that of the batch. Two atoms on one spot give non-finite outputs for their system only.
    """

    deterministic = True

    def __init__(self, cutoff_ang: float, dtype: torch.dtype, device: torch.device | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        # Kernels run where the batch is; this is what provenance says.
        self.device_type = device_type(device)
        self.precision = precision_of(dtype)
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            optional_inputs=frozenset({"cell", "pbc", "neighbor_matrix_shifts"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=cutoff_ang, format=NeighborListFormat.MATRIX, skin=SKIN_OVER_CUTOFF * cutoff_ang),
        )
        self._scratch: dict[str, Tensor] = {}

    @abstractmethod
    def launch_rows(self, rows: Rows, results: AtomResults) -> None:
        """Run the kernels of this potential, which fill `results`."""

    def forward(self, data: Batch) -> ModelOutputs:
        """Return energy [N, 1], forces [A, 3] and stress [N, 3, 3], those of them that are active.

        Raises:
            ContractError: the batch has no neighbour matrix.
        """
        rows = self._rows(data)
        results = AtomResults(
            energy=self.scratch("energy", (rows.n_atoms,), rows.device),
            virial_diagonal=self.scratch("virial_diagonal", (rows.n_atoms, 3), rows.device),
            virial_off_diagonal=self.scratch("virial_off_diagonal", (rows.n_atoms, 3), rows.device),
            forces=torch.empty((rows.n_atoms, 3), dtype=self.dtype, device=rows.device),
        )
        energy = torch.empty((rows.n_systems, 1), dtype=self.dtype, device=rows.device)
        stress = torch.empty((rows.n_systems, 3, 3), dtype=self.dtype, device=rows.device)
        self.launch_rows(rows, results)
        launch(
            system_sums_kernel(self.precision),
            rows.n_systems,
            [
                rows.batch_ptr,
                results.energy,
                results.virial_diagonal,
                results.virial_off_diagonal,
                rows.cell,
                rows.pbc,
                energy,
                stress,
            ],
            rows.device,
        )
        computed = {"energy": energy, "forces": results.forces, "stress": stress}
        return OrderedDict((key, computed[key]) for key in sorted(self.output_data()))

    def scratch(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Return a tensor of the model's dtype with at least `shape[0]` rows, whose contents are undefined, kept under `name`."""
        kept = self._scratch.get(name)
        if kept is None or kept.shape[0] < shape[0] or kept.shape[1:] != shape[1:] or kept.device != device:
            # A quarter more, so that a batch that grows system by system does not allocate each time.
            kept = torch.empty((shape[0] + shape[0] // 4, *shape[1:]), dtype=self.dtype, device=device)
            self._scratch[name] = kept
        return kept

    def _rows(self, data: Batch) -> Rows:
        neighbor_matrix = self._input(data, "neighbor_matrix")
        # Not the batch's device, which may be "cuda" without a number.
        n_systems, device = data.num_graphs, neighbor_matrix.device
        if "cell" in data and "pbc" in data:
            cell, pbc = self._real(data["cell"]), data["pbc"]
        else:
            cell = torch.zeros((n_systems, 3, 3), dtype=self.dtype, device=device)
            pbc = torch.zeros((n_systems, 3), dtype=torch.bool, device=device)
        if "neighbor_matrix_shifts" in data:
            shifts = data["neighbor_matrix_shifts"]
        else:
            shifts = torch.zeros((*neighbor_matrix.shape, 3), dtype=torch.int32, device=device)
        return Rows(
            n_systems=n_systems,
            n_atoms=data.num_nodes,
            device=device,
            atomic_numbers=data["atomic_numbers"],
            positions=self._real(data["positions"]),
            cell=cell,
            pbc=pbc,
            batch_idx=data.batch_idx,
            batch_ptr=data.batch_ptr,
            neighbor_matrix=neighbor_matrix,
            num_neighbors=self._input(data, "num_neighbors"),
            shifts=shifts,
        )

    def _real(self, tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            tensor = tensor.detach()
        return tensor if tensor.dtype is self.dtype else tensor.to(self.dtype)

    def provenance(self) -> dict[str, str | int | float]:
        return {
            **super().provenance(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device_type,
            "relax-campaign": __version__,
        }
