"""`deterministic = true`: equal bits in any batch from models whose own kernels depend on it, or a clear refusal."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from campaign.errors import SpecError
from campaign.models.base import BaseModelMixin
from campaign.models.one_by_one import OneByOneModel, _refuse_without_algorithms, make_deterministic
from campaign.models.registry import create_model, supported_elements
from campaign.testing.model_contract import ModelContract, evaluate

CPU = torch.device("cpu")


class TestContract(ModelContract):
    def create_model(self) -> BaseModelMixin:
        return create_model("demo", torch.float64, CPU, {"hidden_dim": 16}, deterministic=True)

    def structures(self) -> list[Atoms]:
        return [molecule("H2O"), bulk("Cu", cubic=True), Atoms("Au"), molecule("CH3OH")]


def mixed() -> list[Atoms]:
    rng = np.random.default_rng(4)
    structures = [bulk("Cu", cubic=True), bulk("Si"), molecule("H2O")]
    for atoms in structures:
        atoms.rattle(0.05, rng=rng)
    return structures


def differing(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> set[str]:
    """Return the outputs that have other bits for some structure."""
    return {key for own, other in zip(first, second, strict=True) for key, value in own.items() if value.tobytes() != other[key].tobytes()}


@pytest.mark.skipif(
    not importlib.util.find_spec("sevenn"), reason="the package sevenn is not installed; pip install 'relax-campaign[sevennet]'"
)
def test_sevennet_gives_equal_bits_with_the_key_and_stays_in_its_bound_without() -> None:
    batched = create_model("sevennet", torch.float32, CPU)
    one_by_one = make_deterministic(batched, CPU)
    assert isinstance(one_by_one, OneByOneModel) and one_by_one.deterministic and not batched.deterministic
    structures = mixed()
    alone = [evaluate(one_by_one, [atoms])[0] for atoms in structures]
    together = evaluate(one_by_one, structures[::-1], skin_ang=0.3)[::-1]
    assert not differing(alone, together)
    for atoms, own, other in zip(structures, alone, evaluate(batched, structures), strict=True):
        apart = float(abs(own["energy"] - other["energy"]).max()) / len(atoms), float(abs(own["forces"] - other["forces"]).max())
        print(f"{atoms.get_chemical_formula()}: in a batch off by {apart[0]:.1e} eV/atom, {apart[1]:.1e} eV/Å")
        assert apart[0] <= batched.batch_dependence_ev_per_atom and apart[1] <= batched.batch_dependence_ev_per_ang
    assert one_by_one.provenance() == {**batched.provenance(), "systems_per_call": 1}
    assert one_by_one.fingerprint() != batched.fingerprint()


def test_models_that_are_deterministic_stay_as_they_are() -> None:
    assert not isinstance(create_model("emt", torch.float64, CPU, deterministic=True), OneByOneModel)


def test_an_ase_calculator_is_refused_before_anything_is_read() -> None:
    options = {"calculator": "ase.calculators.morse:MorsePotential"}
    with pytest.raises(SpecError, match=r"model\.deterministic is set, and model 'ase' cannot say .* Leave the key out, or choose another"):
        supported_elements("ase", "float64", options, deterministic=True)


def test_a_model_without_such_algorithms_is_refused_with_torchs_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("demo", torch.float64, CPU)
    seen = []

    def forward(data: Any) -> Any:
        seen.append(torch.are_deterministic_algorithms_enabled())
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use_det…(True)'.")

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(SpecError, match=r"model 'demo' cannot follow it on cpu: cumsum_cuda_kernel .* or set model\.device = \"cpu\""):
        _refuse_without_algorithms(OneByOneModel(model), CPU)
    assert seen == [True]
    assert not torch.are_deterministic_algorithms_enabled()
