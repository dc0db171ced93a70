"""What every model must do, as a class to subclass; usable by whoever writes one.

    class TestMyModel(ModelContract):
        def create_model(self):
            return MyModel()

        def structures(self):
            return [molecule("H2O"), bulk("Cu"), ...]

The structures stand beside each other in one batch, so they should differ in size, elements, cell and periodicity: what leaks from one to
the other shows only then. Agreement with an independent ASE calculator is tested where the model has one, and derivatives by differences.
"""

from __future__ import annotations

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from campaign.data import Batch
from campaign.errors import ContractError, ModelOutputError
from campaign.models.base import BaseModelMixin, ModelConfig
from campaign.neighbors import compute_neighbors

__all__ = ["ModelContract", "batch_for", "evaluate"]


def batch_for(model: BaseModelMixin, structures: Sequence[Atoms], skin_ang: float = 0.0, device: str = "cpu") -> Batch:
    """Return a float64 batch of structures with the neighbours that `model` needs, those up to `skin_ang` further away included."""
    batch = Batch.from_arrays(
        [len(atoms) for atoms in structures],
        {
            "positions": np.concatenate([atoms.positions for atoms in structures]),
            "atomic_numbers": np.concatenate([atoms.numbers for atoms in structures]).astype(np.int64),
        },
        {
            "cell": np.stack([np.asarray(atoms.cell) for atoms in structures]),
            "pbc": np.stack([atoms.pbc for atoms in structures]),
        },
        device=device,
    )
    config = model.model_config.neighbor_config
    if config is not None:
        compute_neighbors(batch, config=config.model_copy(update={"cutoff": config.cutoff + skin_ang}))
    return batch


def evaluate(model: BaseModelMixin, structures: Sequence[Atoms], skin_ang: float = 0.0) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Return the outputs of each structure, all computed in one batch: energy as a number, forces [A, 3], stress [3, 3]."""
    batch = batch_for(model, structures, skin_ang)
    return _by_system(model(batch), batch)


def _by_system(outputs: dict[str, Tensor | None], batch: Batch) -> list[dict[str, np.ndarray[Any, Any]]]:
    ends = batch.batch_ptr.tolist()
    results: list[dict[str, np.ndarray[Any, Any]]] = []
    for system in range(batch.num_graphs):
        own: dict[str, np.ndarray[Any, Any]] = {}
        for key, value in outputs.items():
            if value is None:
                raise ModelOutputError(f"output {key!r} is None; a model returns what is active. Compute it.")
            rows = value.detach().cpu().numpy()
            own[key] = rows[ends[system] : ends[system + 1]] if key == "forces" else rows[system]
        results.append(own)
    return results


class ModelContract(ABC):
    """Subclass, say how to make the model and what it can compute, and loosen a tolerance where it has a reason."""

    energy_tolerance_ev: ClassVar[float] = 1e-8
    """Largest difference from the ASE calculator."""
    forces_tolerance_ev_per_ang: ClassVar[float] = 1e-7
    stress_tolerance_ev_per_ang3: ClassVar[float] = 1e-8
    difference_step_ang: ClassVar[float] = 3e-6
    """Displacement of finite differences: so small that hardly a pair crosses a cutoff, where forces jump; 0 leaves them out (float32)."""
    difference_tolerance: ClassVar[float] = 1e-5
    """Largest difference of an analytic derivative from a finite one, relative to the largest component or 1."""

    _model: ClassVar[BaseModelMixin]

    @abstractmethod
    def create_model(self) -> BaseModelMixin:
        """Return a new model, always with the same parameters."""

    @abstractmethod
    def structures(self) -> list[Atoms]:
        """Return at least three structures that the model can compute, as different as possible."""

    @pytest.fixture
    def model(self) -> BaseModelMixin:
        """One model for all tests of a class, since making one can take seconds."""
        own = type(self).__dict__
        if "_model" not in own:
            type(self)._model = self.create_model()
        return type(self)._model

    # Declarations

    def test_declares_itself(self, model: BaseModelMixin) -> None:
        assert isinstance(model.model_config, ModelConfig)
        assert "energy" in model.model_config.outputs
        assert model.supported_elements is None or all(0 < number < 119 for number in model.supported_elements)
        assert not model.deterministic or (model.batch_dependence_ev_per_atom == 0 and model.batch_dependence_ev_per_ang == 0)

    def test_provenance_is_plain_and_fingerprint_follows_it(self, model: BaseModelMixin) -> None:
        provenance = model.provenance()
        assert json.loads(json.dumps(provenance)) == provenance
        assert provenance["name"] == model.name
        assert len(bytes.fromhex(model.fingerprint())) == 32
        assert self.create_model().fingerprint() == model.fingerprint()

    def test_config_pickles(self, model: BaseModelMixin) -> None:
        assert pickle.loads(pickle.dumps(model.model_config)) == model.model_config

    # Outputs

    def test_outputs_have_their_shapes(self, model: BaseModelMixin) -> None:
        batch = batch_for(model, self.structures())
        outputs = model(batch)
        assert set(outputs) == model.model_config.active_outputs
        shapes = {"energy": (batch.num_graphs, 1), "forces": (batch.num_nodes, 3), "stress": (batch.num_graphs, 3, 3)}
        for key, value in outputs.items():
            assert isinstance(value, Tensor)
            assert not value.requires_grad
            assert value.device == batch.device
            assert torch.isfinite(value).all(), f"{key} is not finite"
            if key in shapes:
                assert tuple(value.shape) == shapes[key]

    def test_batch_is_left_as_it_was(self, model: BaseModelMixin) -> None:
        batch = batch_for(model, self.structures())
        before = batch.clone()
        model(batch)
        assert batch.keys == before.keys
        for key, value in before:
            assert torch.equal(batch[key], value), key
            assert not batch[key].requires_grad

    def test_second_call_does_not_touch_the_first_result(self, model: BaseModelMixin) -> None:
        structures = self.structures()
        batch = batch_for(model, structures)
        first = model(batch)
        kept = {key: value.clone() for key, value in first.items() if value is not None}
        model(batch_for(model, structures[::-1]))
        assert all(torch.equal(first[key], value) for key, value in kept.items())  # type: ignore[arg-type]

    def test_only_active_outputs_are_returned(self, model: BaseModelMixin) -> None:
        batch = batch_for(model, self.structures())
        model.model_config.active_outputs = {"energy"}
        try:
            assert list(model(batch)) == ["energy"]
            model.model_config.active_outputs = {"energy", "absent"}
            with pytest.raises(ModelOutputError, match=r"absent.*it computes.*Set model_config"):
                model(batch)
        finally:
            model.model_config.active_outputs = set(model.model_config.outputs)

    def test_missing_neighbors_are_named(self, model: BaseModelMixin) -> None:
        if not model.model_config.needs_neighborlist:
            pytest.skip("the model needs no neighbours")
        batch = batch_for(model, self.structures())
        for key in ("neighbor_matrix", "neighbor_list"):
            if key in batch:
                del batch[key]
        with pytest.raises(ContractError, match=r"neighbor_.*make_neighbor_hooks"):
            model(batch)

    # Physics

    def test_agrees_with_ase(self, model: BaseModelMixin) -> None:
        calculator = _calculator_or_skip(model)
        for number, (atoms, own) in enumerate(zip(self.structures(), evaluate(model, self.structures()), strict=True)):
            atoms.calc = calculator
            label = f"structure {number}, {atoms.get_chemical_formula()}, pbc {atoms.pbc}"
            _assert_close(f"energy of {label} in eV", float(own["energy"][0]), atoms.get_potential_energy(), self.energy_tolerance_ev)
            _assert_close(f"forces of {label} in eV/Å", own["forces"], atoms.get_forces(), self.forces_tolerance_ev_per_ang)
            if "stress" not in own:
                continue
            if atoms.cell.rank == 3 and atoms.pbc.any():
                stress = atoms.get_stress(voigt=False)
                _assert_close(f"stress of {label} in eV/Å³", own["stress"], stress, self.stress_tolerance_ev_per_ang3)
            else:
                assert not own["stress"].any(), f"{label} has no volume, but a stress"

    def test_forces_are_minus_the_gradient(self, model: BaseModelMixin) -> None:
        step = self.difference_step_ang
        if not step or "forces" not in model.model_config.outputs:
            pytest.skip("no finite differences in this precision")
        structures = self.structures()
        rng = np.random.default_rng(7)
        directions = [rng.normal(size=(len(atoms), 3)) for atoms in structures]
        energies = []
        for sign in (1.0, -1.0):
            moved = [atoms.copy() for atoms in structures]
            for atoms, direction in zip(moved, directions, strict=True):
                atoms.positions += sign * step * direction
            energies.append([float(own["energy"][0]) for own in evaluate(model, moved)])
        for number, (own, direction) in enumerate(zip(evaluate(model, structures), directions, strict=True)):
            by_difference = -(energies[0][number] - energies[1][number]) / (2 * step)
            scale = max(1.0, float(np.abs(own["forces"]).max()))
            tolerance = self.difference_tolerance * scale
            _assert_close(
                f"force of structure {number} along a direction", float((own["forces"] * direction).sum()), by_difference, tolerance
            )

    def test_stress_is_the_derivative_by_strain(self, model: BaseModelMixin) -> None:
        step = self.difference_step_ang
        if not step or "stress" not in model.model_config.outputs:
            pytest.skip("no stress, or no finite differences in this precision")
        structures = [atoms for atoms in self.structures() if atoms.pbc.any() and atoms.cell.rank == 3]
        strain = np.random.default_rng(8).normal(size=(3, 3))
        strain = (strain + strain.T) / 2
        energies = []
        for sign in (1.0, -1.0):
            strained = [atoms.copy() for atoms in structures]
            for atoms in strained:
                atoms.set_cell(np.asarray(atoms.cell) @ (np.eye(3) + sign * step * strain), scale_atoms=True)
            energies.append([float(own["energy"][0]) for own in evaluate(model, strained)])
        for number, (atoms, own) in enumerate(zip(structures, evaluate(model, structures), strict=True)):
            by_difference = (energies[0][number] - energies[1][number]) / (2 * step)
            virial = own["stress"] * abs(np.linalg.det(atoms.cell))
            tolerance = self.difference_tolerance * max(1.0, float(np.abs(virial).max()))
            _assert_close(f"virial of periodic structure {number} along a strain", float((virial * strain).sum()), by_difference, tolerance)

    # Batches

    def test_batch_mates_do_not_matter(self, model: BaseModelMixin) -> None:
        structures = self.structures()
        together = evaluate(model, structures)
        others = [evaluate(model, [atoms])[0] for atoms in structures]
        others += evaluate(model, structures[::-1])[::-1]
        others += evaluate(model, structures + structures, skin_ang=0.4)[len(structures) :]
        if model.batch_dependence_ev_per_atom is None or model.batch_dependence_ev_per_ang is None:
            pytest.skip("the model does not know its own bound")
        for number, other in enumerate(others):
            atoms, own = structures[number % len(structures)], together[number % len(structures)]
            if model.deterministic:
                for key, value in own.items():
                    assert value.tobytes() == other[key].tobytes(), f"{key} of structure {number} has other bits with other batch mates"
                continue
            energy_bound = model.batch_dependence_ev_per_atom * len(atoms)
            _assert_close(f"energy of structure {number} with other batch mates", own["energy"], other["energy"], energy_bound)
            bound = model.batch_dependence_ev_per_ang
            _assert_close(f"forces of structure {number} with other batch mates", own["forces"], other["forces"], bound)

    def test_poisoned_system_spoils_no_other(self, model: BaseModelMixin) -> None:
        structures = self.structures()
        batch = batch_for(model, structures)
        whole = _by_system(model(batch), batch)
        # The largest system: an atom alone would have no neighbour to tell.
        victim = int(np.argmax(batch.num_nodes_list))
        batch.positions[int(batch.batch_ptr[victim])] = float("nan")
        poisoned = _by_system(model(batch), batch)
        assert not np.isfinite(poisoned[victim]["energy"]).all() or not np.isfinite(poisoned[victim].get("forces", 0.0)).all()
        for number, (own, other) in enumerate(zip(whole, poisoned, strict=True)):
            if number != victim:
                for key, value in own.items():
                    same = value.tobytes() == other[key].tobytes()
                    assert same or (not model.deterministic and np.allclose(value, other[key], rtol=1e-4, atol=1e-4)), f"{key} of {number}"


def _calculator_or_skip(model: BaseModelMixin) -> Any:
    try:
        return model.ase_calculator()
    except ContractError as error:
        pytest.skip(str(error))


def _assert_close(what: str, ours: Any, theirs: Any, tolerance: float) -> None:
    difference = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max(initial=0.0))
    assert difference <= tolerance, f"{what}: {ours} against {theirs}, apart by {difference:.3g} where {tolerance:.3g} is allowed"
