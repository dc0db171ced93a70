"""ModelConfig and the mixin: defaults, what is refused, and that the three parts of an error are there."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from campaign.data import AtomicData, Batch
from campaign.errors import ContractError, ModelOutputError
from campaign.hooks import DynamicsStage, NeighborListHook
from campaign.models import BaseModelMixin, ModelConfig, ModelOutputs, NeighborConfig, NeighborListFormat


class Harmonic(nn.Module, BaseModelMixin):
    """½ Σ x²: the smallest model with autograd forces."""

    name = "harmonic"

    def __init__(self, neighbor_config: NeighborConfig | None = None) -> None:
        super().__init__()
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces"}), autograd_outputs=frozenset({"forces"}), neighbor_config=neighbor_config
        )

    def forward(self, data: Batch) -> ModelOutputs:
        positions = self.adapt_input(data)["positions"]
        energy = 0.5 * positions.square().sum().reshape(1)
        return self.adapt_output({"energy": energy, "forces": -torch.autograd.grad(energy, positions)[0]}, data)


def one_atom() -> Batch:
    return Batch.from_data_list([AtomicData(positions=torch.ones(1, 3), atomic_numbers=torch.tensor([1]))])


def test_active_outputs_are_all_unless_given() -> None:
    assert ModelConfig().active_outputs == {"energy"}
    config = ModelConfig(outputs=frozenset({"energy", "forces"}))
    assert config.active_outputs == {"energy", "forces"}
    config.active_outputs.discard("forces")
    assert config.outputs == {"energy", "forces"}
    assert ModelConfig(outputs=frozenset({"energy", "forces"}), active_outputs={"energy"}).active_outputs == {"energy"}
    assert ModelConfig(outputs=frozenset({"forces"}), active_outputs=None).active_outputs == {"forces"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values", [{"output": {"energy"}}, {"neighbor_config": {"cutoff": 0}}, {"neighbor_config": {"cutoff": float("inf")}}]
)
def test_config_refuses(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig.model_validate(values)


def test_autograd_model_runs_and_outputs_are_sorted_columns() -> None:
    outputs = Harmonic()(one_atom())
    assert list(outputs) == ["energy", "forces"]
    assert outputs["energy"].tolist() == [[1.5]]
    assert outputs["forces"].tolist() == [[-1.0, -1.0, -1.0]]


def test_inputs_follow_the_config() -> None:
    assert Harmonic().input_data() == {"positions", "atomic_numbers"}
    assert Harmonic(NeighborConfig(cutoff=3.0)).input_data() == {"positions", "atomic_numbers", "neighbor_list"}
    matrix = Harmonic(NeighborConfig(cutoff=3.0, format=NeighborListFormat.MATRIX))
    assert matrix.input_data() == {"positions", "atomic_numbers", "neighbor_matrix", "num_neighbors"}
    with pytest.raises(ContractError, match=r"no 'neighbor_matrix'; model 'harmonic' needs .* make_neighbor_hooks"):
        matrix(one_atom())


def test_neighbor_hooks_carry_the_config() -> None:
    assert Harmonic().make_neighbor_hooks() == []
    (hook,) = Harmonic(NeighborConfig(cutoff=3.0, skin=0.25)).make_neighbor_hooks()
    assert isinstance(hook, NeighborListHook)
    assert (hook.config.cutoff, hook.skin, hook.stage) == (3.0, 0.25, DynamicsStage.BEFORE_COMPUTE)


def test_output_that_the_model_lacks_is_refused() -> None:
    model = Harmonic()
    model.set_config("active_outputs", {"energy", "dipole"})
    with pytest.raises(ModelOutputError, match=r"dipole asked of model 'harmonic'; it computes energy, forces\. Set"):
        model.output_data()
    with pytest.raises(ContractError, match=r"no field 'outptus'; it has outputs, .* Set"):
        model.set_config("outptus", set())


def test_integer_gradients_are_refused() -> None:
    model = Harmonic()
    model.set_config("gradient_keys", {"atomic_numbers"})
    with pytest.raises(ContractError, match=r"atomic_numbers of dtype torch.int64 cannot have gradients"):
        model(one_atom())


def test_forgotten_config_is_told_at_construction() -> None:
    class Forgetful(BaseModelMixin):
        def __init__(self) -> None:
            pass

        def forward(self, data: Batch) -> ModelOutputs:
            return self.adapt_output({}, data)

    with pytest.raises(ContractError, match=r"Forgetful.__init__ set no model_config; every model has one\. Set"):
        Forgetful()


def test_what_a_model_lacks_is_said() -> None:
    model = Harmonic()
    assert model.embedding_shapes == {}
    with pytest.raises(ContractError, match="it has none"):
        model.compute_embeddings(one_atom())
    with pytest.raises(ContractError, match="nothing independent"):
        model.ase_calculator()


def test_fingerprint_is_the_sha256_of_provenance() -> None:
    class Other(Harmonic):
        name = "other"

    assert Harmonic().fingerprint() == Harmonic().fingerprint() != Other().fingerprint()
