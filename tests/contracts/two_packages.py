"""The two packages of the dynamics contract, and scripts that run on both: a script is a function of a package that returns plain data.

`same` demands that both give the same, `differs` that they differ just as the table of intended differences says.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import torch
from intended_differences import DIFFERENCES
from torch import Tensor

PLACES: dict[str, str] = {
    name: module
    for module, names in {
        "data": "AtomicData Batch",
        "hooks": "Hook HookContext DynamicsContext NeighborListHook WrapPeriodicHook",
        "dynamics.base": "BaseDynamics DynamicsStage ConvergenceHook FusedStage",
        "dynamics": "FIRE FIRE2 FIREVariableCell NVE NVTLangevin SizeAwareSampler DemoDynamics",
        "dynamics.hooks": "SnapshotHook ConvergedSnapshotHook FreezeAtomsHook LoggingHook NaNDetectorHook MaxForceClampHook",
        "dynamics.sinks": "DataSink GPUBuffer HostMemory ZarrData",
        "models.demo": "DemoModel DemoModelWrapper",
        "models.base": "BaseModelMixin ModelConfig NeighborConfig NeighborListFormat",
    }.items()
    for name in names.split()
}
"""Every public name of the contract, and what a model of one's own needs, with the module that it is imported from."""


class Package:
    """One of the two packages; its attributes are the public names, whichever module they are in."""

    def __init__(self, root: str) -> None:
        self.root = root
        with self.at_work():
            for module in sorted(set(PLACES.values())):
                importlib.import_module(f"{root}.{module}")

    @property
    def is_ours(self) -> bool:
        """Whether this is the package under test."""
        return self.root == "campaign"

    def __getattr__(self, name: str) -> Any:
        if name not in PLACES:
            raise AttributeError(name)
        return getattr(importlib.import_module(f"{self.root}.{PLACES[name]}"), name)

    def __repr__(self) -> str:
        return self.root

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let the reference warn as it likes and compile nothing; of ours every warning is an error."""
        if self.is_ours:
            yield
            return
        with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
            warnings.simplefilter("ignore")
            yield


@cache
def ours() -> Package:
    """Return the package under test."""
    return Package("campaign")


@cache
def theirs() -> Package:
    """Return the installed reference; `make install` brings it, and without it every test that asks for it fails."""
    return Package("nvalchemi")


Script = Callable[[Package], Any]


@dataclass(frozen=True)
class Raised:
    """That a script raised: the built-in exceptions which its error is, the nearest first."""

    kinds: tuple[str, ...]
    text: str

    def __repr__(self) -> str:
        return f"{self.kinds[0]}: {self.text}"


def outcome(package: Package, script: Script) -> Any:
    """Return what a script gives, as plain data, or that it raised."""
    with package.at_work(), _own_counters(package):
        try:
            return plain(script(package))
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins" and issubclass(kind, Exception)]
            return Raised(tuple(kinds), str(error))


@contextmanager
def _own_counters(package: Package) -> Iterator[None]:
    # The reference declares counters of steps for every dynamics of the process; no script should see those of another.
    before = package.BaseDynamics._bookkeeping_keys
    yield
    package.BaseDynamics._bookkeeping_keys = before


def same(script: Script, atol: float = 0.0) -> Any:
    """Demand that both packages give the same, numbers to `atol`, and return it; to raise is not to give."""
    there, here = outcome(theirs(), script), outcome(ours(), script)
    for package, result in ((theirs(), there), (ours(), here)):
        assert not isinstance(result, Raised), f"{package} raised {result}"
    different = list(_different(there, here, atol, ""))
    assert not different, "there ≠ here\n" + "\n".join(different)
    return here


def same_error(script: Script, kind: type[Exception]) -> None:
    """Demand that both packages raise `kind`, or an error that is one."""
    for package in (theirs(), ours()):
        _check(package, outcome(package, script), kind, 0.0)


def differs(name: str, script: Script, there: Any, here: Any, atol: float = 0.0) -> None:
    """Demand of a row of the table that each package gives just what is expected of it; an exception type means that it is raised."""
    assert name in DIFFERENCES, f"{name!r} is no row of the table"
    _check(theirs(), outcome(theirs(), script), there, atol)
    _check(ours(), outcome(ours(), script), here, atol)


def _check(package: Package, result: Any, wanted: Any, atol: float) -> None:
    if isinstance(wanted, type) and issubclass(wanted, Exception):
        assert isinstance(result, Raised), f"{package} did not raise {wanted.__name__} but gave {result!r}"
        assert wanted.__name__ in result.kinds, f"{package} raised {result}"
    else:
        different = list(_different(plain(wanted), result, atol, ""))
        assert not different, f"{package}: wanted ≠ seen\n" + "\n".join(different)


# Plain data


def plain(value: Any) -> Any:
    """Return a value as nested dictionaries and lists, in which a tensor is its dtype, shape and numbers."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return {"dtype": str(value.dtype), "shape": list(value.shape), "numbers": value.double().flatten().tolist()}
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "num_graphs"):
        return plain(contents(value))
    assert value is None or isinstance(value, bool | int | float | str | Raised), f"{type(value).__name__} is not plain data"
    return value


def contents(batch: Any) -> dict[str, Any]:
    """Return all that a batch holds."""
    return {
        "sizes": batch.num_nodes_list,
        "n_edges": batch.num_edges,
        "device": batch.device,
        "tensors": {key: batch[key] for key in sorted(key for key, _ in batch)},
    }


def _different(there: Any, here: Any, atol: float, path: str) -> Iterator[str]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted(there.keys() | here.keys()):
            if key not in there or key not in here:
                yield f"{path}.{key}: {'missing' if key not in there else 'too much'} in the first"
            else:
                yield from _different(there[key], here[key], atol, f"{path}.{key}")
    elif isinstance(there, list) and isinstance(here, list):
        if len(there) != len(here):
            yield f"{path}: {there!r} ≠ {here!r}"
            return
        for i, (a, b) in enumerate(zip(there, here, strict=True)):
            yield from _different(a, b, atol, f"{path}[{i}]")
    elif isinstance(there, float) and isinstance(here, float):
        if not (there == here or abs(there - here) <= atol or (math.isnan(there) and math.isnan(here))):
            yield f"{path}: {there!r} ≠ {here!r}"
    elif type(there) is not type(here) or there != here:
        yield f"{path}: {there!r} ≠ {here!r}"
