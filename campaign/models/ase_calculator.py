"""Any ASE calculator as a model: systems are computed one after the other, at the speed of that calculator.

This gains nothing from batches; it exists so that a campaign can use a potential for which nobody has written a batched model. What is
gained is everything around it: refill, stores, restarts, reports.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from torch import nn

from campaign.data import Batch
from campaign.errors import SpecError
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs
from campaign.models.optional_package import package_version

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

__all__ = ["AseCalculatorModel"]


class AseCalculatorModel(nn.Module, BaseModelMixin):
    """An ASE calculator, given as import path and keyword arguments.

    Options: `calculator`, "module:name" of a class or function that returns a calculator; `arguments`, its keyword arguments. The import
    runs the code of that module, so the path must be one that you trust. Stress is an output if the calculator says it has it: zero for
    a system without a volume, NaN where the calculator has none after all. What it raises for a system goes to the caller, which then finds
    the system and fails it alone.

    >>> model = AseCalculatorModel("ase.calculators.morse:MorsePotential", {"r0": 2.5})
    >>> batch = Batch.from_arrays([2], {"positions": [[0.0, 0, 0], [0, 0, 2.5]], "atomic_numbers": [29, 29]}, {})
    >>> model(batch)["energy"].tolist()
    [[-1.0]]

    Raises:
        SpecError: the path cannot be imported, or the arguments are refused.
    """

    name = "ase"
    # Each system is computed alone, but a calculator may remember something of the one before.
    batch_dependence_ev_per_atom = None
    batch_dependence_ev_per_ang = None

    def __init__(
        self,
        calculator: str,
        arguments: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        del device  # the calculator's own affair; results go to the device of the batch
        self.dtype = dtype
        self.calculator_path = calculator
        self.arguments = dict(arguments or {})
        self._calculator = self.ase_calculator()
        # Calculators from before ASE had the attribute say nothing; they are asked.
        has_stress = "stress" in getattr(self._calculator, "implemented_properties", ("stress",))
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"} if has_stress else {"energy", "forces"}),
            optional_inputs=frozenset({"cell", "pbc", "initial_charges", "initial_magmoms"}),
            supports_pbc=True,
        )

    def forward(self, data: Batch) -> ModelOutputs:
        """Return energy [N, 1], forces [A, 3] and stress [N, 3, 3], those of them that are active."""
        active = self.output_data()
        positions = self._input(data, "positions").detach().cpu().numpy().astype(np.float64)
        numbers = self._input(data, "atomic_numbers").cpu().numpy()
        optional = {key: data[key].cpu().numpy() for key in sorted(self.model_config.optional_inputs) if key in data}
        energy = np.zeros((data.num_graphs, 1))
        forces = np.zeros_like(positions)
        stress = np.zeros((data.num_graphs, 3, 3))
        first = np.concatenate([[0], np.cumsum(data.num_nodes_list)])
        for system in range(data.num_graphs):
            own = slice(int(first[system]), int(first[system + 1]))
            atoms = Atoms(numbers[own], positions[own])
            if "cell" in optional and "pbc" in optional:
                atoms.set_cell(optional["cell"][system])
                atoms.set_pbc(optional["pbc"][system])
            if "initial_charges" in optional:
                atoms.set_initial_charges(optional["initial_charges"][own])
            if "initial_magmoms" in optional:
                atoms.set_initial_magnetic_moments(optional["initial_magmoms"][own])
            # Some calculators keep lists of the last structure although the number of atoms changed.
            self._calculator.reset()
            atoms.calc = self._calculator
            energy[system, 0] = atoms.get_potential_energy()
            if "forces" in active:
                forces[own] = atoms.get_forces()
            if "stress" in active and atoms.pbc.any() and atoms.cell.rank == 3:
                stress[system] = _stress_or_nan(atoms)
        computed = {"energy": energy, "forces": forces, "stress": stress}
        return OrderedDict((key, torch.from_numpy(computed[key]).to(device=data.device, dtype=self.dtype)) for key in sorted(active))

    def ase_calculator(self) -> Calculator:
        module, _, attribute = self.calculator_path.partition(":")
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise SpecError(
                f"the calculator {self.calculator_path!r} cannot be imported: {error}. It is given as 'module:name', such as "
                "'ase.calculators.emt:EMT'. Correct it in [model.options], or install its package."
            ) from error
        try:
            made: Calculator = factory(**self.arguments)
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"the calculator {self.calculator_path!r} refuses {self.arguments!r}: {error}. Mend arguments in [model.options]."
            ) from error
        return made

    def provenance(self) -> dict[str, str | int | float]:
        package = self.calculator_path.partition(":")[0].partition(".")[0]
        return {
            **super().provenance(),
            "calculator": self.calculator_path,
            "arguments": repr(sorted(self.arguments.items())),
            "package": package,
            "package_version": _version_of(package),
            "ase": package_version("ase"),
        }


def _stress_or_nan(atoms: Atoms) -> np.ndarray[Any, Any]:
    try:
        stress: np.ndarray[Any, Any] = atoms.get_stress(voigt=False)
    except PropertyNotImplementedError:
        # Not zero, at which a relaxing cell would count as converged.
        stress = np.full((3, 3), np.nan)
    return stress


def _version_of(package: str) -> str:
    from importlib.metadata import packages_distributions

    distributions = packages_distributions().get(package)
    return package_version(distributions[0]) if distributions else "unknown"
