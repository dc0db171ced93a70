"""Bits that do not depend on batch mates, from a model whose own kernels depend on the batch: each structure in a call of its own.

A matrix product or a sum over edges is carried out in an order that follows from the shapes of the whole batch. Alone, a structure always
has the same shapes. What is left is how a kernel adds when many threads of a GPU write to one place: torch's deterministic algorithms
take others there, and refuse operations that have none. Such a model is found out when it is made, with a small structure, and refused.
Scripted networks run there as they are written: an optimizer that fuses kernels after some calls would change the bits of later ones.

The bits of a neural network on a CPU also follow from the number of threads that share its sums.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.errors import SpecError
from campaign.models.base import BaseModelMixin, ModelOutputs
from campaign.neighbors import compute_neighbors

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

__all__ = ["OneByOneModel", "make_deterministic"]


class OneByOneModel(BaseModelMixin):
    """A model that is called with one structure at a time, and deterministic for it.

    It is as fast as a batch of one, whatever the batch.
    """

    deterministic = True

    def __init__(self, model: BaseModelMixin) -> None:
        self.model = model
        self.model_config = model.model_config
        self.name = model.name
        self.supported_elements = model.supported_elements

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def forward(self, data: Batch) -> ModelOutputs:
        """Return the outputs of the model for each system, joined."""
        with _deterministic_algorithms(data.device):
            parts = [self.model(data.index_select([row])) for row in range(data.num_graphs)]
        joined: ModelOutputs = OrderedDict()
        for key in parts[0]:
            values = [part[key] for part in parts]
            joined[key] = torch.cat([value for value in values if isinstance(value, Tensor)]) if isinstance(values[0], Tensor) else None
        return joined

    def ase_calculator(self) -> Calculator:
        return self.model.ase_calculator()

    def provenance(self) -> dict[str, str | int | float]:
        """Return the model's, and how it is called, since its bits depend on that."""
        return {**self.model.provenance(), "systems_per_call": 1}


def make_deterministic(model: BaseModelMixin, device: torch.device) -> BaseModelMixin:
    """Return the model, called such that the bits of a structure do not depend on others; the model itself where they never do.

    Raises:
        SpecError: nobody can know that of the model, or it has an operation without a deterministic algorithm on the device.
    """
    if model.deterministic:
        return model
    if model.batch_dependence_ev_per_atom is None:
        raise SpecError(
            f"model.deterministic is set, and model {model.name!r} cannot say on what its numbers depend, as each calculator is free to "
            "remember the structure before. Leave the key out, or choose another model."
        )
    one_by_one = OneByOneModel(model)
    if device.type != "cpu":
        _refuse_without_algorithms(one_by_one, device)
    return one_by_one


def _refuse_without_algorithms(model: BaseModelMixin, device: torch.device) -> None:
    number = min(model.supported_elements or {6})
    batch = Batch.from_arrays(
        [2],
        {
            "positions": torch.tensor([[0.0, 0.0, 0.0], [1.4, 1.4, 1.4]], dtype=torch.float64),
            "atomic_numbers": torch.full((2,), number, dtype=torch.int64),
        },
        {"cell": 2.8 * torch.eye(3, dtype=torch.float64).unsqueeze(0), "pbc": torch.ones(1, 3, dtype=torch.bool)},
        device=device,
    )
    if model.model_config.neighbor_config is not None:
        compute_neighbors(batch, config=model.model_config.neighbor_config)
    try:
        model(batch)
    except RuntimeError as error:
        if "determinis" not in str(error).lower():
            raise
        reason = " ".join(str(error).split())
        raise SpecError(
            f"model.deterministic is set, and model {model.name!r} cannot follow it on {device.type}: {reason} Leave the key out, or set "
            'model.device = "cpu".'
        ) from error


@contextlib.contextmanager
def _deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """Have torch take deterministic algorithms, as long as this lasts; nothing is filled that nobody reads."""
    as_written = torch.jit.optimized_execution(False) if device.type != "cpu" else contextlib.nullcontext()  # type: ignore[attr-defined]
    settings = torch.utils.deterministic
    is_on, warns_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with as_written:
            yield
    finally:
        torch.use_deterministic_algorithms(is_on, warn_only=warns_only)
        settings.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
