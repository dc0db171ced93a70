"""SevenNet-0 against the package's own ASE calculator, in float32, and its bound on batch dependence."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from model_structures import crystals, rattled

from campaign.errors import SpecError
from campaign.models.base import BaseModelMixin
from campaign.models.registry import create_model
from campaign.models.sevennet import SevenNetModel
from campaign.testing.model_contract import ModelContract, evaluate

if not importlib.util.find_spec("sevenn"):
    pytest.skip("the package sevenn is not installed; pip install 'relax-campaign[sevennet]'", allow_module_level=True)


@pytest.fixture(scope="module")
def sevennet() -> BaseModelMixin:
    return create_model("sevennet", torch.float32, torch.device("cpu"))


class TestContract(ModelContract):
    # The rounding of float32: 1e-7 of energies up to some 100 eV, of forces that are sums of many terms, of stresses.
    energy_tolerance_ev = 3e-5
    forces_tolerance_ev_per_ang = 2e-5
    stress_tolerance_ev_per_ang3 = 2e-6
    difference_step_ang = 0.0

    def create_model(self) -> BaseModelMixin:
        return SevenNetModel()

    @pytest.fixture
    def model(self, sevennet: BaseModelMixin) -> BaseModelMixin:
        return sevennet

    def structures(self) -> list[Atoms]:
        rng = np.random.default_rng(3)
        slab = fcc111("Pt", (1, 2, 2), vacuum=6)
        slab.pbc = (True, True, False)
        return [*crystals(["Cu", "O", "Fe", "C"]), rattled(molecule("CH3OH"), rng, 0.05), Atoms("Au"), rattled(slab, rng, 0.05)]


def test_forces_follow_the_energy(sevennet: BaseModelMixin) -> None:
    silicon = crystals(["Si"])[0]
    moved = [silicon.copy(), silicon.copy()]
    moved[0].positions[0, 0] += 0.01
    moved[1].positions[0, 0] -= 0.01
    up, down, here = evaluate(sevennet, [*moved, silicon])
    by_difference = -(up["energy"][0] - down["energy"][0]) / 0.02
    print(f"force {here['forces'][0, 0]:.5f} eV/Å, by difference {by_difference:.5f} eV/Å")
    assert here["forces"][0, 0] == pytest.approx(by_difference, abs=2e-3)


def test_weights_come_from_the_wheel_and_are_hashed(sevennet: BaseModelMixin) -> None:
    import sevenn

    (path,) = Path(sevenn.__file__).parent.glob("pretrained_potentials/SevenNet_0__11Jul2024/*.pth")
    assert sevennet.provenance()["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {"sevenn", "torch", "e3nn"} <= set(sevennet.provenance())


def test_unknown_checkpoint_is_refused() -> None:
    with pytest.raises(SpecError, match=r"no checkpoint '/tmp/mine\.pth'; the wheel brings 7net-0, .* Name one"):
        SevenNetModel("/tmp/mine.pth")


def test_batch_of_atoms_without_neighbors(sevennet: BaseModelMixin) -> None:
    alone, other = evaluate(sevennet, [Atoms("Au"), Atoms("Cu")])
    (with_edges, _) = evaluate(sevennet, [Atoms("Au"), bulk("Cu")])
    assert not alone["forces"].any()
    assert alone["energy"] == pytest.approx(with_edges["energy"], abs=1e-6)
    assert np.isfinite(other["energy"]).all()
