"""The step loop: nine stages from top to bottom, one model evaluation, and nothing that depends on the kind of dynamics.

An integrator or optimizer is a subclass that overrides `pre_update` and `post_update`. Which systems come and go, the loop leaves to
`in_flight.py`; when a system has converged, to `convergence.py`; several dynamics on one batch, to `fused.py`; a whole campaign, to
`relax.py`.

Names and behaviour follow the `BaseDynamics` of the nvalchemi dynamics contract, with these differences. Dynamics with `evaluates_first`
(all optimizers here) use the first step of a system to evaluate it only, since it has no forces to follow yet. A system that has left
(`status >= exit_status`) is protected around each update and not around the whole step. A missing output key is added to the batch
instead of being dropped. `converged_mask` is told at ON_CONVERGE and nowhere else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from campaign.data import Batch, Segments
from campaign.dynamics import carried
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.in_flight import InFlightMixin
from campaign.errors import ArgumentError, ModelOutputError, OperandError
from campaign.hooks import DynamicsContext, DynamicsStage, Hook, HookRegistryMixin
from campaign.hooks.neighbor_list import UNLISTED
from campaign.models.base import BaseModelMixin, ModelOutputs

if TYPE_CHECKING:
    from campaign.dynamics.fused import FusedStage
    from campaign.dynamics.sampler import Sampler
    from campaign.dynamics.sinks import DataSink

__all__ = ["BaseDynamics"]

_OUTPUT_KEYS = ("energy", "forces", "stress")


class BaseDynamics(InFlightMixin, HookRegistryMixin):
    """Moves the systems of a batch under a model's forces, step by step.

    Args:
        model: what gives energy, forces and stress.
        hooks: called at their stages, in this order.
        convergence_hook: says which systems have converged, or a dictionary of its arguments; None never asks.
        n_steps: steps of `run()`.
        exit_status: systems whose `batch.status` has reached this are not moved any more.
        sinks: where systems that leave are written; the first that has room gets them.
        sampler: where new systems come from.
        refill_frequency: steps between two looks for systems that can leave.
        active_batch, max_batch_size, done, device_type: of the contract; kept, and for callers to use.

    Raises:
        OperandError: the model is no `BaseModelMixin` (a TypeError).

    >>> from campaign.models.demo import DemoModelWrapper
    >>> BaseDynamics(DemoModelWrapper(), n_steps=5).n_steps
    5
    """

    _stage_type = DynamicsStage
    __needs_keys__: set[str] = set()  # noqa: RUF012
    """Outputs that the model must give."""
    __provides_keys__: set[str] = set()  # noqa: RUF012
    """Keys of the batch that this dynamics changes."""

    evaluates_first: ClassVar[bool] = False
    """Whether the first step of a system only evaluates it."""
    applies_mask: ClassVar[bool] = False
    """Whether `pre_update` and `post_update` of this very class leave systems outside `update_mask` alone by themselves."""
    global_rank: int = 0
    """Rank of this process among all of the run; told to hooks."""

    _mutable_fields: tuple[str, ...] = ("positions", "velocities", "cell")
    _carried_prefix: str = carried.PREFIX
    """What the fields of `with_state` begin with."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass that overrides an update of a class which masks by itself gets the safe way, unless it says it masks too.
        if {"pre_update", "post_update"} & cls.__dict__.keys() and "applies_mask" not in cls.__dict__:
            cls.applies_mask = False

    def __init__(
        self,
        model: BaseModelMixin,
        hooks: Iterable[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        n_steps: int | None = None,
        exit_status: int = 1,
        *,
        sinks: Sequence[DataSink] | None = None,
        sampler: Sampler | None = None,
        refill_frequency: int = 1,
        active_batch: Batch | None = None,
        max_batch_size: int = 100,
        done: bool = False,
        device_type: str | None = None,
    ) -> None:
        if not isinstance(model, BaseModelMixin):
            raise OperandError(
                f"{type(self).__name__} was given a model of type {type(model).__name__}; it must be a BaseModelMixin. "
                "Wrap it in a subclass."
            )
        self.model = model
        self.model_config = model.model_config
        self.convergence_hook = ConvergenceHook(**convergence_hook) if isinstance(convergence_hook, dict) else convergence_hook
        self.n_steps = n_steps
        self.exit_status = exit_status
        self._init_in_flight(sinks, sampler, refill_frequency, active_batch, max_batch_size, done, device_type)
        self.step_count = 0
        self.current_hook_stage: DynamicsStage | None = None
        self.update_mask: Bool[Tensor, " N"] | None = None
        """Systems that the update in progress may change; None is all."""
        self.active_mask: Bool[Tensor, " N"] | None = None
        """Systems that are this dynamics' as a sub-stage; None is all. Told to hooks."""
        self._fresh: Bool[Tensor, " N"] | None = None
        self._state_of: Segments | None = None
        self._last_converged: Int64[Tensor, " M"] | None = None
        self._last_outputs: ModelOutputs | None = None
        self._init_hooks(hooks)

    # What subclasses override

    def pre_update(self, batch: Batch) -> None:
        """Change positions before the model is evaluated; nothing here."""

    def post_update(self, batch: Batch) -> None:
        """Change velocities after the model was evaluated; nothing here."""

    def _init_state(self, batch: Batch) -> None:
        """Make the per-system state, `self._state`, a `Batch` with one row per system; nothing here."""

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch | None:
        """Return the state of the last `n` systems of a batch, which have just been admitted; None without state."""
        del n, template_batch
        return None

    # One step

    def step(self, batch: Batch) -> tuple[Batch, Int64[Tensor, " M"] | None]:
        """Do one step, all nine stages; return the batch and the positions of converged systems, None if there is none.

        Raises:
            ModelOutputError: the model does not give what this dynamics needs.
        """
        self._ensure_state_initialized(batch)
        self._call_hooks(DynamicsStage.BEFORE_STEP, batch)
        mask = self._systems_to_move(batch)
        self._call_hooks(DynamicsStage.BEFORE_PRE_UPDATE, batch)
        self._masked_pre_update(batch, mask)
        self._call_hooks(DynamicsStage.AFTER_PRE_UPDATE, batch)
        self._call_hooks(DynamicsStage.BEFORE_COMPUTE, batch)
        self.compute(batch)
        self._call_hooks(DynamicsStage.AFTER_COMPUTE, batch)
        self._call_hooks(DynamicsStage.BEFORE_POST_UPDATE, batch)
        self._masked_post_update(batch, mask)
        self._call_hooks(DynamicsStage.AFTER_POST_UPDATE, batch)
        _count_step(batch, mask)
        self._call_hooks(DynamicsStage.AFTER_STEP, batch)
        converged = self._check_convergence(batch)
        self._tell_converged(batch, converged)
        self.step_count += 1
        return batch, converged

    def _tell_converged(self, batch: Batch, converged: Int64[Tensor, " M"] | None) -> None:
        if converged is not None:
            self._last_converged = converged
            self._call_hooks(DynamicsStage.ON_CONVERGE, batch)
            self._last_converged = None

    def run(self, batch: Batch, n_steps: int | None = None) -> Batch:
        """Do `n_steps` steps, by default those of the constructor; without a sampler, stop when all systems have converged.

        Raises:
            ArgumentError: no number of steps was given, neither here nor to the constructor (a ValueError).
        """
        n_steps = self.n_steps if n_steps is None else n_steps
        if n_steps is None:
            raise ArgumentError(
                f"{type(self).__name__}.run has no number of steps; it needs one. Pass n_steps to it or to the constructor."
            )
        self._open_hooks()
        try:
            for _ in range(n_steps):
                batch, converged = self.step(batch)
                if self.sampler is None and converged is not None and len(converged) == batch.num_graphs:
                    break
        finally:
            self._close_hooks()
        return batch

    def compute(self, batch: Batch) -> ModelOutputs:
        """Evaluate the model once, write energy, forces and stress to the batch, and return all outputs, detached.

        Raises:
            ModelOutputError: an output in `__needs_keys__` is missing.
        """
        outputs = self.model(batch)
        self._validate_model_outputs(outputs)
        # Detached here, so that no autograd graph outlives the step.
        detached: ModelOutputs = OrderedDict()
        for key, value in outputs.items():
            detached[key] = value.detach() if isinstance(value, Tensor) else value
        for key in _OUTPUT_KEYS:
            value = detached.get(key)
            if value is None:
                continue
            if key not in batch:
                batch[key] = value.to(batch["positions"].dtype)
            elif value is not batch[key]:
                target = batch[key]
                target.copy_(value.view(target.shape))
        config = self.model_config
        for key in {"positions"} | config.gradient_keys | config.autograd_inputs:
            if key in batch and batch[key].requires_grad:
                batch[key].requires_grad_(False)
        self._last_outputs = detached
        # Nobody is to be evaluated before it moves, but those whose evaluation has to be done again.
        self._fresh = batch[UNLISTED].view(-1) if UNLISTED in batch else None
        return detached

    def _validate_model_outputs(self, outputs: ModelOutputs) -> None:
        for key in self.__needs_keys__:
            if outputs.get(key) is None:
                raise ModelOutputError(
                    f"{type(self.model).__name__} returned no {key!r}, only {', '.join(outputs)}; {type(self).__name__} requires {key!r} "
                    "(__needs_keys__). Enable it in model_config.active_outputs, or use another model."
                )

    def _check_convergence(self, batch: Batch) -> Int64[Tensor, " M"] | None:
        return None if self.convergence_hook is None else self.convergence_hook.evaluate(batch)

    # Masks

    def _systems_to_move(self, batch: Batch) -> Bool[Tensor, " N"] | None:
        """Return the systems that this step may change; None is all."""
        mask: Tensor | None = None
        if "status" in batch:
            mask = batch["status"].view(-1) < self.exit_status
        if self._fresh is not None:
            mask = ~self._fresh if mask is None else mask.gt(self._fresh)
        return mask

    def masked_update(self, batch: Batch, mask: Bool[Tensor, " N"]) -> None:
        """Do `pre_update` and `post_update` for the masked systems; positions, velocities and cells of the others stay as they are.

        Raises:
            ArgumentError: the mask does not have one entry per system (a ValueError).
        """
        if tuple(mask.shape) != (batch.num_graphs,):
            raise ArgumentError(
                f"a mask of shape {tuple(mask.shape)} was given for a batch of {batch.num_graphs} systems; it must have shape "
                f"({batch.num_graphs},). Nothing was moved."
            )
        self._ensure_state_initialized(batch)
        self._masked_pre_update(batch, mask)
        self._masked_post_update(batch, mask)

    def _masked_pre_update(self, batch: Batch, mask: Bool[Tensor, " N"] | None) -> None:
        self._ensure_state_initialized(batch)
        self._masked(self.pre_update, batch, mask)

    def _masked_post_update(self, batch: Batch, mask: Bool[Tensor, " N"] | None) -> None:
        self._masked(self.post_update, batch, mask)

    def _masked(self, update: Callable[[Batch], None], batch: Batch, mask: Bool[Tensor, " N"] | None) -> None:
        if self.applies_mask or mask is None:
            self.update_mask = mask
            update(batch)
            self.update_mask = None
            return
        saved = {key: batch[key].clone() for key in self._mutable_fields if key in batch}
        update(batch)
        with torch.no_grad():
            for key, before in saved.items():
                after = batch[key]
                rows = mask if batch.level_of(key) == "system" else mask[batch.batch_idx]
                after.copy_(torch.where(rows.view(-1, *[1] * (after.ndim - 1)), after, before))

    # State

    def _ensure_state_initialized(self, batch: Batch) -> None:
        """Make the state anew unless it belongs to exactly these systems in this order."""
        if self._state_of is batch.atom_segments:
            return
        self._state_of = batch.atom_segments
        self._fresh = torch.ones(batch.num_graphs, dtype=torch.bool, device=batch.device) if self.evaluates_first else None
        self._init_state(batch)
        self._take_state(batch)

    def with_state(self, batch: Batch) -> Batch:
        """Return the batch in progress with the state of its systems, if there is any, as further fields; nothing is copied.

        It is a checkpoint: a run that is given this batch, or some systems of it, goes on where this one is.
        """
        if not hasattr(self, "_state") or self._state_of is not batch.atom_segments:
            return batch
        return carried.with_state(batch, self._state, self._fresh, self._carried_prefix)

    def _take_state(self, batch: Batch) -> None:
        if hasattr(self, "_state"):
            carried.take_state(batch, self._state, self._fresh, self._carried_prefix)

    def _sync_state_to_batch(self, remaining_indices: Int64[Tensor, " M"], n_new: int, template_batch: Batch) -> None:
        """Keep the state of the systems that remain, in this order, and make that of the last `n_new` systems of `template_batch`."""
        if self._state_of is None:
            return  # nothing has been stepped yet; the first step makes the state
        self._sync_fresh(remaining_indices, n_new if self.evaluates_first else 0, template_batch)
        self._state_of = template_batch.atom_segments
        if not hasattr(self, "_state"):
            return
        parts = [self._state.index_select(remaining_indices)] if len(remaining_indices) else []
        new_state = self._make_new_state(n_new, template_batch) if n_new else None
        if new_state is not None:
            parts.append(new_state)
        if not parts:
            del self._state
            self._state_of = None
            return
        self._state: Batch = parts[0]
        for part in parts[1:]:
            self._state.append(part)
        self._take_state(template_batch)

    def _sync_fresh(self, remaining_indices: Int64[Tensor, " M"], n_new: int, template_batch: Batch) -> None:
        if self._fresh is None and not n_new:
            return
        device = template_batch.device
        remaining = torch.as_tensor(remaining_indices, device=device)
        kept = torch.zeros(len(remaining), dtype=torch.bool, device=device) if self._fresh is None else self._fresh[remaining]
        self._fresh = torch.cat([kept, torch.ones(n_new, dtype=torch.bool, device=device)])

    # Hooks

    def _call_hooks(self, stage: Any, batch: Batch | None) -> None:
        self.current_hook_stage = stage
        super()._call_hooks(stage, batch)

    def _build_context(self, batch: Batch | None) -> DynamicsContext:
        converged_mask: Tensor | None = None
        if self._last_converged is not None and batch is not None:
            converged_mask = torch.zeros(batch.num_graphs, dtype=torch.bool, device=batch.device)
            converged_mask[self._last_converged] = True
        return DynamicsContext(
            batch=batch,
            model=self.model,
            global_rank=self.global_rank,
            workflow=self,
            step_count=self.step_count,
            converged_mask=converged_mask,
            active_graph_mask=self.active_mask,
        )

    def _hooks_to_open(self) -> list[Hook]:
        return list({id(hook): hook for hook in self.hooks}.values())

    def _open_hooks(self) -> None:
        """Enter the hooks that are context managers, each once."""
        for hook in self._hooks_to_open():
            if hasattr(hook, "__enter__"):
                hook.__enter__()

    def _close_hooks(self) -> None:
        """Leave the hooks that are context managers, and close those that have a `close`, each once and all of them even if one raises."""
        raised: BaseException | None = None
        for hook in self._hooks_to_open():
            try:
                if hasattr(hook, "__exit__"):
                    hook.__exit__(None, None, None)
                elif hasattr(hook, "close"):
                    hook.close()
            except Exception as error:
                raised = raised or error
        if raised is not None:
            raise raised

    # The contract's small things

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def __add__(self, other: BaseDynamics) -> FusedStage:
        """Return both as sub-stages of one `FusedStage` with status codes 0 and 1."""
        # FusedStage is a BaseDynamics, so its file imports this one.
        from campaign.dynamics.fused import FusedStage

        if not isinstance(other, BaseDynamics):
            raise OperandError(f"{type(self).__name__} + {type(other).__name__}; both must be BaseDynamics. Construct a dynamics first.")
        return FusedStage(sub_stages=[(0, self), (1, other)])

    @property
    def model_is_conservative(self) -> bool:
        """Whether the model's forces come from autograd."""
        return "forces" in self.model_config.autograd_outputs

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(model={type(self.model).__name__}, n_steps={self.n_steps}, step_count={self.step_count}, "
            f"conservative={self.model_is_conservative}, convergence_hook={self.convergence_hook!r}, hooks={len(self.hooks)})"
        )


def _count_step(batch: Batch, mask: Bool[Tensor, " N"] | None) -> None:
    """Count an optimizer step for the systems that moved, where the batch counts them."""
    if "n_steps" in batch:
        n_steps = batch["n_steps"].view(-1)
        n_steps += 1 if mask is None else mask
