"""All analytic models against the contract, in float64, and what they promise beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from model_cases import CASES, Case, label, make

from campaign.models.base import BaseModelMixin
from campaign.testing.model_contract import ModelContract, batch_for, evaluate

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=label)


@pytest.fixture(params=CASES, ids=label, scope="class")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


class TestContract(ModelContract):
    @pytest.fixture(autouse=True)
    def _case(self, case: Case) -> None:
        self.case = case

    def create_model(self) -> BaseModelMixin:
        return make(self.case)

    def structures(self) -> list[Atoms]:
        return self.case[2](0)

    @pytest.fixture
    def model(self) -> BaseModelMixin:
        return self.create_model()


@EVERY_CASE
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_agrees_with_ase_over_more_structures(case: Case, seed: int) -> None:
    model, structures = make(case), case[2](seed)
    calculator = model.ase_calculator()
    worst = np.zeros(3)
    for atoms, own in zip(structures, evaluate(model, structures, skin_ang=0.3), strict=True):
        atoms.calc = calculator
        has_stress = atoms.cell.rank == 3 and atoms.pbc.any()
        differences = (
            own["energy"][0] - atoms.get_potential_energy(),
            np.abs(own["forces"] - atoms.get_forces()).max(),
            np.abs(own["stress"] - (atoms.get_stress(voigt=False) if has_stress else 0.0)).max(),
        )
        worst = np.maximum(worst, np.abs(differences))
    print(f"{label(case)}, seed {seed}: {worst[0]:.2g} eV, {worst[1]:.2g} eV/Å, {worst[2]:.2g} eV/Å³ from ASE")
    assert (worst <= (1e-8, 1e-7, 1e-8)).all(), worst


@EVERY_CASE
def test_whole_lists_give_what_half_lists_give(case: Case) -> None:
    """A model made for a GPU asks for whole lists and works atom by atom; here it does so on the CPU."""
    half, whole = make(case), make(case, device=torch.device("cuda"))
    assert half.model_config.neighbor_config.half_list
    assert not whole.model_config.neighbor_config.half_list
    structures = case[2](0)
    for one, other in zip(evaluate(half, structures, skin_ang=0.3), evaluate(whole, structures, skin_ang=0.3), strict=True):
        for key, value in one.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-12, atol=1e-11, err_msg=key)


@EVERY_CASE
def test_float32_is_float64_rounded(case: Case) -> None:
    structures = case[2](0)
    for exact, rounded in zip(evaluate(make(case), structures), evaluate(make(case, torch.float32), structures), strict=True):
        for key, value in exact.items():
            assert rounded[key].dtype == np.float32
            np.testing.assert_allclose(rounded[key], value, rtol=2e-4, atol=2e-4)


@EVERY_CASE
def test_two_atoms_on_one_spot_are_no_crash(case: Case) -> None:
    model, structures = make(case), case[2](0)
    batch = batch_for(model, structures)
    alone = evaluate(model, structures)
    ends = batch.batch_ptr.tolist()
    batch.positions[ends[0] + 1] = batch.positions[ends[0]]
    outputs = model(batch)
    assert not torch.isfinite(outputs["forces"][: ends[1]]).all()
    assert outputs["energy"][1:].numpy().tobytes() == np.stack([own["energy"] for own in alone[1:]]).tobytes()
    assert outputs["forces"][ends[1] :].numpy().tobytes() == np.concatenate([own["forces"] for own in alone[1:]]).tobytes()


@EVERY_CASE
def test_without_cell_and_shifts(case: Case) -> None:
    model = make(case)
    structures = [atoms for atoms in case[2](0) if not atoms.pbc.any()]
    batch = batch_for(model, structures)
    expected = model(batch)
    for key in ("cell", "pbc", "neighbor_matrix_shifts"):
        del batch[key]
    for key, value in model(batch).items():
        assert torch.equal(value, expected[key]), key


@EVERY_CASE
def test_forces_of_a_system_add_up_to_zero(case: Case) -> None:
    for own in evaluate(make(case), case[2](4)):
        assert np.abs(own["forces"].sum(axis=0)).max() < 1e-9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible; run on a machine with one")
@EVERY_CASE
def test_cuda_equals_cpu(case: Case) -> None:
    model, structures = make(case), case[2](0)
    on_cpu, on_gpu = model(batch_for(model, structures)), model(batch_for(model, structures, device="cuda"))
    for key, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[key].cpu(), value, rtol=1e-10, atol=1e-9)
