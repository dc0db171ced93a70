"""What a hook is: something callable with a stage and a frequency."""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol, runtime_checkable

__all__ = ["Hook"]


@runtime_checkable
class Hook(Protocol):
    """Looks at a workflow, or changes it, at one stage of every `frequency`-th step.

    Two methods are looked for and need not be there: `_runs_on_stage(stage) -> bool` lets a hook fire at stages of its own choice instead
    of `stage`; `on_register(workflow)` is called once, after the hook has been checked and before it is stored.

    A hook keeps nothing about the systems of a batch: what it has to remember of them is a field on the batch, where it moves with them.

    >>> class Printer:
    ...     stage, frequency = None, 10
    ...     def __call__(self, ctx, stage):
    ...         print(ctx.batch)
    >>> isinstance(Printer(), Hook)
    True
    """

    frequency: int
    stage: Enum | None

    # The context is Any here, so that hooks may ask for the context of their own kind of workflow.
    def __call__(self, ctx: Any, stage: Enum) -> None:
        """Act; `ctx` is a `HookContext` or what a workflow makes of it, `stage` the stage that fires."""
        ...
