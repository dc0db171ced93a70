"""Base of the analytic potentials: hands a batch to the loops of `loops.py`.

A potential adds its loops and its numbers. What is kept here between calls is scratch space that no caller sees; it grows and is used
again, since small batches spend most of their time in Python.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from campaign import __version__
from campaign.data import Batch
from campaign.data.warp_interop import BoundLaunch, precision_of
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs, NeighborConfig, NeighborListFormat, device_type
from campaign.models.loops import Loops, row_kernels, system_kernel, system_sums_kernel
from campaign.models.system_loop import SCRATCH_PER_ATOM

__all__ = ["SKIN_OVER_CUTOFF", "KernelModel"]

SKIN_OVER_CUTOFF = 0.1
"""Default Verlet skin over cutoff: a third more pairs in the list, which then lasts for several steps of a relaxation."""


class KernelModel(nn.Module, BaseModelMixin):
    """A potential made of loops over neighbour rows, with analytic forces and stress, in float64 or float32.

    Made for a CPU it asks for half lists, made for a GPU for whole ones; it then works where the batch is. Outputs are in the model's
    dtype, whatever that of the batch. Two atoms on one spot give non-finite outputs for their system only.

    Args:
        loops: what gives energies and forces.
        table: the numbers that the loops read.
        cutoff_ang: pairs from there on give nothing.
    """

    deterministic = True

    def __init__(
        self, loops: Loops, table: Float[ndarray, " T"], cutoff_ang: float, dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.device_type = device_type(device)
        self.precision = precision_of(dtype)
        self.loops = loops
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}),
            optional_inputs=frozenset({"cell", "pbc", "neighbor_matrix_shifts"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(
                cutoff=cutoff_ang,
                format=NeighborListFormat.MATRIX,
                half_list=self.device_type == "cpu",
                skin=SKIN_OVER_CUTOFF * cutoff_ang,
            ),
        )
        self._table = torch.from_numpy(table).to(dtype)
        self._tables: dict[torch.device, Tensor] = {}
        self._scratch: dict[str, Tensor] = {}
        self._empty: dict[torch.device, Tensor] = {}
        self._launches: dict[Any, BoundLaunch] = {}

    def forward(self, data: Batch) -> ModelOutputs:
        """Return energy [N, 1], forces [A, 3] and stress [N, 3, 3], those of them that are active.

        Raises:
            ContractError: the batch has no neighbour matrix.
        """
        matrix = self._input(data, "neighbor_matrix")
        n_systems, n_atoms, device = data.num_graphs, data.num_nodes, matrix.device
        if "cell" in data and "pbc" in data:
            cell, pbc = self._real(data["cell"]), data["pbc"]
        else:
            cell = torch.zeros((n_systems, 3, 3), dtype=self.dtype, device=device)
            pbc = torch.zeros((n_systems, 3), dtype=torch.bool, device=device)
        if "neighbor_matrix_shifts" in data:
            shifts = data["neighbor_matrix_shifts"]
        else:
            shifts = torch.empty((n_atoms, 0, 3), dtype=torch.int32, device=device)
        energy = torch.empty((n_systems, 1), dtype=self.dtype, device=device)
        forces = torch.empty((n_atoms, 3), dtype=self.dtype, device=device)
        stress = torch.empty((n_systems, 3, 3), dtype=self.dtype, device=device)
        positions = self._real(data["positions"])
        rows = [
            matrix,
            self._input(data, "num_neighbors"),
            shifts,
            self.table_on(device),
            self.scratch_for(n_atoms, matrix.shape[1], device),
        ]
        if self.asks_for_half_lists:
            kernel = system_kernel(self.precision, self.loops)
            none = self._no_near_list(device)
            inputs = [
                data.batch_ptr,
                data["atomic_numbers"],
                positions,
                cell,
                pbc,
                *rows[:3],
                none,
                none,
                none,
                *rows[3:],
                energy,
                forces,
                stress,
            ]
            self._launch(kernel, n_systems, inputs)
        else:
            of_atoms = [self._scratch_of("energy", n_atoms, (), device), self._scratch_of("virial", n_atoms, (6,), device)]
            for kernel in row_kernels(self.precision, self.loops):
                self._launch(kernel, n_atoms, [data.batch_idx, data["atomic_numbers"], positions, cell, *rows, *of_atoms, forces])
            self._launch(system_sums_kernel(self.precision), n_systems, [data.batch_ptr, *of_atoms, cell, pbc, energy, stress])
        computed = {"energy": energy, "forces": forces, "stress": stress}
        return OrderedDict((key, computed[key]) for key in sorted(self.output_data()))

    @property
    def asks_for_half_lists(self) -> bool:
        """Whether each pair should be in its lists once."""
        config = self.model_config.neighbor_config
        return config is not None and config.half_list

    def table_on(self, device: torch.device) -> Float[Tensor, " T"]:
        """Return the numbers that the loops read, on a device."""
        if device not in self._tables:
            self._tables[device] = self._table.to(device)
        return self._tables[device]

    def scratch_for(self, n_atoms: int, width: int, device: torch.device) -> Float[Tensor, " S"]:
        """Return scratch space for the loops over so many atoms and neighbour rows so wide."""
        loops = self.loops
        per_atom = loops.scratch_per_atom + width * loops.rows_scratch_per_pair
        if self.asks_for_half_lists:
            per_atom = SCRATCH_PER_ATOM + loops.scratch_per_atom + width * loops.system_scratch_per_pair
        return self._scratch_of("loops", n_atoms * per_atom, (), device)

    def _no_near_list(self, device: torch.device) -> Tensor:
        if device not in self._empty:
            self._empty[device] = torch.empty(0, dtype=torch.int32, device=device)
        return self._empty[device]

    def _scratch_of(self, name: str, n: int, trailing: tuple[int, ...], device: torch.device) -> Tensor:
        kept = self._scratch.get(name)
        if kept is None or kept.shape[0] < n or kept.device != device:
            # A quarter more, so that a batch that grows system by system does not allocate each time.
            kept = torch.empty((n + n // 4, *trailing), dtype=self.dtype, device=device)
            self._scratch[name] = kept
        return kept

    def _launch(self, kernel: Any, dim: int, inputs: list[Tensor]) -> None:
        key = kernel, inputs[0].device
        if key not in self._launches:
            self._launches[key] = BoundLaunch(kernel, inputs[0].device)
        self._launches[key].run(dim, inputs)

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
