"""Launch Warp kernels on torch tensors: one place for start-up, dtypes, streams and the cost of a launch.

`wp.launch` with arguments wrapped by `wp.from_torch` takes about 85 µs of Python for seven arguments, more than the kernel itself needs
for a small batch. `launch` records each kernel once per device and thread, and from then on only writes new data pointers into the
recorded arguments, which takes about 15 µs, on CPU and CUDA alike. It copies nothing and keeps no tensor alive.

Kernels are written once for both precisions, by a factory that takes Warp's types:

    @cache
    def scale_kernel(precision: Precision) -> wp.Kernel:
        real, vec3 = precision.real, precision.vec3

        @wp.kernel(enable_backward=False, module="unique")
        def scale(x: wp.array(dtype=vec3), factor: real): ...

        return scale

`module="unique"` makes each kernel a module of its own: only what is used gets compiled, and a kernel defined later does not make Warp
compile again what is loaded. Compiled code lies in the user's cache folder (or `WARP_CACHE_PATH`), is keyed by source and CPU features, and
gets there by rename, so several ranks may compile at once. Files with kernels do without `from __future__ import annotations`, since Warp
reads the annotations of a kernel as types when it is defined.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import operator
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import warp as wp
from torch import Tensor

from campaign.errors import ContractError

__all__ = ["PRECISIONS", "BoundLaunch", "Precision", "initialize_warp", "launch", "precision_of"]


@dataclass(frozen=True, slots=True)
class Precision:
    """Warp's types for one torch floating dtype."""

    real: Any
    vec3: Any
    mat33: Any


PRECISIONS: Final[dict[torch.dtype, Precision]] = {
    torch.float64: Precision(wp.float64, wp.vec3d, wp.mat33d),
    torch.float32: Precision(wp.float32, wp.vec3f, wp.mat33f),
}
"""Warp's types by torch dtype."""


def precision_of(dtype: torch.dtype) -> Precision:
    """Return Warp's types for `dtype`.

    Raises:
        ContractError: neither float64 nor float32.

    >>> precision_of(torch.float64).vec3.__name__
    'vec3d'
    """
    try:
        return PRECISIONS[dtype]
    except KeyError:
        raise ContractError(f"a kernel was asked for in {dtype}; kernels exist in float64 and float32. Convert the tensors.") from None


def initialize_warp() -> None:
    """Start Warp without its banner; calling it again costs nothing.

    Importing this module does it. Import this module before `nvalchemiops`, which otherwise starts Warp itself.
    """
    wp.config.log_level = wp.LOG_WARNING
    # Without a driver Warp's native code writes a line to stderr, in every rank, which no setting turns off.
    with contextlib.nullcontext() if torch.cuda.is_available() else _silent_stderr():
        wp.init()  # type: ignore[no-untyped-call]


def launch(kernel: wp.Kernel, dim: int, inputs: Sequence[Tensor | int | float], device: torch.device) -> None:
    """Run `kernel` with `dim` threads on torch's current stream of `device`.

    `inputs` are the kernel's arguments in order: contiguous tensors of the kernel's dtypes on `device`, where the trailing 3 or 3×3 of an
    array of vectors or matrices is theirs; and numbers. Tensors are read and written in place. With `dim` 0 nothing runs.

    Raises:
        ContractError: a tensor has another dtype, rank or device than the kernel, or is not contiguous; or the number of arguments differs.

    >>> @wp.kernel(enable_backward=False, module="unique")
    ... def double(x: wp.array(dtype=wp.float64)):
    ...     x[wp.tid()] = x[wp.tid()] * wp.float64(2.0)
    >>> x = torch.arange(3, dtype=torch.float64)
    >>> launch(double, 3, [x], x.device)
    >>> x.tolist()
    [0.0, 2.0, 4.0]
    """
    if dim == 0:
        return
    if device == _ANY_CUDA:
        device = torch.device("cuda", torch.cuda.current_device())
    try:
        command = _recorded.commands[kernel, device]
    except KeyError:
        command = _recorded.commands[kernel, device] = _Command(kernel, device)
    command.run(dim, inputs)


class BoundLaunch:
    """A kernel that is launched over and over on the same tensor objects, such as those of a batch in a step loop.

    As long as the arguments are the very objects of the last run, which is all that is compared, nothing is looked at or written: with 25
    arguments a run costs a fifth of what `launch` does. It keeps the tensors of its last run alive, since their addresses are in use.

    >>> @wp.kernel(enable_backward=False, module="unique")
    ... def halve(x: wp.array(dtype=wp.float64)):
    ...     x[wp.tid()] = x[wp.tid()] / wp.float64(2.0)
    >>> x = torch.arange(3, dtype=torch.float64)
    >>> halving = BoundLaunch(halve, x.device)
    >>> halving.run(3, [x])
    >>> halving.run(3, [x])
    >>> x.tolist()
    [0.0, 0.25, 0.5]
    """

    __slots__ = ("_command", "_dim", "_inputs")

    def __init__(self, kernel: wp.Kernel, device: torch.device) -> None:
        # A tensor knows the number of its device, which "cuda" alone lacks.
        self._command = _Command(kernel, torch.empty(0, device=device).device)
        self._dim = -1
        self._inputs: tuple[Tensor | int | float, ...] = ()

    def run(self, dim: int, inputs: Sequence[Tensor | int | float]) -> None:
        """Run with `dim` threads on torch's current stream; see `launch`.

        Raises:
            ContractError: see `launch`.
        """
        if dim == 0:
            return
        if dim != self._dim or len(inputs) != len(self._inputs) or any(map(operator.is_not, inputs, self._inputs)):
            self._dim = -1  # in case an argument is refused
            self._command.bind(dim, inputs)
            self._dim, self._inputs = dim, tuple(inputs)
        self._command.fire()


_ANY_CUDA: Final = torch.device("cuda")  # of no number, as tensors never say


class _Recorded(threading.local):
    """Commands by kernel and device, of one thread: arguments are overwritten in place."""

    def __init__(self) -> None:
        self.commands: dict[tuple[Any, torch.device], _Command] = {}


_recorded = _Recorded()


class _Command:
    """A recorded launch of one kernel on one device."""

    __slots__ = ("_arguments", "_device", "_dim", "_direct", "_kernel", "_name", "_packed", "_recorded", "_stream", "_stream_handle")

    def __init__(self, kernel: wp.Kernel, device: torch.device) -> None:
        self._kernel = kernel
        self._name = kernel.key.rpartition("__")[2]  # without the factory that made it
        self._device = device
        self._arguments: list[_Array | _Scalar] = [
            _Array(index, argument.label, argument.type) if hasattr(argument.type, "ndim") else _Scalar(index, argument.label)
            for index, argument in enumerate(kernel.adj.args)
        ]
        self._recorded: Any = None
        self._dim = -1
        self._stream: Any = None
        self._stream_handle = -1
        self._direct: tuple[Any, ...] | None = None
        self._packed: Any = None

    def run(self, dim: int, inputs: Sequence[Tensor | int | float]) -> None:
        self.bind(dim, inputs)
        self.fire()

    def bind(self, dim: int, inputs: Sequence[Tensor | int | float]) -> None:
        if len(inputs) != len(self._arguments):
            raise ContractError(
                f"kernel {self._name!r} was launched with {len(inputs)} arguments; it has {len(self._arguments)}. Pass one for each."
            )
        if self._recorded is None:
            self._record(dim, inputs)
        recorded = self._recorded
        try:
            for argument, value in zip(self._arguments, inputs, strict=True):
                argument.write(recorded, value, self._device)
        except ContractError as error:
            raise ContractError(f"kernel {self._name!r}, {error}") from None
        if dim != self._dim:
            recorded.set_dim(dim)
            self._dim = dim
        self._direct = self._pack() if self._device.type == "cpu" else None

    def fire(self) -> None:
        if self._direct is not None:
            function, bounds, arguments = self._direct[:3]
            function(bounds, arguments)
        else:
            self._recorded.launch(self._current_stream() if self._device.type == "cuda" else None)

    def _pack(self) -> tuple[Any, ...] | None:
        """Return the compiled function and its packed arguments; None where Warp has to launch in a way of its own.

        Warp packs the arguments at each launch, which for a small batch takes longer than the kernel.
        """
        recorded = self._recorded
        if recorded.block_dim != 1:
            return None
        values = recorded.params[1:]
        if self._packed is None:
            fields = [(f"a{index}", type(value)) for index, value in enumerate(values)]
            self._packed = type("Arguments", (ctypes.Structure,), {"_fields_": fields})
        arguments = self._packed(*values)
        # The last two only have to live as long as they are pointed to.
        return recorded.hooks.forward, ctypes.byref(recorded.bounds), ctypes.byref(arguments), recorded.bounds, arguments

    def _record(self, dim: int, inputs: Sequence[Tensor | int | float]) -> None:
        # Null arrays stand in for the tensors, which `run` writes in.
        values = [None if isinstance(argument, _Array) else value for argument, value in zip(self._arguments, inputs, strict=True)]
        self._recorded = wp.launch(self._kernel, dim, values, device=wp.device_from_torch(self._device), record_cmd=True)
        self._dim = dim

    def _current_stream(self) -> Any:
        stream = torch.cuda.current_stream(self._device)
        if stream.cuda_stream != self._stream_handle:
            self._stream = wp.stream_from_torch(stream)  # type: ignore[no-untyped-call]
            self._stream_handle = stream.cuda_stream
        return self._stream


class _Array:
    """An array argument: its declared type, and the descriptor that the kernel reads."""

    __slots__ = ("_descriptor", "_dtype", "_index", "_inner", "_name", "_ndim", "_shape", "_torch_dtype")

    def __init__(self, index: int, name: str, declared: Any) -> None:
        self._index = index
        self._name = name
        self._dtype = declared.dtype
        self._inner = tuple(getattr(declared.dtype, "_shape_", ()))
        self._ndim = declared.ndim + len(self._inner)
        scalar = getattr(declared.dtype, "_wp_scalar_type_", declared.dtype)
        self._torch_dtype = wp.dtype_to_torch(scalar)  # type: ignore[no-untyped-call]
        self._shape: torch.Size | None = None
        self._descriptor: Any = None

    def write(self, recorded: Any, value: Any, device: torch.device) -> None:
        if value.device != device or value.dtype is not self._torch_dtype or not value.is_contiguous():
            self._refuse(value, device)
        if value.shape == self._shape:
            self._descriptor.data = value.data_ptr()
            return
        if value.ndim != self._ndim or tuple(value.shape[self._ndim - len(self._inner) :]) != self._inner:
            self._refuse(value, device)
        self._shape = value.shape
        if self._descriptor is None:
            self._descriptor = wp.from_torch(value, dtype=self._dtype, requires_grad=False, return_ctype=True)
            self._descriptor._ref = None  # the caller keeps the tensor; this descriptor outlives it
            recorded.set_param_at_index_from_ctype(self._index, self._descriptor)
            return
        # By hand, which takes a tenth of the time: batches of another size come all the time.
        descriptor, stride = self._descriptor, value.element_size() * math.prod(self._inner)
        descriptor.data = value.data_ptr()
        for axis in reversed(range(self._ndim - len(self._inner))):
            descriptor.shape[axis] = value.shape[axis]
            descriptor.strides[axis] = stride
            stride *= value.shape[axis]

    def _refuse(self, value: Tensor, device: torch.device) -> None:
        inner = "".join(f", {size}" for size in self._inner)
        layout = "contiguous" if value.is_contiguous() else "not contiguous"
        raise ContractError(
            f"argument {self._name!r}: got {value.dtype} of shape {tuple(value.shape)} on {value.device}, {layout}; it takes contiguous "
            f"{self._torch_dtype} with {self._ndim} dimensions{f' ending in {inner[2:]}' if inner else ''} on {device}. Convert it."
        )


class _Scalar:
    """A number."""

    __slots__ = ("_index", "_name", "_value")

    def __init__(self, index: int, name: str) -> None:
        self._index = index
        self._name = name
        self._value: int | float | None = None

    def write(self, recorded: Any, value: Any, device: torch.device) -> None:
        del device
        if value != self._value:
            recorded.set_param_at_index(self._index, value)
            self._value = value


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a descriptor is wanted, not a path
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


initialize_warp()
