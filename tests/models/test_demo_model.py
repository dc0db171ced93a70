"""DemoModel and its wrapper: the contract, embeddings, and weights that go to a file and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase import Atoms
from model_structures import pair_structures

from campaign.data import AtomicData
from campaign.models.base import BaseModelMixin
from campaign.models.demo import DemoModel, DemoModelWrapper
from campaign.models.registry import create_model
from campaign.testing.model_contract import ModelContract, batch_for


class TestContract(ModelContract):
    difference_step_ang = 1e-5

    def create_model(self) -> BaseModelMixin:
        return create_model("demo", torch.float64, torch.device("cpu"), {"hidden_dim": 16})

    def structures(self) -> list[Atoms]:
        return pair_structures(2.5)


def test_bare_model_sums_over_systems() -> None:
    model = DemoModel(hidden_dim=8).eval()
    numbers, positions = torch.tensor([1, 8, 1]), torch.randn(3, 3, requires_grad=True)
    together = model(numbers, positions)
    apart = model(numbers, positions, torch.tensor([0, 0, 1]))
    assert together["energy"].shape == (1, 1)
    assert apart["energy"].sum().item() == pytest.approx(together["energy"].item(), abs=1e-5)
    assert torch.allclose(apart["forces"], together["forces"])
    assert set(model(numbers, positions, compute_forces=False)) == {"energy"}


def test_single_structure_without_batch() -> None:
    model = DemoModelWrapper(DemoModel(hidden_dim=8))
    outputs = model(AtomicData(positions=torch.randn(2, 3), atomic_numbers=torch.tensor([1, 8])))
    assert outputs["energy"].shape == (1, 1)
    assert outputs["forces"].shape == (2, 3)


def test_embeddings_are_set_and_add_up() -> None:
    model = DemoModelWrapper(DemoModel(hidden_dim=8))
    batch = model.compute_embeddings(batch_for(model, pair_structures(2.0)))
    assert batch.node_embeddings.shape == (batch.num_nodes, 8)
    assert batch.graph_embeddings.shape == (batch.num_graphs, 8)
    assert torch.allclose(batch.graph_embeddings.sum(0), batch.node_embeddings.sum(0), atol=1e-4)


def test_weights_go_to_a_file_and_back(tmp_path: Path) -> None:
    model = DemoModelWrapper(hidden_dim=8, seed=3)
    model.export_model(tmp_path / "démo model.pt")
    again = DemoModelWrapper.from_checkpoint(tmp_path / "démo model.pt")
    assert again.fingerprint() == model.fingerprint() != DemoModelWrapper(hidden_dim=8, seed=4).fingerprint()


def test_seed_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    DemoModelWrapper(hidden_dim=8, seed=3)
    assert torch.equal(torch.rand(1), expected)
