"""CHGNet against the package's own ASE calculator, where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from model_structures import crystals, rattled

from campaign.errors import InputError, SpecError
from campaign.models.base import BaseModelMixin
from campaign.models.chgnet import CHGNetModel
from campaign.testing.model_contract import ModelContract, batch_for, evaluate


def test_unknown_version_is_refused() -> None:
    with pytest.raises(SpecError, match=r"no version '9'; the wheel brings 0\.3\.0, .* Name one"):
        CHGNetModel("9")


needs_package = pytest.mark.skipif(
    not importlib.util.find_spec("chgnet"), reason="the package chgnet is not installed; pip install 'relax-campaign[chgnet]'"
)


@pytest.fixture(scope="module")
def chgnet() -> BaseModelMixin:
    return CHGNetModel()


@needs_package
class TestContract(ModelContract):
    # The rounding of float32.
    energy_tolerance_ev = 3e-5
    forces_tolerance_ev_per_ang = 2e-5
    stress_tolerance_ev_per_ang3 = 2e-6
    difference_step_ang = 0.0

    def create_model(self) -> BaseModelMixin:
        return CHGNetModel()

    @pytest.fixture
    def model(self, chgnet: BaseModelMixin) -> BaseModelMixin:
        return chgnet

    def structures(self) -> list[Atoms]:
        slab = fcc111("Pt", (2, 2, 2), vacuum=6)
        slab.pbc = (True, True, False)
        return [*crystals(["Si", "Cu", "Fe", "C"]), rattled(slab, np.random.default_rng(3), 0.05)]


@needs_package
def test_left_handed_cell_has_the_same_stress(chgnet: BaseModelMixin) -> None:
    (right,) = crystals(["Si"])
    left = right.copy()
    left.set_cell(right.cell[[1, 0, 2]])
    one, other = evaluate(chgnet, [right, left])
    np.testing.assert_allclose(one["stress"], other["stress"], atol=1e-6)


@needs_package
def test_system_without_volume_is_refused(chgnet: BaseModelMixin) -> None:
    with pytest.raises(InputError, match=r"without a volume was given to chgnet; .* Give it a cell"):
        chgnet(batch_for(chgnet, [Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.6]])]))
