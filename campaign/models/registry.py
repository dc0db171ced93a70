"""Models by name: only the module of the one asked for is imported, and options are checked before anything is loaded."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from campaign.errors import CampaignError, SpecError, UnknownModelError
from campaign.models.base import BaseModelMixin
from campaign.models.one_by_one import make_deterministic

__all__ = ["MODEL_NAMES", "create_model", "model_options", "supported_elements"]


@dataclass(frozen=True, slots=True)
class _Entry:
    module: str
    cls: str
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32)


_ENTRIES: Final = {
    "lj": _Entry("lennard_jones", "LennardJonesModel"),
    "morse": _Entry("morse", "MorseModel"),
    "emt": _Entry("emt", "EMTModel"),
    "demo": _Entry("demo", "DemoModelWrapper"),
    "sevennet": _Entry("sevennet", "SevenNetModel", (torch.float32,)),
    "chgnet": _Entry("chgnet", "CHGNetModel", (torch.float32,)),
    "mace": _Entry("mace", "MACEModel"),
    "ase": _Entry("ase_calculator", "AseCalculatorModel", (torch.float64,)),
}

MODEL_NAMES: Final = tuple(_ENTRIES)
"""Names that a spec can give."""


def create_model(
    name: str, dtype: torch.dtype, device: torch.device, options: Mapping[str, Any] | None = None, deterministic: bool = False
) -> BaseModelMixin:
    """Return a model ready to be called with batches on `device`; `deterministic` ones give a structure the same bits in any batch.

    Raises:
        UnknownModelError: no model is called `name`; the text has the nearest one.
        SpecError: an option that the model does not have or whose value it refuses, a precision in which it does not compute, or bits that
            it cannot promise.
        MissingDependencyError: the model's package is not installed; the text has the install command.

    >>> create_model("lj", torch.float64, torch.device("cpu"), {"sigma": 2.5}).model_config.neighbor_config.cutoff
    7.5
    """
    entry = _entry(name)
    options = dict(options or {})
    known = model_options(name)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}."
            raise SpecError(f"model {name!r} has no option {option!r}; {hint} Correct or remove it in [model.options].")
    if dtype not in entry.dtypes:
        computed = " and ".join(_dtype_name(one) for one in entry.dtypes)
        raise SpecError(f"model {name!r} was asked for in {_dtype_name(dtype)}; it computes in {computed}. Set model.dtype accordingly.")
    try:
        model: BaseModelMixin = _model_class(entry)(**options, dtype=dtype, device=device)
    except CampaignError:
        raise
    except (TypeError, ValueError) as error:
        reason = re.sub(r"^\w+\.__init__\(\) ", "", str(error)).replace("positional argument", "option")
        raise SpecError(f"model {name!r} refuses its options {options!r}: {reason}. Mend [model.options].") from error
    return make_deterministic(model, device) if deterministic else model


def model_options(name: str) -> tuple[str, ...]:
    """Return the names of the options of a model.

    Raises:
        UnknownModelError: no model is called `name`.

    >>> model_options("morse")
    ('epsilon', 'rho0', 'r0', 'rcut1', 'rcut2')
    """
    parameters = inspect.signature(_model_class(_entry(name)).__init__).parameters
    return tuple(parameter for parameter in parameters if parameter not in ("self", "dtype", "device"))


def supported_elements(
    name: str, dtype: str, options: Mapping[str, Any] | None = None, cell: str = "fixed", deterministic: bool = False
) -> frozenset[int] | None:
    """Return the atomic numbers that a model covers, None for any. The model is made, so precision and options are checked too.

    `cell` is how cells will relax. Without a stress they would stay as they are and count as converged.

    Raises:
        SpecError: the cell relaxes and the model has no stress.
        UnknownModelError, SpecError, MissingDependencyError: see `create_model`.

    >>> 29 in supported_elements("emt", "float64"), supported_elements("lj", "float64")
    (True, None)
    """
    # On the CPU: inputs are often read where there is no GPU.
    model = create_model(name, getattr(torch, dtype), torch.device("cpu"), options, deterministic)
    if cell != "fixed" and "stress" not in model.model_config.outputs:
        what = f"model {name!r}" + (f" with {(options or {}).get('calculator')!r}" if name == "ase" else "")
        raise SpecError(
            f'relax.cell is "{cell}", and {what} computes no stress, by which a cell relaxes. Set relax.cell = "fixed", or choose a model '
            "that has one."
        )
    return model.supported_elements


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, MODEL_NAMES, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else "none is similar."
        raise UnknownModelError(f"no model is called {name!r}; {hint} Models are {', '.join(MODEL_NAMES)}. Correct model.name.")
    return _ENTRIES[name]


def _model_class(entry: _Entry) -> Any:
    return getattr(importlib.import_module(f"campaign.models.{entry.module}"), entry.cls)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
