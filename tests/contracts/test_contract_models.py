"""The demonstration model beside the reference's: with the same random numbers it has the same weights, and with these the same forces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from specimens import FLOAT64, at_rest, batch, structure
from two_packages import Package, differs, same


def model(p: Package, **options: Any) -> Any:
    torch.manual_seed(0)
    return p.DemoModelWrapper(p.DemoModel(**options))


@pytest.mark.parametrize("options", [{}, {"hidden_dim": 8}, {"num_atom_types": 90, "hidden_dim": 16}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_energies_and_forces(options: dict[str, int], dtype: torch.dtype) -> None:
    names, outputs = same(lambda p: (lambda out: [list(out), dict(out)])(model(p, **options)(batch(p, dtype=dtype))), 1e-5)
    assert names == ["energy", "forces"]
    assert (outputs["energy"]["shape"], outputs["forces"]["shape"]) == ([3, 1], [8, 3])


def test_a_single_structure() -> None:
    assert same(lambda p: dict(model(p)(structure(p))), 1e-5)["energy"]["shape"] == [1, 1]


def test_the_module_itself() -> None:
    def script(p: Package, **options: Any) -> Any:
        made = batch(p)
        module = model(p).model
        return module(made.atomic_numbers, made.positions.clone().requires_grad_(True), **options)

    assert same(script, 1e-5)["energy"]["shape"] == [1, 1]
    assert list(same(lambda p: script(p, compute_forces=False), 1e-5)) == ["energy"]
    assert same(lambda p: script(p, batch_indices=batch(p).batch_idx.long()), 1e-5)["energy"]["shape"] == [3, 1]


def test_what_the_model_says_of_itself() -> None:
    def script(p: Package) -> Any:
        made = model(p)
        config = {key: getattr(made.model_config, key) for key in type(made.model_config).model_fields}
        return [config, made.model_config.needs_neighborlist, made.dtype, made.input_data(), made.output_data(), sorted(made.state_dict())]

    assert same(script)[3:5] == [["atomic_numbers", "positions"], ["energy", "forces"]]
    assert same(lambda p: {key: list(shape) for key, shape in model(p).embedding_shapes.items()})["node_embeddings"] == [64]


def test_active_outputs() -> None:
    def script(p: Package, *active: str) -> Any:
        made = model(p)
        made.model_config.active_outputs = set(active)
        return list(made(batch(p)))

    assert same(lambda p: script(p, "energy")) == ["energy"]
    differs("unknown outputs", lambda p: script(p, "energy", "stress"), ["energy"], RuntimeError)


def test_embeddings() -> None:
    def script(p: Package) -> Any:
        made = structure(p)
        returned = model(p).compute_embeddings(made)
        return returned is made, made.node_embeddings, list(made.graph_embeddings.shape), made.graph_embeddings[0, 0]

    assert same(script, 1e-5)[2] == [1, 64]

    def are_sums(p: Package) -> bool:
        made = model(p).compute_embeddings(structure(p))
        return bool(torch.allclose(made.graph_embeddings[0], made.node_embeddings.sum(0), atol=1e-5))

    differs("embeddings", are_sums, False, True)
    differs("levels", lambda p: list(model(p).compute_embeddings(batch(p)).graph_embeddings.shape), ValueError, [3, 64])


def test_set_config() -> None:
    def script(p: Package, key: str) -> Any:
        made = model(p)
        made.set_config(key, {"energy"})
        return made.model_config.active_outputs

    assert same(lambda p: script(p, "active_outputs")) == ["energy"]
    differs("wrong calls", lambda p: script(p, "bogus"), AttributeError, ValueError)


def test_gradients_after_a_call() -> None:
    def script(p: Package) -> bool:
        made = batch(p)
        model(p)(made)
        return made.positions.requires_grad

    differs("gradients", script, True, False)
    # An engine leaves none in either.
    assert same(lambda p: p.DemoDynamics(model(p), n_steps=1).run(at_rest(p)).positions.requires_grad) is False


@pytest.mark.parametrize("n_steps", [1, 5])
def test_dynamics(n_steps: int) -> None:
    result = same(lambda p: p.DemoDynamics(model(p), n_steps=n_steps, dt=0.1).run(at_rest(p)), 1e-4)
    assert any(result["tensors"]["forces"]["numbers"])


def test_checkpoints(tmp_path: Path) -> None:
    def saved(p: Package) -> Any:
        model(p).export_model(tmp_path / p.root)
        return torch.load(tmp_path / p.root, weights_only=True)

    assert "projection.weight" in same(saved)

    def loaded(p: Package) -> Any:
        model(p).export_model(tmp_path / p.root)
        again = p.DemoModelWrapper.from_checkpoint(tmp_path / p.root)
        return bool(torch.equal(again(batch(p))["energy"], model(p).eval()(batch(p))["energy"]))

    differs("checkpoints", loaded, AttributeError, True)
