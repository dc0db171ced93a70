"""Whose fault an error is, on the types and texts of the libraries themselves; where a CPU can raise the real thing, on that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import warp as wp

from campaign.dynamics.model_errors import Fault, fault_of, lost_device
from campaign.errors import ArgumentError, MissingDependencyError, MissingDeviceError, ModelOutputError, NeighborListError

_TORCH_HINT = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.\n"
    "For debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)

_SEARCH = "\nSearch for `{}' in https://docs.nvidia.com/cuda/ for more information."

SAID = [
    (Fault.MEMORY, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB")),
    (Fault.MEMORY, torch.AcceleratorError("CUDA error: out of memory" + _TORCH_HINT)),
    (Fault.MEMORY, RuntimeError("CUDA error: out of memory" + _TORCH_HINT)),
    (Fault.MEMORY, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    (Fault.MEMORY, RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")),
    (Fault.MEMORY, RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`")),
    (Fault.MEMORY, RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`")),
    (Fault.MEMORY, RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
    (Fault.MEMORY, RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED")),
    (Fault.MEMORY, RuntimeError("CUDA error: insufficient resources when calling `cusparseSpMM`: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES")),
    (Fault.MEMORY, RuntimeError("Failed to allocate 80000 bytes on device 'cuda:0'")),
    (Fault.MEMORY, RuntimeError("Warp CUDA error 2: out of memory (in function wp_alloc_device_async, warp.cu:701)")),
    (Fault.MEMORY, RuntimeError("Error launching kernel: search_3f2a on device cuda:0: Warp CUDA error 2: out of memory")),
    (
        Fault.MEMORY,
        torch.AcceleratorError(
            "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com" + _TORCH_HINT
        ),
    ),
    (
        Fault.MEMORY,
        RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838'),
    ),
    (Fault.MEMORY, MemoryError()),
    (Fault.MEMORY, RuntimeError("std::bad_alloc")),
    (Fault.DEVICE, torch.AcceleratorError("CUDA error: device-side assert triggered" + _TORCH_HINT)),
    (Fault.DEVICE, RuntimeError("CUDA error: device-side assert triggered" + _TORCH_HINT)),
    (Fault.DEVICE, RuntimeError("CUDA error: an illegal memory access was encountered" + _TORCH_HINT)),
    (Fault.DEVICE, RuntimeError("CUDA error: unspecified launch failure")),
    (Fault.DEVICE, RuntimeError("CUDA error: uncorrectable ECC error encountered")),
    (Fault.DEVICE, RuntimeError("CUDA error 700 detected on device cuda:0: an illegal memory access was encountered")),
    (Fault.DEVICE, RuntimeError("No CUDA GPUs are available: no CUDA-capable device is detected")),
    (
        Fault.DEVICE,
        torch.AcceleratorError("CUDA error: device-side assert triggered" + _SEARCH.format("cudaErrorAssert") + _TORCH_HINT),
    ),
    (Fault.DEVICE, RuntimeError("Error launching kernel: judge_1c on device cuda:0: Warp CUDA error 710: device-side assert triggered")),
    (
        Fault.SETUP,
        RuntimeError("put_ does not have a deterministic implementation, but you set 'torch.use_det…"),
    ),
    (Fault.SETUP, RuntimeError("Deterministic behavior was enabled with … you must set CUBLAS_WORKSPACE_CONFIG=:4096:8")),
    (Fault.SETUP, Exception("Failed to load CUDA module 'wp_search_3f2a' (no kernel image)")),
    (Fault.DEVICE, MissingDeviceError("this rank sees no GPU")),
    (Fault.SETUP, ModelOutputError("no forces")),
    (Fault.SETUP, ArgumentError("a mask of the wrong length")),
    (Fault.SETUP, MissingDependencyError("pip install it")),
    (Fault.SETUP, ModuleNotFoundError("No module named 'e3nn'")),
    (Fault.SYSTEM, NeighborListError("the list would need 80 GiB")),
    (Fault.SYSTEM, RuntimeError("nine atoms are too many")),
    (Fault.SYSTEM, ValueError("no parameters for element 92")),
    (Fault.SYSTEM, ZeroDivisionError("float division by zero")),
    (
        Fault.SYSTEM,
        torch.linalg.LinAlgError(
            "cusolver error: CUSOLVER_STATUS_EXECUTION_FAILED, when calling `cusolverDnXsyevd(…)`. This error may appear if the input "
            "matrix contains NaN."
        ),
    ),
    (Fault.SYSTEM, RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle, opa, opb, m, n, k)`")),
]


@pytest.mark.parametrize(("fault", "error"), SAID, ids=[f"{type(error).__name__}: {str(error)[:60]}" for _, error in SAID])
def test_what_libraries_say(fault: Fault, error: Exception) -> None:
    assert fault_of(error) is fault


def _indefinite() -> object:
    return torch.linalg.cholesky(-torch.eye(2))


REAL: dict[str, tuple[Fault, Callable[[], object]]] = {
    "torch": (Fault.MEMORY, lambda: torch.empty(2**50, dtype=torch.uint8)),
    "numpy": (Fault.MEMORY, lambda: np.empty(2**56)),
    "warp": (Fault.MEMORY, lambda: wp.empty((2**20, 2**20, 2**8), dtype=wp.float64, device="cpu")),
    "factorization": (Fault.SYSTEM, _indefinite),
    "shapes": (Fault.SYSTEM, lambda: torch.ones(2) + torch.ones(3)),
    "kernel argument": (Fault.SYSTEM, lambda: wp.array([1.0], dtype=wp.int32, device="nowhere")),
}


@pytest.mark.parametrize("name", REAL)
def test_what_libraries_raise_here(name: str) -> None:
    fault, call = REAL[name]
    with pytest.raises(Exception) as caught:  # of whatever type
        call()
    print(f"{name}: {type(caught.value).__name__}: {str(caught.value)[:100]}")
    assert fault_of(caught.value) is fault


def test_causes_are_looked_at_and_circles_end() -> None:
    memory = torch.OutOfMemoryError("CUDA out of memory")
    try:
        raise RuntimeError("the compiled graph failed") from memory
    except RuntimeError as error:
        assert fault_of(error) is Fault.MEMORY
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert fault_of(first) is Fault.SYSTEM


@pytest.mark.parametrize(
    ("text", "by_kernel"),
    [("CUDA error: device-side assert triggered", True), ("CUDA error: uncorrectable ECC error encountered", False)],
)
def test_a_lost_device_says_whether_a_kernel_did_it(text: str, by_kernel: bool) -> None:
    lost = lost_device(torch.AcceleratorError(text + _TORCH_HINT), 7)
    assert lost.by_kernel is by_kernel
    assert fault_of(lost) is Fault.DEVICE
    assert str(lost).startswith(f"the GPU is lost to this process since a call with 7 systems in the batch (AcceleratorError: {text});")
    assert ("next attempts look for the culprit" in str(lost)) is by_kernel
