"""What a model is: a declaration of what it needs and gives (`ModelConfig`), and one call from a batch to its outputs.

Names and behaviour follow the model side of the nvalchemi dynamics contract. What we add is what a campaign needs to know of a potential:
which elements it covers, whether its bits depend on batch mates, an independent ASE calculator to check it against, and a fingerprint.
"""

from __future__ import annotations

import abc
import hashlib
import json
from collections import OrderedDict
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from campaign.data import AtomicData, Batch
from campaign.errors import ArgumentError, ContractError, ModelOutputError

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

__all__ = ["BaseModelMixin", "ModelConfig", "ModelOutputs", "NeighborConfig", "NeighborListFormat", "device_type"]

ModelOutputs = OrderedDict[str, Tensor | None]
"""Outputs by name: energy [N, 1] in eV, forces [A, 3] in eV/Å, stress [N, 3, 3] in eV/Å³, and whatever else a model declares."""


class NeighborListFormat(StrEnum):
    """How neighbours lie on a batch."""

    COO = "coo"
    """One row per pair: `neighbor_list` [E, 2] and `neighbor_list_shifts` [E, 3]."""
    MATRIX = "matrix"
    """One row per atom: `neighbor_matrix` [A, K], `num_neighbors` [A] and `neighbor_matrix_shifts` [A, K, 3]."""


class NeighborConfig(BaseModel):
    """Which neighbours a model needs.

    >>> NeighborConfig(cutoff=5.0).format.value
    'coo'
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    cutoff: float = Field(gt=0, description="pairs closer than this many Å")
    format: NeighborListFormat = Field(default=NeighborListFormat.COO, description="one row per pair or per atom")
    half_list: bool = Field(default=False, description="each pair once instead of from both sides")
    skin: float = Field(default=0.0, ge=0, description="lists reach so many Å further and are kept until an atom moved half of it")


class ModelConfig(BaseModel):
    """What a model can do (fixed) and what it is asked to do (`active_outputs`, `gradient_keys`: may be set at any time).

    >>> config = ModelConfig(outputs=frozenset({"energy", "forces"}), neighbor_config=NeighborConfig(cutoff=5.0))
    >>> sorted(config.active_outputs), config.needs_neighborlist
    (['energy', 'forces'], True)
    """

    model_config = ConfigDict(extra="forbid")

    outputs: frozenset[str] = Field(default=frozenset({"energy"}), description="everything the model can compute")
    autograd_outputs: frozenset[str] = Field(default=frozenset(), description="those of the outputs that come from autograd")
    autograd_inputs: frozenset[str] = Field(default=frozenset({"positions"}), description="keys that need gradients for them")
    required_inputs: frozenset[str] = Field(default=frozenset(), description="keys needed besides positions, atomic_numbers and neighbours")
    optional_inputs: frozenset[str] = Field(default=frozenset(), description="keys used where present")
    supports_pbc: bool = Field(default=False, description="periodic systems are possible")
    needs_pbc: bool = Field(default=False, description="pbc must be present")
    neighbor_config: NeighborConfig | None = Field(default=None, description="neighbours needed; None needs none")
    active_outputs: set[str] = Field(default_factory=set, description="outputs to compute; all unless given")
    gradient_keys: set[str] = Field(default_factory=set, description="more keys to enable gradients for")

    @model_validator(mode="before")
    @classmethod
    def _all_outputs_unless_given(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("active_outputs") is None:
            return {**values, "active_outputs": set(values.get("outputs", {"energy"}))}
        return values

    @property
    def needs_neighborlist(self) -> bool:
        """Whether the model needs neighbours."""
        return self.neighbor_config is not None


class BaseModelMixin(abc.ABC):
    """Base of all models, beside `torch.nn.Module`.

    A subclass sets `self.model_config` in its `__init__` and defines `forward`, which returns new tensors for the whole batch in one
    go, in the model's own dtype, and changes nothing on the batch. A system whose numbers are bad gets non-finite outputs; an
    exception is for what makes the whole batch impossible.

    >>> import torch
    >>> class Free(BaseModelMixin):
    ...     name = "free"
    ...     def __init__(self):
    ...         self.model_config = ModelConfig()
    ...     def forward(self, data):
    ...         return self.adapt_output({"energy": torch.zeros(data.num_graphs, 1)}, data)
    >>> batch = Batch.from_data_list([AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.tensor([1]))])
    >>> Free()(batch)["energy"].shape
    torch.Size([1, 1])
    """

    model_config: ModelConfig
    name: str = "custom"
    """What the registry and provenance call the model."""
    deterministic: bool = False
    """Whether the bits of a system's outputs on a CPU do not depend on which other systems are in the batch."""
    batch_dependence_ev_per_atom: float | None = 0.0
    """Bound on how much an energy per atom changes with other batch mates, on a CPU; None where nobody can know."""
    batch_dependence_ev_per_ang: float | None = 0.0
    """The same for components of forces."""
    supported_elements: frozenset[int] | None = None
    """Atomic numbers that the model covers; None is any."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _checked_init(cls, cls.__dict__["__init__"])  # type: ignore[method-assign]

    @abc.abstractmethod
    def forward(self, data: Batch) -> ModelOutputs:
        """Return the active outputs for all systems of a batch."""

    def __call__(self, data: Batch) -> ModelOutputs:
        """Return `forward(data)`; `torch.nn.Module` brings its own."""
        return self.forward(data)

    # Inputs and outputs

    def input_data(self) -> set[str]:
        """Return the keys that must be on a batch."""
        config = self.model_config
        keys = {"positions", "atomic_numbers", *config.required_inputs}
        if config.neighbor_config is not None:
            is_matrix = config.neighbor_config.format is NeighborListFormat.MATRIX
            keys |= {"neighbor_matrix", "num_neighbors"} if is_matrix else {"neighbor_list"}
        if config.needs_pbc:
            keys.add("pbc")
        return keys

    def output_data(self) -> set[str]:
        """Return the outputs that `forward` computes.

        Raises:
            ModelOutputError: an active output is none that the model has.
        """
        unknown = self.model_config.active_outputs - self.model_config.outputs
        if unknown:
            raise ModelOutputError(
                f"{', '.join(sorted(unknown))} asked of model {self.name!r}; it computes {', '.join(sorted(self.model_config.outputs))}. "
                "Set model_config.active_outputs to some of these."
            )
        return set(self.model_config.active_outputs)

    def adapt_input(self, data: Batch | AtomicData, **kwargs: Any) -> dict[str, Any]:
        """Return the inputs by name, with gradients enabled where autograd outputs need them.

        Raises:
            ContractError: the batch lacks a required key, or one that needs gradients is not floating point.
        """
        del kwargs  # for overrides that take options
        config = self.model_config
        with_gradient = set(config.gradient_keys)
        if config.autograd_outputs & config.active_outputs:
            with_gradient |= config.autograd_inputs
        inputs = {key: self._input(data, key) for key in sorted(self.input_data())}
        for key in sorted(with_gradient):
            value = self._input(data, key)
            if not value.is_floating_point():
                raise ContractError(f"{key} of dtype {value.dtype} cannot have gradients; floating point can. Mend model_config.")
            value.requires_grad_(True)
        for key in sorted(config.optional_inputs):
            optional = getattr(data, key, None)
            if optional is not None:
                inputs[key] = optional
        return inputs

    def _input(self, data: Batch | AtomicData, key: str) -> Tensor:
        value = getattr(data, key, None)
        if not isinstance(value, Tensor):
            hint = "Register the hooks of make_neighbor_hooks()." if key.startswith(("neighbor", "num_neighbors")) else "Set it first."
            raise ContractError(f"the batch has no {key!r}; model {self.name!r} needs {', '.join(sorted(self.input_data()))}. {hint}")
        return value

    def adapt_output(self, model_output: dict[str, Tensor], data: Batch | AtomicData) -> ModelOutputs:
        """Return the active outputs in alphabetical order; energies as [N, 1]. What is missing is None."""
        del data  # for overrides that need it
        outputs: ModelOutputs = OrderedDict()
        for key in sorted(self.output_data()):
            value = model_output.get(key)
            outputs[key] = value.unsqueeze(-1) if value is not None and key == "energy" and value.ndim == 1 else value
        return outputs

    def set_config(self, key: str, value: Any) -> None:
        """Set a field of `model_config`.

        Raises:
            ArgumentError: there is no such field.
        """
        if key not in ModelConfig.model_fields:
            raise ArgumentError(f"ModelConfig has no field {key!r}; it has {', '.join(ModelConfig.model_fields)}. Set one of these.")
        setattr(self.model_config, key, value)

    # Embeddings

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the embeddings by name; empty for a model that has none."""
        return {}

    def compute_embeddings(self, data: Batch, **kwargs: Any) -> Batch:
        """Set the model's embeddings on the batch and return it.

        Raises:
            ContractError: the model has none.
        """
        del data, kwargs
        raise ContractError(f"embeddings were asked of model {self.name!r}; it has none. Ask embedding_shapes first.")

    # What the engine and the campaign ask

    def make_neighbor_hooks(self, max_neighbors: int | None = None) -> list[Any]:
        """Return the hooks that keep this model's neighbours up to date: one `NeighborListHook`, or none."""
        # Upward, as the contract has it: models stand below hooks, and only who runs dynamics calls this.
        from campaign.hooks import NeighborListHook

        config = self.model_config.neighbor_config
        return [] if config is None else [NeighborListHook(config, skin=config.skin, max_neighbors=max_neighbors)]

    def ase_calculator(self) -> Calculator:
        """Return an independent ASE calculator with the same parameters, which tests and `campaign verify` compare with.

        Raises:
            ContractError: there is none for this model.
        """
        raise ContractError(f"an ASE calculator was asked of model {self.name!r}; nothing independent computes it. Compare another model.")

    def provenance(self) -> dict[str, str | int | float]:
        """Return all that its numbers depend on: name, options, precision, sha256 of weights, versions of packages, type of device.

        Where the code that computes them is ours, its version is that of this package.
        """
        return {"name": self.name}

    def fingerprint(self) -> str:
        """Return the sha256 of `provenance()` in hex: equal for equal models on the same type of device, on any machine."""
        text = json.dumps(self.provenance(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def device_type(device: torch.device | None) -> str:
    """Return what provenance calls a device: "cpu" or "cuda", without a number; None is the CPU.

    >>> device_type(torch.device("cuda", 3))
    'cuda'
    """
    return "cpu" if device is None else device.type


def _checked_init(cls: type, original: Any) -> Any:
    """Wrap an `__init__` so that one which forgets `model_config` is told at once, and not deep in a run."""

    def __init__(self: BaseModelMixin, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if type(self) is cls and not isinstance(getattr(self, "model_config", None), ModelConfig):
            raise ContractError(
                f"{cls.__name__}.__init__ set no model_config; every model has one. Set self.model_config = ModelConfig(…)."
            )

    __init__.__doc__ = original.__doc__
    __init__.__wrapped__ = original  # type: ignore[attr-defined]
    return __init__
