"""Whose fault it is when a model call raises: one table, from the type and the text of an error to what is done about it.

Libraries say the same thing in different ways: torch has types for memory and for broken devices, cuBLAS and cuSOLVER come through it as a
RuntimeError with a status in its text, Warp raises RuntimeErrors of its own, numpy a MemoryError. The first row that fits decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import torch

from campaign.errors import ContractError, DeviceLostError, MissingDependencyError, MissingDeviceError

__all__ = ["Fault", "fault_of", "lost_device"]


class Fault(Enum):
    """What raised, and so what is done."""

    SETUP = "setup"
    """Code or installation: nothing would work, so it is raised."""
    DEVICE = "device"
    """The device is broken for this process, and nothing that it says from now on counts; it is raised."""
    MEMORY = "memory"
    """The call was too large for the memory there is: smaller ones go on."""
    SYSTEM = "system"
    """A system of the batch, as far as anyone can know: it is searched for by halves."""


@dataclass(frozen=True, slots=True)
class _Row:
    fault: Fault
    types: tuple[type[BaseException], ...]
    text: str = ""
    """Regular expression that is found in the error's text."""

    def fits(self, error: BaseException) -> bool:
        return isinstance(error, self.types) and re.search(self.text, str(error), re.IGNORECASE) is not None


# Making a handle is what first allocates in these libraries; with no memory left some of them say that they are "not initialized".
_HANDLE: Final = (
    r"CU(BLAS|SOLVER|SPARSE|DNN)_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR).{0,20}when calling `?cu(blas|solver|sparse|dnn)\w*Create"
)
_NO_MEMORY: Final = (
    r"out of memory"  # CUDA and HIP, by torch or Warp
    r"|cudaErrorMemoryAllocation"
    r"|(CUBLAS|CUSOLVER|CUSPARSE|CUDNN)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED"
    r"|CUSPARSE_STATUS_INSUFFICIENT_RESOURCES"
    r"|DefaultCPUAllocator: can't allocate memory"  # torch on a CPU
    r"|Failed to allocate \d+ bytes"  # Warp
    r"|std::bad_alloc"
    r"|NVML_SUCCESS == r INTERNAL ASSERT FAILED"  # torch, out of memory where it cannot ask how much there is
)
_BY_KERNEL: Final = (
    r"device-side assert|illegal memory access|unspecified launch failure|misaligned address|illegal instruction|invalid program counter"
    r"|hardware stack error|launch timed out"
)
_BROKEN: Final = (
    rf"{_BY_KERNEL}|uncorrectable ECC|no CUDA-capable device|all CUDA-capable devices are busy|CUDA driver shutting down"
    r"|CUDA error \d+ detected on device"  # Warp's
    r"|CUDA error:|HIP error:"
)
_STATUS: Final = r"CUDA error: CU\w+_STATUS_"

_TABLE: Final = (
    _Row(Fault.MEMORY, (torch.OutOfMemoryError, MemoryError)),
    _Row(Fault.SETUP, (ContractError, MissingDependencyError, ImportError)),
    _Row(Fault.DEVICE, (MissingDeviceError, DeviceLostError)),
    # Of `model.deterministic`, which such a model cannot follow for any structure.
    _Row(Fault.SETUP, (RuntimeError,), r"does not have a deterministic implementation|CUBLAS_WORKSPACE_CONFIG"),
    _Row(Fault.MEMORY, (RuntimeError,), _NO_MEMORY),
    _Row(Fault.MEMORY, (RuntimeError,), _HANDLE),
    _Row(Fault.SETUP, (Exception,), r"Failed to load CUDA module"),  # Warp, for code that this device cannot run
    _Row(Fault.DEVICE, (torch.AcceleratorError,)),
    # A solver that fails for NaN says so by this type.
    _Row(Fault.SYSTEM, (torch.linalg.LinAlgError,)),  # type: ignore[attr-defined]
    # Other statuses of these libraries follow from bad arguments, and a broken device shows in the call after them.
    _Row(Fault.SYSTEM, (RuntimeError,), _STATUS),
    _Row(Fault.DEVICE, (RuntimeError,), _BROKEN),
)


def fault_of(error: BaseException) -> Fault:
    """Return whose fault an error is. One that was raised from another is looked at with its causes, the first known one counts.

    >>> fault_of(RuntimeError("Failed to allocate 80000 bytes on device 'cuda:0'"))
    <Fault.MEMORY: 'memory'>
    >>> fault_of(ValueError("no parameters for element 92"))
    <Fault.SYSTEM: 'system'>
    """
    for cause in _causes(error):
        for row in _TABLE:
            if row.fits(cause):
                return row.fault
    return Fault.SYSTEM


def lost_device(error: BaseException, n_systems: int) -> DeviceLostError:
    """Return what a rank says of an error whose fault is the device's: nothing can be computed in its process any more.

    >>> lost_device(RuntimeError("CUDA error: device-side assert triggered"), 3).by_kernel
    True
    """
    by_kernel = any(re.search(_BY_KERNEL, str(cause), re.IGNORECASE) is not None for cause in _causes(error))
    said = str(error).strip().partition("\n")[0]
    what_next = (
        "Code that ran there did it, so the systems in flight are remembered, and the next attempts look for the culprit among them."
        if by_kernel
        else "The machine did it; leave this node out."
    )
    return DeviceLostError(
        f"the GPU is lost to this process since a call with {n_systems} systems in the batch ({type(error).__name__}: {said}); nothing can "
        f"be computed in it any more, and what had ended is stored. {what_next} Go on with `campaign resume`.",
        by_kernel,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__
