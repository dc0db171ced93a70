"""Several dynamics on one batch, with one model evaluation per step: `batch.status` says which of them moves a system.

`a + b` makes a `FusedStage`. A system begins with the status of the first sub-stage; when it meets that one's convergence criteria, or
has used up its `n_steps`, it goes on to the next, and after the last it has the `exit_status` and is left alone or leaves.

Names and behaviour follow nvalchemi 0.2.0, with these differences. Systems that are admitted in a running batch are evaluated before a
sub-stage moves them. A sub-stage's hooks are told which systems it works on. A step counts for the sub-stage that did it, also where the
system was just handed on. Counters of steps are declared for this stage, not for every dynamics of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics import carried
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.exchange import bookkeep
from campaign.dynamics.loop import BaseDynamics
from campaign.errors import ArgumentError, OperandError
from campaign.hooks import DynamicsContext, DynamicsStage, Hook, HookRegistryMixin

__all__ = ["FusedStage"]


class FusedStage(BaseDynamics):
    """Sub-stages that share a batch and a model.

    Hooks of the sub-stages fire at BEFORE_STEP, BEFORE_PRE_UPDATE, AFTER_COMPUTE, AFTER_POST_UPDATE, AFTER_STEP and ON_CONVERGE, whether
    or not any system is theirs; hooks of the fused stage itself and those of `register_fused_hook` at BEFORE_STEP, BEFORE_COMPUTE,
    AFTER_COMPUTE and AFTER_STEP, on the same whole batch.

    Args:
        sub_stages: pairs of status code and dynamics, in the order in which systems pass them; all use the model of the first.
        entry_status: status of systems that come in.
        exit_status: status after the last sub-stage; by default the number of sub-stages.
        compile_step: whether the step goes through `torch.compile`.
        compile_kwargs: arguments for it.
        init_fn: called with the first batch that a sampler gives, before the first step.
        kwargs: for `BaseDynamics`.

    Raises:
        ArgumentError: there is no sub-stage, or they are for different devices (a ValueError).

    >>> from campaign.dynamics.demo import DemoDynamics
    >>> from campaign.models.demo import DemoModelWrapper
    >>> model = DemoModelWrapper()
    >>> fused = DemoDynamics(model, n_steps=2) + DemoDynamics(model, n_steps=3)
    >>> [code for code, _ in fused.sub_stages], fused.exit_status
    ([0, 1], 2)
    """

    def __init__(
        self,
        sub_stages: Sequence[tuple[int, BaseDynamics]],
        *,
        entry_status: int = 0,
        exit_status: int = -1,
        compile_step: bool = False,
        compile_kwargs: Mapping[str, Any] | None = None,
        init_fn: Callable[[Batch], None] | None = None,
        **kwargs: Any,
    ) -> None:
        if not sub_stages:
            raise ArgumentError("a FusedStage was given no sub-stage; it needs at least one. Pass (status, dynamics) pairs.")
        devices = {code: dynamics.device_type for code, dynamics in sub_stages}
        if len(set(devices.values())) > 1:
            raise ArgumentError(
                f"sub-stages by status are for devices {devices}; they share a batch, so all must be alike. Set device_type."
            )
        exit_status = len(sub_stages) if exit_status == -1 else exit_status
        super().__init__(sub_stages[0][1].model, exit_status=exit_status, **kwargs)
        self.sub_stages = list(sub_stages)
        self.__needs_keys__ = {key for _, dynamics in sub_stages for key in dynamics.__needs_keys__}
        self.__provides_keys__ = {key for _, dynamics in sub_stages for key in dynamics.__provides_keys__}
        for code, dynamics in self.sub_stages:
            dynamics._carried_prefix = f"{carried.PREFIX}_{code}"
        self.entry_status = entry_status
        self.init_fn = init_fn
        self.convergence_check_frequency = 1
        self._fused = _WholeBatchHooks(self)
        self.compile_step = compile_step
        self.compile_kwargs: dict[str, Any] = dict(compile_kwargs or {})
        self._compiled_step: Callable[[Batch], tuple[Batch, Tensor | None]] | None = None
        self._migrate_on_convergence()
        own = {_counter(code): _zeros for code, dynamics in sub_stages if dynamics.n_steps is not None}
        self._bookkeeping_keys = {**type(self)._bookkeeping_keys, **own}
        if compile_step:
            self.compile()

    def _migrate_on_convergence(self) -> None:
        """Give each sub-stage the hook that hands its systems on; the last one only if it has criteria of its own."""
        for place, (code, dynamics) in enumerate(self.sub_stages):
            is_last = place + 1 == len(self.sub_stages)
            if is_last and dynamics.convergence_hook is None:
                continue
            target = self._status_after(place)
            # A stage that was fused before has such a hook already.
            dynamics.hooks = [hook for hook in dynamics.hooks if not _migrates(hook, code)]
            criteria = None if dynamics.convergence_hook is None else list(dynamics.convergence_hook.criteria)
            dynamics.register_hook(ConvergenceHook(criteria, source_status=code, target_status=target))

    def _status_after(self, place: int) -> int:
        return self.sub_stages[place + 1][0] if place + 1 < len(self.sub_stages) else self.exit_status

    # One step

    def step(self, batch: Batch) -> tuple[Batch, Int64[Tensor, " M"] | None]:
        """Do one step; return the batch and the positions of systems that reached `exit_status` in it, None if there is none."""
        return self._step(batch) if self._compiled_step is None else self._compiled_step(batch)

    __call__ = step

    def _step(self, batch: Batch) -> tuple[Batch, Int64[Tensor, " M"] | None]:
        bookkeep(batch, self._bookkeeping_keys)
        self._ensure_state_initialized(batch)
        self._call_own_hooks(DynamicsStage.BEFORE_STEP, batch)
        self._call_stage_hooks(DynamicsStage.BEFORE_STEP, batch)

        status = batch["status"].view(-1)
        masks = [status == code for code, _ in self.sub_stages]
        for mask, (_, dynamics) in zip(masks, self.sub_stages, strict=True):
            self._call_hooks_of(dynamics, DynamicsStage.BEFORE_PRE_UPDATE, batch, mask)
            dynamics._masked_pre_update(batch, mask if self._fresh is None else mask & ~self._fresh)

        self._call_own_hooks(DynamicsStage.BEFORE_COMPUTE, batch)
        was_fresh = self._fresh
        outputs = self.compute(batch)
        for key, value in outputs.items():
            if isinstance(value, Tensor) and key not in batch:
                batch[key] = value
        self._call_own_hooks(DynamicsStage.AFTER_COMPUTE, batch)
        self._call_stage_hooks(DynamicsStage.AFTER_COMPUTE, batch)

        for mask, (_, dynamics) in zip(masks, self.sub_stages, strict=True):
            dynamics._masked_post_update(batch, mask if was_fresh is None else mask & ~was_fresh)
            self._call_hooks_of(dynamics, DynamicsStage.AFTER_POST_UPDATE, batch, mask)

        before = status.clone()
        self._call_stage_hooks(DynamicsStage.AFTER_STEP, batch, masks)
        # The reverse of BEFORE_STEP.
        self._call_hooks(DynamicsStage.AFTER_STEP, batch)
        self._fused._call_hooks(DynamicsStage.AFTER_STEP, batch)
        self._migrate_on_budget(batch, masks)
        for mask, (_, dynamics) in zip(masks, self.sub_stages, strict=True):
            self._report_convergence(dynamics, batch, mask)

        self.step_count += 1
        for _, dynamics in self.sub_stages:
            dynamics.step_count += 1
        after = batch["status"].view(-1)
        graduated = ((before < self.exit_status) & (after >= self.exit_status)).nonzero().view(-1)
        return batch, graduated if len(graduated) else None

    def _migrate_on_budget(self, batch: Batch, masks: Sequence[Tensor]) -> None:
        """Count a step for each system that is still where it was moved, and hand on those that have used up the `n_steps` there."""
        status = batch["status"].view(-1)
        for place, (mask, (code, dynamics)) in enumerate(zip(masks, self.sub_stages, strict=True)):
            if dynamics.n_steps is None:
                continue
            counter = batch[_counter(code)].view(-1)
            active = mask & (status == code)
            counter += active
            spent = active & (counter >= dynamics.n_steps)
            status.masked_fill_(spent, self._status_after(place))
            counter.masked_fill_(spent, 0)

    def _report_convergence(self, dynamics: BaseDynamics, batch: Batch, mask: Bool[Tensor, " N"]) -> None:
        positions = dynamics._check_convergence(batch)
        positions = None if positions is None else positions[mask[positions]]
        if positions is None or not len(positions):
            return
        dynamics._last_converged = positions
        self._call_hooks_of(dynamics, DynamicsStage.ON_CONVERGE, batch, mask)
        dynamics._last_converged = None

    def compile(self, **kwargs: Any) -> FusedStage:
        """Send the step through `torch.compile` with these arguments, which go before those of the constructor; return the stage."""
        self.compile_kwargs = {**self.compile_kwargs, **kwargs}
        self.compile_step = True
        self._compiled_step = torch.compile(self._step, **self.compile_kwargs)
        return self

    # A run

    def run(self, batch: Batch | None = None, n_steps: int | None = None) -> Batch | None:  # type: ignore[override]
        """Step until every system has reached `exit_status`, the sampler is exhausted, or `n_steps` steps are done.

        Without a batch the sampler gives one, and systems that have reached `exit_status` are replaced every `refill_frequency` steps.
        Before the first step the batch is evaluated once, so that sub-stages have forces to begin with. Returns the batch; None if the
        sampler is exhausted and nothing is left.

        Raises:
            ArgumentError: there is neither a batch nor a sampler that builds one (a ValueError).
        """
        if batch is None:
            build = getattr(self.sampler, "build_initial_batch", None)
            if build is None:
                raise ArgumentError("FusedStage.run has neither a batch nor a sampler that builds one; it needs one of them. Pass batch=.")
            batch = self._enter(build())
        n_steps = self.n_steps if n_steps is None else n_steps
        bookkeep(batch, self._bookkeeping_keys)
        self._open_hooks()
        try:
            self._call_own_hooks(DynamicsStage.BEFORE_COMPUTE, batch)
            self._ensure_state_initialized(batch)
            self.compute(batch)
            self._call_own_hooks(DynamicsStage.AFTER_COMPUTE, batch)
            done = 0
            while n_steps is None or done < n_steps:
                batch, _ = self.step(batch)
                done += 1
                if self.sampler is not None and done % self.refill_frequency == 0:
                    self.active_batch = self.refill_check(batch, self.exit_status)
                    if self.active_batch is None:
                        return None
                    batch = self.active_batch
                elif self.sampler is None and done % self.convergence_check_frequency == 0 and self.all_complete(batch, self.exit_status):
                    break
            return batch
        finally:
            self._close_hooks()

    def _enter(self, batch: Batch) -> Batch:
        if "status" not in batch:
            bookkeep(batch, self._bookkeeping_keys)
        batch["status"].fill_(self.entry_status)
        if self.init_fn is not None:
            self.init_fn(batch)
        self.active_batch = batch
        return batch

    @staticmethod
    def all_complete(batch: Batch, exit_status: int) -> bool:
        """Return whether every system has reached `exit_status`."""
        return "status" in batch and bool((batch["status"] >= exit_status).all())

    # Hooks

    def register_fused_hook(self, hook: Hook) -> None:
        """Add a hook that sees the whole batch at BEFORE_STEP, BEFORE_COMPUTE, AFTER_COMPUTE and AFTER_STEP.

        Raises:
            HookError: see `register_hook`.
        """
        self._fused.register_hook(hook)

    @property
    def fused_hooks(self) -> list[Hook]:
        """Hooks of `register_fused_hook`."""
        return self._fused.hooks

    def _call_own_hooks(self, stage: DynamicsStage, batch: Batch) -> None:
        self._fused._call_hooks(stage, batch)
        self._call_hooks(stage, batch)

    def _call_stage_hooks(self, stage: DynamicsStage, batch: Batch, masks: Sequence[Tensor] | None = None) -> None:
        for place, (code, dynamics) in enumerate(self.sub_stages):
            self._call_hooks_of(dynamics, stage, batch, batch["status"].view(-1) == code if masks is None else masks[place])

    @staticmethod
    def _call_hooks_of(dynamics: BaseDynamics, stage: DynamicsStage, batch: Batch, mask: Bool[Tensor, " N"]) -> None:
        dynamics.active_mask = mask
        dynamics._call_hooks(stage, batch)
        dynamics.active_mask = None

    def _hooks_to_open(self) -> list[Hook]:
        everyone = [*self.hooks, *self.fused_hooks, *(hook for _, dynamics in self.sub_stages for hook in dynamics.hooks)]
        return list({id(hook): hook for hook in everyone}.values())

    # State

    def _ensure_state_initialized(self, batch: Batch) -> None:
        """Note who has no forces yet; sub-stages make their states when they are first used."""
        if self._state_of is not batch.atom_segments:
            self._state_of = batch.atom_segments
            evaluates_first = any(dynamics.evaluates_first for _, dynamics in self.sub_stages)
            self._fresh = torch.ones(batch.num_graphs, dtype=torch.bool, device=batch.device) if evaluates_first else None

    def with_state(self, batch: Batch) -> Batch:
        """Return the batch in progress with the states of all sub-stages as further fields; see `BaseDynamics.with_state`.

        At AFTER_STEP the budgets of sub-stages with `n_steps` have not counted the step yet: take checkpoints of such a run at BEFORE_STEP.
        """
        for _, dynamics in self.sub_stages:
            dynamics._ensure_state_initialized(batch)
            batch = dynamics.with_state(batch)
        return batch

    def _sync_state_to_batch(self, remaining_indices: Int64[Tensor, " M"], n_new: int, template_batch: Batch) -> None:
        # Newcomers have no forces, whatever the sub-stages are.
        self._sync_fresh(remaining_indices, n_new, template_batch)
        self._state_of = template_batch.atom_segments
        for _, dynamics in self.sub_stages:
            dynamics._sync_state_to_batch(remaining_indices, n_new, template_batch)

    def __add__(self, other: BaseDynamics) -> FusedStage:
        """Return a stage with one more sub-stage; if this one compiles its step, the new one will when asked to.

        Raises:
            OperandError: `other` is no `BaseDynamics` (a TypeError).
        """
        if not isinstance(other, BaseDynamics):
            raise OperandError(f"FusedStage + {type(other).__name__}; both must be BaseDynamics. Construct a dynamics first.")
        fused = FusedStage(
            [*self.sub_stages, (len(self.sub_stages), other)], entry_status=self.entry_status, compile_kwargs=self.compile_kwargs
        )
        fused.compile_step = self.compile_step
        return fused

    def __repr__(self) -> str:
        stages = ", ".join(f"{code}:{type(dynamics).__name__}" for code, dynamics in self.sub_stages)
        return (
            f"FusedStage(sub_stages=[{stages}], entry_status={self.entry_status}, exit_status={self.exit_status}, "
            f"compiled={self._compiled_step is not None}, step_count={self.step_count})"
        )


class _WholeBatchHooks(HookRegistryMixin):
    """Hooks beside those of a fused stage, with its steps and its context."""

    _stage_type = DynamicsStage

    def __init__(self, stage: FusedStage) -> None:
        self._stage = stage
        self._init_hooks()

    def _call_hooks(self, stage: Any, batch: Batch | None) -> None:
        self.step_count = self._stage.step_count
        super()._call_hooks(stage, batch)

    def _build_context(self, batch: Batch | None) -> DynamicsContext:
        return self._stage._build_context(batch)


def _counter(code: int) -> str:
    return f"n_steps_counter_{code}"


def _zeros(n: int, device: torch.device) -> Tensor:
    return torch.zeros(n, 1, dtype=torch.int64, device=device)


def _migrates(hook: Hook, source_status: int) -> bool:
    return isinstance(hook, ConvergenceHook) and hook.source_status == source_status and hook.target_status is not None
