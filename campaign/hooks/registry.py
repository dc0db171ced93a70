"""Registering hooks and calling them: everything that can be wrong with a hook is found when it is registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any

from campaign.errors import HookError, HookFrequencyError
from campaign.hooks.context import HookContext
from campaign.hooks.protocol import Hook

if TYPE_CHECKING:
    from campaign.data import Batch

__all__ = ["HookRegistryMixin"]


class HookRegistryMixin:
    """Gives a workflow its list of hooks; the workflow counts its steps in `step_count`.

    Hooks fire in the order in which they were registered. Set `_stage_type` to the enumeration, or a tuple of them, that the workflow's
    stages come from, and override `_build_context` to tell hooks more.
    """

    hooks: list[Hook]
    step_count: int
    _stage_type: type[Enum] | tuple[type[Enum], ...] | None = None
    _hook_trace: Callable[[Hook, Enum, int], None] | None = None
    """If set, is told of each call of a hook just before it: hook, stage, step."""

    def _init_hooks(self, hooks: Iterable[Hook] | None = None) -> None:
        self.hooks = []
        for hook in hooks or ():
            self.register_hook(hook)

    def register_hook(self, hook: Hook, stage: Enum | None = None) -> None:
        """Add a hook; `stage`, if given, becomes its stage.

        Raises:
            HookFrequencyError: its frequency is no positive integer.
            HookError: it is not callable with a context and a stage, has no stage, or one that this workflow does not have.
        """
        if stage is not None:
            hook.stage = stage
        self._check(hook)
        on_register = getattr(hook, "on_register", None)
        if on_register is not None:
            on_register(self)
        self.hooks.append(hook)

    def _build_context(self, batch: Batch | None) -> HookContext:
        """Return what hooks are told; override it to tell more."""
        return HookContext(batch=batch, model=getattr(self, "model", None), global_rank=getattr(self, "global_rank", 0), workflow=self)

    def _call_hooks(self, stage: Enum, batch: Batch | None) -> None:
        """Call the hooks that listen at `stage` and whose turn it is; without any, not even a context is made."""
        ctx: HookContext | None = None
        for hook in self.hooks:
            runs_on_stage = getattr(hook, "_runs_on_stage", None)
            listens = stage == hook.stage if runs_on_stage is None else runs_on_stage(stage)
            if not listens or self.step_count % hook.frequency:
                continue
            if ctx is None:
                ctx = self._build_context(batch)
            if self._hook_trace is not None:
                self._hook_trace(hook, stage, self.step_count)
            hook(ctx, stage)

    def _check(self, hook: Any) -> None:
        name = type(hook).__name__
        if not callable(hook):
            raise HookError(f"{name} is not callable; a hook is called with (ctx, stage). Give it a __call__ method.")
        _check_signature(hook, name)
        frequency = getattr(hook, "frequency", None)
        if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
            raise HookFrequencyError(
                f"{name} has frequency {frequency!r}; it must be a positive integer. Set it to 1 to fire at every step."
            )
        for optional in ("_runs_on_stage", "on_register"):
            if not callable(getattr(hook, optional, None) or int):
                raise HookError(f"{name}.{optional} is {getattr(hook, optional)!r}; it must be a method. Remove or define it.")
        if getattr(hook, "_runs_on_stage", None) is None:
            self._check_stage(hook, name)

    def _check_stage(self, hook: Any, name: str) -> None:
        stage = getattr(hook, "stage", None)
        types = self._stage_type if isinstance(self._stage_type, tuple) else (self._stage_type,) if self._stage_type else (Enum,)
        if isinstance(stage, types):
            return
        seen = "no stage" if stage is None else f"stage {stage!r}"
        members = ", ".join(str(member) for kind in types for member in kind) or "any member of an enumeration"
        raise HookError(f"{name} has {seen}; {type(self).__name__} has {members}. Pass stage= to the hook or to register_hook.")


def _check_signature(hook: Any, name: str) -> None:
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return  # built in C, without a signature to look at
    try:
        signature.bind("ctx", "stage")
    except TypeError as error:
        raise HookError(
            f"{name} is called as {name}{signature}; a hook is called with (ctx, stage): {error}. Change its arguments."
        ) from None
