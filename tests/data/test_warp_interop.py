"""Launching: what is written where, that recorded commands follow changing tensors, and what is refused."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from functools import cache
from pathlib import Path

import pytest
import torch
from launch_kernels import combine_kernel, scale_kernel

from campaign.data.warp_interop import PRECISIONS, launch, precision_of
from campaign.errors import ContractError

CPU = torch.device("cpu")


@cache
def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_recorded_command_follows_new_tensors_shapes_and_numbers(dtype: torch.dtype) -> None:
    kernel = combine_kernel(precision_of(dtype))
    for n_rows, width, factor, offset in [(3, 2, 2.0, 1), (3, 2, 2.0, 1), (3, 2, 0.5, -4), (5, 7, 0.5, -4), (1, 1, 0.0, 0), (3, 2, 2.0, 1)]:
        vectors = random((n_rows, 3), dtype, n_rows).clone()
        matrices = random((n_rows, 3, 3), dtype, width).clone()
        counts = torch.arange(n_rows * width, dtype=torch.int32).reshape(n_rows, width).contiguous()
        mask = torch.arange(n_rows) % 2 == 0
        result = torch.full((n_rows,), float("nan"), dtype=dtype)
        launch(kernel, n_rows, [vectors, matrices, counts, mask, factor, offset, result], CPU)
        expected = torch.where(
            mask, (vectors @ torch.ones(3, dtype=dtype)) * factor + matrices[:, 0, 1] + counts.sum(1).to(dtype) + offset, 0
        )
        torch.testing.assert_close(result, expected.to(dtype))


def test_fewer_threads_than_rows_leave_the_rest() -> None:
    x = torch.ones(4, dtype=torch.float64)
    launch(scale_kernel(precision_of(torch.float64)), 2, [x, 3.0], CPU)
    assert x.tolist() == [3.0, 3.0, 1.0, 1.0]
    launch(scale_kernel(precision_of(torch.float64)), 0, [x, 3.0], CPU)
    assert x.tolist() == [3.0, 3.0, 1.0, 1.0]


def test_view_into_a_larger_tensor_is_written_in_place() -> None:
    whole = torch.ones(3, 4, dtype=torch.float64)
    launch(scale_kernel(precision_of(torch.float64)), 4, [whole[1], 5.0], CPU)
    assert whole.sum(1).tolist() == [4.0, 20.0, 4.0]


def test_no_tensor_is_kept_alive() -> None:
    x = torch.ones(4, dtype=torch.float64)
    launch(scale_kernel(precision_of(torch.float64)), 4, [x, 3.0], CPU)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


def test_threads_do_not_share_arguments() -> None:
    kernel = scale_kernel(precision_of(torch.float64))
    results: list[bool] = []

    def work(seed: int) -> None:
        for repeat in range(200):
            x = torch.full((50,), float(seed), dtype=torch.float64)
            launch(kernel, 50, [x, 2.0 + repeat], CPU)
            results.append(bool((x == seed * (2.0 + repeat)).all()))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 600
    assert all(results)


@pytest.mark.parametrize(
    ("tensor", "seen"),
    [
        (torch.ones(4), r"torch\.float32 of shape \(4,\)"),
        (torch.ones(4, 2, dtype=torch.float64), r"shape \(4, 2\)"),
        (torch.ones(8, dtype=torch.float64)[::2], "not contiguous"),
        (torch.ones(4, dtype=torch.float64, device="meta"), "on meta"),
    ],
)
def test_tensor_that_does_not_fit_is_refused(tensor: torch.Tensor, seen: str) -> None:
    kernel = scale_kernel(precision_of(torch.float64))
    with pytest.raises(ContractError, match=rf"kernel 'scale', argument 'x': got .*{seen}.* it takes contiguous torch.float64 .* Convert"):
        launch(kernel, 4, [tensor, 2.0], CPU)
    x = torch.ones(4, dtype=torch.float64)
    launch(kernel, 4, [x, 2.0], CPU)
    assert x.tolist() == [2.0] * 4


def test_trailing_shape_is_checked() -> None:
    inputs = [torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 3, 3, dtype=torch.float64), torch.ones(2, 2, dtype=torch.int32)]
    inputs += [torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.float64)]
    with pytest.raises(ContractError, match=r"argument 'vectors': got .* 2 dimensions ending in 3"):
        launch(combine_kernel(precision_of(torch.float64)), 2, [*inputs[:4], 1.0, 1, inputs[4]], CPU)


def test_wrong_number_of_arguments() -> None:
    with pytest.raises(ContractError, match=r"'scale' was launched with 1 arguments; it has 2\. Pass one for each"):
        launch(scale_kernel(precision_of(torch.float64)), 4, [torch.ones(4, dtype=torch.float64)], CPU)


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ContractError, match=r"torch\.float16; kernels exist in float64 and float32\. Convert"):
        precision_of(torch.float16)


def test_start_is_silent() -> None:
    run = subprocess.run([sys.executable, "-c", "import campaign.data.warp_interop"], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_processes_compile_at_once_for_the_first_time(tmp_path: Path) -> None:
    code = (
        "import torch; from campaign.data.warp_interop import launch, precision_of; from launch_kernels import scale_kernel;"
        "x = torch.ones(3, dtype=torch.float64); launch(scale_kernel(precision_of(x.dtype)), 3, [x, 7.0], x.device); print(x.sum())"
    )
    environment = {**os.environ, "WARP_CACHE_PATH": str(tmp_path / "wärp cache"), "PYTHONPATH": str(Path(__file__).parent)}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outputs = [run.communicate(timeout=280) for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, outputs
    assert outputs == [("tensor(21., dtype=torch.float64)\n", "")] * 4
    assert list(tmp_path.rglob("*.o")), "nothing was compiled there"
