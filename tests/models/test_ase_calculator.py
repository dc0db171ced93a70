"""The adapter of any ASE calculator: the contract, with EMT behind it, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from model_structures import emt_structures

from campaign.errors import SpecError
from campaign.models.ase_calculator import AseCalculatorModel
from campaign.models.base import BaseModelMixin
from campaign.models.emt import EMTModel
from campaign.models.registry import supported_elements
from campaign.testing.model_contract import ModelContract, batch_for, evaluate


class Charged(Calculator):
    """Says what it was given: energy is the sum of initial charges plus 100 times that of magnetic moments; it knows no stress."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        energy = self.atoms.get_initial_charges().sum() + 100 * self.atoms.get_initial_magnetic_moments().sum()
        self.results = {"energy": energy, "forces": np.zeros((len(self.atoms), 3))}


class TestContract(ModelContract):
    def create_model(self) -> BaseModelMixin:
        return AseCalculatorModel("ase.calculators.emt:EMT")

    def structures(self) -> list[Atoms]:
        return emt_structures(["Cu", "Au", "O"])[:6]

    def test_poisoned_system_spoils_no_other(self, model: BaseModelMixin) -> None:
        # What the calculator raises goes to the engine, which then computes systems apart.
        batch = batch_for(model, self.structures())
        batch.positions[0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            model(batch)


def test_equals_the_batched_model() -> None:
    structures = emt_structures(["Cu", "Au"])
    for one, other in zip(
        evaluate(AseCalculatorModel("ase.calculators.emt:EMT"), structures), evaluate(EMTModel(), structures), strict=True
    ):
        for key, value in one.items():
            np.testing.assert_allclose(value, other[key], atol=1e-9)


def test_charges_and_moments_reach_the_calculator() -> None:
    model = AseCalculatorModel(f"{__name__}:Charged")
    batch = batch_for(model, [bulk("Cu"), Atoms("Au2", positions=[[0, 0, 0], [0, 0, 3]])])
    batch["initial_charges"] = batch.positions.new_tensor([1.0, 2.0, 3.0])
    batch["initial_magmoms"] = batch.positions.new_tensor([0.1, 0.2, 0.3])
    outputs = model(batch)
    assert outputs["energy"].flatten().tolist() == pytest.approx([11.0, 55.0])
    assert set(outputs) == {"energy", "forces"}


class ClaimsStress(Charged):
    """Says that it has a stress, and has none."""

    implemented_properties = ("energy", "forces", "stress")


def test_a_stress_that_is_promised_and_not_given_is_no_number() -> None:
    model = AseCalculatorModel(f"{__name__}:ClaimsStress")
    stress = model(batch_for(model, [bulk("Cu"), Atoms("Cu")]))["stress"]
    assert stress[0].isnan().all(), "zero would count as converged"
    assert not stress[1].any()


def test_a_relaxing_cell_needs_a_stress() -> None:
    options = {"calculator": f"{__name__}:Charged"}
    assert supported_elements("ase", "float64", options) is None
    with pytest.raises(SpecError, match=r'relax\.cell is "full", and model \'ase\' with .*Charged\' computes no stress.*cell = "fixed"'):
        supported_elements("ase", "float64", options, cell="full")
    assert supported_elements("ase", "float64", {"calculator": "ase.calculators.emt:EMT"}, cell="full") is None
    with pytest.raises(SpecError, match="model 'demo' computes no stress"):
        supported_elements("demo", "float64", {}, cell="isotropic")


@pytest.mark.parametrize("path", ["ase.calculators.emt", "ase.calculators.emt:EMTT", "no_such_module:X", "", ":X"])
def test_bad_path_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match=r"cannot be imported: .*'module:name'.* Correct"):
        AseCalculatorModel(path)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(SpecError, match=r"refuses .*nonsense.* Mend"):
        AseCalculatorModel(f"{__name__}:only_with_size", {"nonsense": 1})


def only_with_size(*, size: int) -> Calculator:
    raise AssertionError(size)


def test_what_the_calculator_raises_goes_to_the_caller() -> None:
    model = AseCalculatorModel("ase.calculators.emt:EMT")
    with pytest.raises(NotImplementedError, match="No EMT-potential for Fe"):
        model(batch_for(model, [bulk("Cu"), bulk("Fe")]))


def test_provenance_names_calculator_and_versions() -> None:
    provenance = AseCalculatorModel("ase.calculators.morse:MorsePotential", {"r0": 2.0}).provenance()
    assert provenance["calculator"] == "ase.calculators.morse:MorsePotential"
    assert provenance["package_version"] == provenance["ase"]
    assert provenance["arguments"] == "[('r0', 2.0)]"
