"""What on a GPU would stop the host until the device is done, found on a CPU: a recorder, and copies that arrive late."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import warp as wp
from numpy import ndarray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from campaign.data import tally as tally_module
from campaign.dynamics import Relaxation, exits
from campaign.neighbors import verlet
from campaign.neighbors.renewal import Renewal

# A number, or a shape that follows from numbers, has to come from the device.
_OPERATORS = {"_local_scalar_dense", "item", "nonzero", "argwhere", "masked_select", "is_nonzero", "equal", "allclose", "bincount", "histc"}
_OPERATORS |= {"lift_fresh", "embedding_renorm_", "pin_memory", "unique_dim", "unique_consecutive", "unique_dim_consecutive"}
_OPERATORS |= {"_unique", "_unique2", "_assert_async"}
_METHODS = ["numpy", "tolist", "item", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "__iter__"]
_numpy = Tensor.numpy
_FUNCTIONS = ["tensor", "from_numpy", "as_tensor"]


class Recorder(TorchDispatchMode):
    """Records the operations that would wait, unless `exempt` says that the place is a named one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.exempt: list[str] = []
        self.exempted: Counter[str] = Counter()

    def record(self, what: str) -> None:
        if self.exempt:
            self.exempted[f"{self.exempt[-1]}: {what}"] += 1
        else:
            self.seen[what] += 1

    @contextlib.contextmanager
    def named(self, place: str) -> Iterator[None]:
        """Say that waiting is meant here."""
        self.exempt.append(place)
        try:
            yield
        finally:
            self.exempt.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        if name.removeprefix("aten.") in _OPERATORS:
            self.record(name)
        elif name in ("aten.index", "aten.index_put", "aten.index_put_"):
            is_mask = any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
            # A mask with one number is filled without anyone counting.
            if is_mask and (name == "aten.index" or args[2].numel() != 1):
                self.record(f"{name} with a mask")
        elif name == "aten.repeat_interleave" and kwargs.get("output_size") is None and any(isinstance(arg, Tensor) for arg in args[-1:]):
            self.record(name)
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Recorder]:
        """Record all that happens inside, also what never comes to the dispatcher."""
        with pytest.MonkeyPatch.context() as patch, self:
            for name in _METHODS:
                patch.setattr(Tensor, name, self._spied(f"Tensor.{name}", getattr(Tensor, name)))
            for name in _FUNCTIONS:
                patch.setattr(torch, name, self._spied(f"torch.{name}", getattr(torch, name)))
            for name in ("synchronize", "synchronize_device", "synchronize_stream", "synchronize_event"):
                patch.setattr(wp, name, self._spied(f"wp.{name}", getattr(wp, name)))
            patch.setattr(wp.array, "numpy", self._spied("wp.array.numpy", wp.array.numpy))
            yield self

    def _spied(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def spied(*args: Any, **kwargs: Any) -> Any:
            if name != "torch.as_tensor" or not isinstance(args[0], Tensor):
                self.record(name)
            return original(*args, **kwargs)

        return spied


class LateCopy:
    """Arrives when it has been asked for so many times, which differs from copy to copy."""

    delays = (2, 0, 1, 3, 0, 0, 2)
    n_started = 0

    def __init__(self, counts: Tensor) -> None:
        self._counts = counts.clone()

    def start(self, counts: Tensor) -> None:
        self._counts.copy_(counts)
        self._left = self.delays[LateCopy.n_started % len(self.delays)]
        LateCopy.n_started += 1

    def has_arrived(self) -> bool:
        self._left -= 1
        return self._left < 0

    def wait(self) -> ndarray[Any, Any]:
        return np.array(_numpy(self._counts))


def run_behind(patch: pytest.MonkeyPatch) -> None:
    """Have the host take the CPU for a device that runs behind it."""
    for module in (tally_module, verlet, exits):
        patch.setattr(module, "runs_behind", lambda device: True)
    patch.setattr(tally_module, "_Copy", LateCopy)


def watch(relaxation: Relaxation, recorder: Recorder, patch: pytest.MonkeyPatch) -> Counter[str]:
    """Name the places of a relaxation where waiting is meant; return a counter of its steps, by whether they are the first of a batch."""
    steps: Counter[str] = Counter()
    exchange, advance, told = relaxation._exchange, relaxation._advance, relaxation.dynamics._tell_converged
    is_first = True

    def watched_exchange(*args: Any, **kwargs: Any) -> Any:
        nonlocal is_first
        is_first = True
        with recorder.named("exchange"):
            return exchange(*args, **kwargs)

    def watched_advance(batch: Any) -> Any:
        nonlocal is_first
        steps["first" if is_first else "further"] += 1
        with recorder.named("first evaluation of a batch") if is_first else contextlib.nullcontext():
            is_first = False
            return advance(batch)

    def watched_telling(batch: Any, converged: Any) -> None:
        with recorder.named("hooks at ON_CONVERGE") if converged is not None else contextlib.nullcontext():
            told(batch, converged)

    patch.setattr(relaxation, "_exchange", watched_exchange)
    patch.setattr(relaxation, "_advance", watched_advance)
    patch.setattr(relaxation.dynamics, "_tell_converged", watched_telling)
    unreported, update, has_failed = exits.Exits.unreported, verlet.VerletList.update, Renewal.has_failed
    failed = False

    def watched_unreported(self: exits.Exits, batch: Any) -> Any:
        with recorder.named("who has converged"):
            return unreported(self, batch)

    def watched_failure(self: Renewal) -> bool:
        nonlocal failed
        failed = has_failed(self)
        if failed:
            steps["rows that did not fit"] += 1
            recorder.exempt.append("rows that did not fit")
        return failed

    def watched_update(self: verlet.VerletList, batch: Any) -> bool:
        nonlocal failed
        failed = False
        try:
            return update(self, batch)
        finally:
            if failed:
                recorder.exempt.pop()

    patch.setattr(exits.Exits, "unreported", watched_unreported)
    patch.setattr(Renewal, "has_failed", watched_failure)
    patch.setattr(verlet.VerletList, "update", watched_update)
    return steps
