"""The demonstration model of the dynamics contract: a tiny network of coordinates and elements, with forces by autograd.

It is not invariant under translation or rotation and has no physics. It shows how a `torch.nn.Module` becomes a model, and lets hooks,
sinks and engines be tried without a potential. Names and signatures are those of nvalchemi's `models.demo`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from campaign import __version__
from campaign.data import AtomicData, Batch
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs, device_type

__all__ = ["DemoModel", "DemoModelWrapper"]


class DemoModel(nn.Module):
    """Network from atomic numbers and coordinates to energies and forces.

    An atom's features are an embedding of its element, one of its coordinates, and a mixture of both; its energy is linear in their sum.
    """

    def __init__(self, num_atom_types: int = 100, hidden_dim: int = 64) -> None:
        super().__init__()
        self.num_atom_types = num_atom_types
        self.hidden_dim = hidden_dim
        self.embedding = nn.Embedding(num_atom_types, hidden_dim, padding_idx=0, max_norm=1.0)
        self.coord_embedding = nn.Sequential(nn.Linear(3, hidden_dim, bias=False), nn.LayerNorm(hidden_dim), nn.SiLU())
        self.joint_mlp = nn.Sequential(
            nn.Linear(2 * hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim)
        )
        self.projection = nn.Linear(hidden_dim, 1)

    def atom_features(self, atomic_numbers: Int[Tensor, " A"], positions: Float[Tensor, "A 3"]) -> Float[Tensor, "A H"]:
        """Return the features of each atom."""
        element = self.embedding(atomic_numbers)
        place = self.coord_embedding(positions)
        features: Tensor = self.joint_mlp(torch.cat([element, place], dim=-1)) + element + place
        return features

    def forward(
        self,
        atomic_numbers: Int[Tensor, " A"],
        positions: Float[Tensor, "A 3"],
        batch_indices: Int[Tensor, " A"] | None = None,
        compute_forces: bool = True,
        n_systems: int | None = None,
    ) -> dict[str, Tensor]:
        """Return energy [N, 1] and, if asked for, forces [A, 3]; without `batch_indices` all atoms are one system.

        Where `n_systems` is not given, it is looked up on the device, which then has to be waited for.
        """
        atom_energy = self.projection(self.atom_features(atomic_numbers, positions))
        energy = _sum_by_system(atom_energy, batch_indices, n_systems)
        if not compute_forces:
            return {"energy": energy}
        (gradient,) = torch.autograd.grad(energy.sum(), [positions], create_graph=self.training, retain_graph=True)
        return {"energy": energy, "forces": -gradient}


class DemoModelWrapper(nn.Module, BaseModelMixin):
    """`DemoModel` as a model of the dynamics contract.

    >>> model = DemoModelWrapper(DemoModel(hidden_dim=8))
    >>> batch = Batch.from_data_list([AtomicData(positions=torch.zeros(2, 3), atomic_numbers=torch.tensor([1, 8]))])
    >>> {key: tuple(value.shape) for key, value in model(batch).items()}
    {'energy': (1, 1), 'forces': (2, 3)}

    Options by name: `hidden_dim`, `num_atom_types`, and `seed` of the weights, which are random; they serve where no `model` is given.
    """

    name = "demo"

    def __init__(
        self,
        model: DemoModel | None = None,
        *,
        num_atom_types: int = 100,
        hidden_dim: int = 64,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if model is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = DemoModel(num_atom_types, hidden_dim)
            self.eval()
            model.eval()
        self.model = model.to(device=device, dtype=dtype)
        self.model_config = ModelConfig(outputs=frozenset({"energy", "forces"}), autograd_outputs=frozenset({"forces"}))
        # Matrix products round in an order that depends on their size.
        self.batch_dependence_ev_per_atom = self.batch_dependence_ev_per_ang = 1e-11 if self.dtype is torch.float64 else 1e-5
        self.supported_elements = frozenset(range(1, self.model.num_atom_types))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, in which the model computes."""
        return self.model.projection.weight.dtype

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of `node_embeddings` and of `graph_embeddings`, which the contract calls graph_embedding here."""
        return {"node_embeddings": (self.model.hidden_dim,), "graph_embedding": (self.model.hidden_dim,)}

    def adapt_input(self, data: Batch | AtomicData, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of `DemoModel`; positions are a copy in the model's dtype, so nothing on the batch changes."""
        del kwargs
        compute_forces = "forces" in self.output_data()
        positions = self._input(data, "positions").detach().to(self.dtype, copy=True).requires_grad_(compute_forces)
        return {
            "atomic_numbers": self._input(data, "atomic_numbers").long(),
            "positions": positions,
            "batch_indices": data.batch_idx if isinstance(data, Batch) else None,
            "compute_forces": compute_forces,
            "n_systems": data.num_graphs if isinstance(data, Batch) else None,
        }

    def compute_embeddings(self, data: Any, **kwargs: Any) -> Any:
        """Set `node_embeddings` [A, H] and `graph_embeddings` [N, H], their sums, on the batch or structure, and return it."""
        inputs = self.adapt_input(data, **kwargs)
        features = self.model.atom_features(inputs["atomic_numbers"], inputs["positions"]).detach()
        data.node_embeddings = features
        data.graph_embeddings = _sum_by_system(features, inputs["batch_indices"], inputs["n_systems"])
        return data

    def forward(self, data: Batch | AtomicData, **kwargs: Any) -> ModelOutputs:
        """Return energy [N, 1] and forces [A, 3], those of them that are active."""
        with torch.enable_grad():
            outputs = self.model(**self.adapt_input(data, **kwargs))
        if not self.training:
            outputs = {key: value.detach() for key, value in outputs.items()}
        return self.adapt_output(outputs, data)

    def export_model(self, path: Path | str, as_state_dict: bool = True) -> None:
        """Save the weights; always as a state dict, since a pickled model would run code when loaded."""
        del as_state_dict
        torch.save(self.model.state_dict(), path)

    @classmethod
    def from_checkpoint(cls, checkpoint_path: Path | str) -> DemoModelWrapper:
        """Return a model with the weights that `export_model` saved; nothing but tensors is loaded."""
        weights = torch.load(checkpoint_path, weights_only=True)
        num_atom_types, hidden_dim = weights["embedding.weight"].shape
        model = DemoModel(num_atom_types, hidden_dim).to(weights["embedding.weight"].dtype)
        model.load_state_dict(weights)
        wrapper: DemoModelWrapper = cls(model).eval()
        return wrapper

    def provenance(self) -> dict[str, str | int | float]:
        digest = hashlib.sha256()
        for key, weight in sorted(self.model.state_dict().items()):
            digest.update(key.encode() + b"\0" + weight.detach().cpu().contiguous().numpy().tobytes())
        return {
            **super().provenance(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": device_type(next(self.model.parameters()).device),
            "weights_sha256": digest.hexdigest(),
            "relax-campaign": __version__,
            "torch": torch.__version__,
        }


def _sum_by_system(values: Float[Tensor, "A H"], batch_indices: Tensor | None, n_systems: int | None) -> Float[Tensor, "N H"]:
    if batch_indices is None:
        return values.sum(dim=0, keepdim=True)
    if n_systems is None:
        n_systems = int(batch_indices[-1]) + 1 if len(batch_indices) else 0
    sums = torch.zeros((n_systems, values.shape[1]), dtype=values.dtype, device=values.device)
    return sums.index_add(0, batch_indices.long(), values)
