"""A model that raises for one system fails that system and no other, and no other loses a step.

`IsolatingModel` stands around a model. When a call raises, it evaluates halves, and halves of halves, until the systems that raise stand
alone: those get the outcome failed, the text of the error and non-finite outputs; all others get what they would have got. It also makes
the neighbour lists, since those can raise for a single system as well, and it measures how long each of the two takes.

Running out of memory is not the fault of a system: the same halving goes on quietly, and `memory.py` learns from it how large batches
may be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.exits import set_error
from campaign.dynamics.memory import MemoryLearner
from campaign.dynamics.model_errors import Fault, fault_of, lost_device
from campaign.errors import MissingDeviceError
from campaign.fields import NEIGHBOR_KEYS, Level
from campaign.hooks import DynamicsContext, DynamicsStage, Hook
from campaign.hooks.neighbor_list import NeighborListHook
from campaign.models.base import BaseModelMixin, ModelOutputs
from campaign.outcomes import Outcome

__all__ = ["IsolatingModel"]

_KEYS = ("energy", "forces", "stress")


class IsolatingModel(BaseModelMixin):
    """A model whose errors are outcomes of systems; whose fault an error is, `model_errors.py` says.

    Batches have the keys `outcome` and `error`. What cannot be the fault of a system is raised: errors of the contract, a missing
    package, a broken device, and any error once `MOST_FAILURES` systems in a row have raised alone with no success in between, since then
    the model fails for everything and a campaign would end with nothing but failures.
    """

    MOST_FAILURES = 64

    def __init__(self, model: BaseModelMixin, neighbor_hooks: Sequence[Hook] | None = None, memory: MemoryLearner | None = None) -> None:
        self.model = model
        self.model_config = model.model_config
        self.name = model.name
        self.deterministic = model.deterministic
        self.supported_elements = model.supported_elements
        self.neighbor_hooks = list(model.make_neighbor_hooks() if neighbor_hooks is None else neighbor_hooks)
        for hook in self.neighbor_hooks:
            if isinstance(hook, NeighborListHook):
                hook.may_lag = True  # the loop and the exits of a relaxation leave alone who waits
        self.neighbor_s = 0.0
        """Seconds spent on neighbour lists."""
        self.model_s = 0.0
        """Seconds spent in the model."""
        self.n_failed = 0
        """Systems that failed since this was last set to 0."""
        self.memory = memory or MemoryLearner()
        """What was learned about the size of calls."""
        self._failed_in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        # Hooks see this object as the model; what it does not know, the model does.
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    def provenance(self) -> dict[str, str | int | float]:
        """Return the model's."""
        return self.model.provenance()

    def forward(self, data: Batch) -> ModelOutputs:
        """Return the model's outputs; see the class."""
        self.memory.begin()
        outputs = self._outputs(data, self.neighbor_hooks)
        self.memory.end()
        return outputs if self.model.deterministic else _keep_ended(outputs, data)

    def _evaluate(self, batch: Batch, neighbor_hooks: Sequence[Hook]) -> ModelOutputs:
        start = perf_counter()
        self.memory.start(batch)
        if neighbor_hooks:
            context = DynamicsContext(batch=batch, model=self.model, workflow=self)
            for hook in neighbor_hooks:
                hook(context, DynamicsStage.BEFORE_COMPUTE)
        between = perf_counter()
        self.neighbor_s += between - start
        try:
            outputs = self.model(batch)
        finally:
            self.model_s += perf_counter() - between
        self.memory.succeeded(batch)
        return outputs

    def _take_apart(self, batch: Batch, error: Exception) -> ModelOutputs:
        """Evaluate by halves what raised as a whole; a single system that raised has failed."""
        fault = fault_of(error)
        if fault is Fault.DEVICE and not isinstance(error, MissingDeviceError):
            raise lost_device(error, batch.num_graphs) from error
        if fault in (Fault.SETUP, Fault.DEVICE):
            raise error
        if fault is Fault.MEMORY:
            torch.cuda.empty_cache()
            self.memory.failed(batch)
        if batch.num_graphs > 1:
            return self._halves(batch)
        self.n_failed += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.MOST_FAILURES:
            raise error
        batch["outcome"].fill_(int(Outcome.FAILED))
        text = " ".join(f"{type(error).__name__}: {error}".split())
        set_error(batch, 0, text)
        positions = batch["positions"]
        shapes = {"energy": (1, 1), "forces": (batch.num_nodes, 3), "stress": (1, 3, 3)}
        return OrderedDict((key, torch.full(shapes[key], torch.nan, dtype=positions.dtype, device=positions.device)) for key in _KEYS)

    def _outputs(self, batch: Batch, neighbor_hooks: Sequence[Hook] | None) -> ModelOutputs:
        """Return the outputs of a batch, whoever in it raises; without neighbour hooks, new ones are made."""
        if self.memory.is_hopeless(batch):
            return self._halves(batch)
        try:
            outputs = self._evaluate(batch, self.model.make_neighbor_hooks() if neighbor_hooks is None else neighbor_hooks)
        except Exception as raised:
            error = raised
        else:
            self._failed_in_a_row = 0
            return outputs
        # Outside of the handler, so that errors of halves do not pile up as contexts of each other.
        return self._take_apart(batch, error)

    def _halves(self, batch: Batch) -> ModelOutputs:
        middle = batch.num_graphs // 2
        halves, parts = [], []
        for rows in (slice(0, middle), slice(middle, None)):
            half = batch.index_select(rows, exclude_keys=NEIGHBOR_KEYS)
            # With neighbour hooks of their own: those of the whole batch keep what they know of it.
            halves.append(half)
            parts.append(self._outputs(half, None))
            for key in ("outcome", "error"):
                batch[key][rows] = half[key]
        joined = {key: _joined(key, halves, parts) for key in _KEYS}
        return OrderedDict((key, value) for key, value in joined.items() if value is not None)


def _joined(key: str, halves: Sequence[Batch], parts: Sequence[ModelOutputs]) -> Tensor | None:
    """Return an output of both halves; what one of them was not given, since the model has none and only a failed system has, stays."""
    values = [part.get(key) for part in parts]
    known = next((value for value in values if value is not None), None)
    if known is None or any(value is None and key not in half for half, value in zip(halves, values, strict=True)):
        return None
    return torch.cat([(half[key] if value is None else value).to(known.dtype) for half, value in zip(halves, values, strict=True)])


def _keep_ended(outputs: ModelOutputs, batch: Batch) -> ModelOutputs:
    """Return the outputs with those of systems that have an outcome as they were when they got it.

    Such a system is evaluated again while it waits to leave. A model whose last bits depend on batch mates would then change
    what was judged.
    """
    if "outcome" not in batch:
        return outputs
    ended = batch["outcome"].view(-1) >= 0
    kept: ModelOutputs = OrderedDict()
    for key, value in outputs.items():
        if isinstance(value, Tensor) and key in _KEYS and key in batch:
            rows = ended[batch.batch_idx] if batch.level_of(key) is Level.ATOM else ended
            old = batch[key]
            value = torch.where(rows.view(-1, *[1] * (old.ndim - 1)), old, value.view(old.shape).to(old.dtype))
        kept[key] = value
    return kept
