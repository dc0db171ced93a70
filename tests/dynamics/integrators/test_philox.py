"""Philox4x32-10 against the vectors that its authors publish, and what is made of it."""

# No `from __future__ import annotations`: kernels need their annotations as types.

import numpy as np
import pytest
import warp as wp

from campaign.data.warp_interop import initialize_warp
from campaign.dynamics.integrators.philox import MAX_SEED, check_seed, normals, philox4x32
from campaign.errors import ArgumentError

initialize_warp()

# Random123 1.14, tests/kat_vectors, philox4x32 with 10 rounds: counter, key, words.
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@wp.kernel(enable_backward=False)
def words_kernel(counter: wp.array2d(dtype=wp.uint32), key: wp.array2d(dtype=wp.uint32), words: wp.array2d(dtype=wp.uint32)):
    i = wp.tid()
    result = philox4x32(counter[i, 0], counter[i, 1], counter[i, 2], counter[i, 3], key[i, 0], key[i, 1])
    for j in range(4):
        words[i, j] = result[j]


@wp.kernel(enable_backward=False)
def normals_kernel(
    seed: wp.array(dtype=wp.int32),
    system_id: wp.array(dtype=wp.int64),
    step: wp.array(dtype=wp.int64),
    atom: wp.array(dtype=wp.int32),
    out: wp.array(dtype=wp.vec3d),
):
    i = wp.tid()
    out[i] = normals(seed[i], system_id[i], step[i], atom[i])


def draw(seed: object, system_id: object, step: object, atom: object) -> np.ndarray:
    columns = np.broadcast_arrays(*(np.asarray(x, dtype=np.int64) for x in (seed, system_id, step, atom)))
    columns = [np.atleast_1d(column) for column in columns]
    out = wp.zeros(len(columns[0]), dtype=wp.vec3d, device="cpu")
    dtypes = (np.int32, np.int64, np.int64, np.int32)
    arrays = [wp.array(column.astype(dtype), device="cpu") for column, dtype in zip(columns, dtypes, strict=True)]
    wp.launch(normals_kernel, dim=len(out), inputs=[*arrays, out], device="cpu")
    return out.numpy()


def test_published_vectors() -> None:
    counter, key, wanted = (np.array(column, dtype=np.uint32) for column in zip(*KNOWN, strict=True))
    words = wp.zeros((3, 4), dtype=wp.uint32, device="cpu")
    wp.launch(words_kernel, dim=3, inputs=[wp.array(counter, device="cpu"), wp.array(key, device="cpu"), words], device="cpu")
    assert np.array_equal(words.numpy(), wanted)


def test_moments() -> None:
    n = 200_000
    x = draw(7, 3, np.arange(n), 5)
    print("mean", x.mean(axis=0), "variance", x.var(axis=0), "kurtosis", (x**4).mean(axis=0))
    assert np.all(np.abs(x.mean(axis=0)) < 5 / np.sqrt(n))
    assert np.all(np.abs(x.var(axis=0) - 1) < 5 * np.sqrt(2 / n))
    assert np.all(np.abs((x**4).mean(axis=0) - 3) < 5 * np.sqrt(96 / n))
    assert np.all(np.abs(np.corrcoef(x.T) - np.eye(3)) < 5 / np.sqrt(n))
    assert np.all(np.abs((x[1:] * x[:-1]).mean(axis=0)) < 5 / np.sqrt(n))


def test_the_whole_distribution() -> None:
    from scipy.stats import kstest

    x = draw(1, 2, np.arange(50_000), 0).ravel()
    assert kstest(x, "norm").pvalue > 1e-3


def test_each_part_of_the_key_matters() -> None:
    keys = [(1, 2, 3, 4), (5, 2, 3, 4), (1, 5, 3, 4), (1, 2, 5, 4), (1, 2, 3, 5)]
    keys += [(1, 2 + 2**32, 3, 4), (1, -2, 3, 4), (1, -3, 3, 4), (2, 1, 3, 4), (1, 3, 2, 4), (1, 2, 4, 3)]
    x = draw(*zip(*keys, strict=True))
    assert len({tuple(row) for row in x}) == len(keys)
    assert np.array_equal(x, draw(*zip(*keys, strict=True)))


def test_neighbouring_keys_are_independent() -> None:
    n = 50_000
    x = draw(11, np.arange(n), 4, 0)
    ids = np.arange(n)
    for key in ((12, ids, 4, 0), (11, ids, 5, 0), (11, ids, 4, 1), (11, ids + 1, 4, 0)):
        other = draw(*key)
        assert np.all(np.abs((x * other).mean(axis=0)) < 5 / np.sqrt(n))


def test_seeds() -> None:
    assert (check_seed(0), check_seed(MAX_SEED)) == (0, MAX_SEED)
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(ArgumentError, match=f"random_seed is {seed}; it lies between 0 and 2147483647"):
            check_seed(seed)
