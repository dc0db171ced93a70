"""MACE with a small network of random weights against the package's own ASE calculator, where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from model_structures import rattled

from campaign.errors import SpecError
from campaign.models.base import BaseModelMixin
from campaign.models.mace import MACEModel
from campaign.testing.model_contract import ModelContract

if not importlib.util.find_spec("mace"):
    pytest.skip("the package mace-torch is not installed; pip install 'relax-campaign[mace]'", allow_module_level=True)


def write_small_network(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mace  # noqa: F401 - first, since it prepares torch for the e3nn that it needs
        from e3nn import o3
        from mace import modules

        before = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        network = modules.ScaleShiftMACE(
            r_max=4.5,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=4,
            hidden_irreps=o3.Irreps("8x0e + 8x1o"),
            MLP_irreps=o3.Irreps("8x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.array([[-1.0, -3.0, -5.0, -2.0]]),
            avg_num_neighbors=8.0,
            atomic_numbers=[1, 6, 8, 29],
            correlation=2,
            radial_type="bessel",
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
        torch.set_default_dtype(before)
        torch.save(network, path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mace") / "small.model"
    write_small_network(target)
    return target


@pytest.mark.filterwarnings("ignore")  # what the package warns of
class TestContract(ModelContract):
    file: ClassVar[Path]
    difference_step_ang = 1e-5

    @pytest.fixture(autouse=True)
    def _file(self, path: Path) -> None:
        type(self).file = path

    def create_model(self) -> BaseModelMixin:
        return MACEModel(str(self.file))

    def structures(self) -> list[Atoms]:
        rng = np.random.default_rng(5)
        alone = Atoms("H")
        return [rattled(bulk("Cu"), rng), rattled(molecule("CH3CH2OH"), rng, 0.05), alone, rattled(bulk("Cu", cubic=True), rng)]


def test_wrong_hash_is_refused_before_loading(path: Path) -> None:
    with pytest.raises(SpecError, match=r"has sha256 [0-9a-f]{64}; the spec says 00\. Give"):
        MACEModel(str(path), sha256="00")
    model = MACEModel(str(path))
    assert MACEModel(str(path), sha256=model.sha256.upper()).fingerprint() == model.fingerprint()


def test_unknown_head_is_refused(path: Path) -> None:
    with pytest.raises(SpecError, match=r"head 'pbe' was asked of .*; it has Default\. Set head"):
        MACEModel(str(path), head="pbe")


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(SpecError, match=r"holds a dict; a model file of MACE holds its network\. Give"):
        MACEModel(str(tmp_path / "other.pt"))
