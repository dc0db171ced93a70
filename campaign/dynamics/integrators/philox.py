# mypy: ignore-errors
"""Counter-based random numbers: the same (seed, system, step, atom) gives the same numbers, whoever else is in the batch.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A generator with a state would have
to be advanced in the order of the batch, so that a system's noise would depend on its batch mates, on refills and on restarts. Warp's
own generator hashes seed and offset into 32 bits, in which the 10^10 atom-steps of one long run collide; here the counter has 128 bits
and the key 64, and each (seed, system, step, atom) has its own. What kernels are made of has no types that mypy understands.
"""

from __future__ import annotations

import math
from typing import Final

import warp as wp

from campaign.errors import ArgumentError

__all__ = ["MAX_SEED", "check_seed", "normals", "philox4x32"]

MAX_SEED: Final = 2**31 - 1
"""Largest seed."""

_MULTIPLY_0: Final = wp.constant(wp.uint32(0xD2511F53))
_MULTIPLY_1: Final = wp.constant(wp.uint32(0xCD9E8D57))
_WEYL_0: Final = wp.constant(wp.uint32(0x9E3779B9))
_WEYL_1: Final = wp.constant(wp.uint32(0xBB67AE85))
_ROUNDS: Final = wp.constant(10)
_STREAM: Final = wp.constant(wp.uint32(0x4F755374))  # second key word; another value would be another stream of the same seed
_STEP_OF_WORD: Final = wp.constant(wp.float64(2.0**-32))
_TWO_PI: Final = wp.constant(wp.float64(2.0 * math.pi))

_Words = wp.types.vector(length=4, dtype=wp.uint32)


def check_seed(seed: int) -> int:
    """Return `seed` if it is usable.

    Raises:
        ArgumentError: negative, or above `MAX_SEED`.

    >>> check_seed(42)
    42
    """
    if not 0 <= seed <= MAX_SEED:
        raise ArgumentError(f"random_seed is {seed}; it lies between 0 and {MAX_SEED}. Choose another seed.")
    return seed


@wp.func
def _multiply_high(a: wp.uint32, b: wp.uint32) -> wp.uint32:
    return wp.uint32((wp.uint64(a) * wp.uint64(b)) >> wp.uint64(32))


@wp.func
def philox4x32(c0: wp.uint32, c1: wp.uint32, c2: wp.uint32, c3: wp.uint32, k0: wp.uint32, k1: wp.uint32) -> _Words:
    """Return four random words for counter (c0, c1, c2, c3) and key (k0, k1)."""
    for _ in range(_ROUNDS):
        high_0 = _multiply_high(_MULTIPLY_0, c0)
        low_0 = _MULTIPLY_0 * c0
        high_1 = _multiply_high(_MULTIPLY_1, c2)
        low_1 = _MULTIPLY_1 * c2
        c0 = high_1 ^ c1 ^ k0
        c1 = low_1
        c2 = high_0 ^ c3 ^ k1
        c3 = low_0
        k0 = k0 + _WEYL_0
        k1 = k1 + _WEYL_1
    return _Words(c0, c1, c2, c3)


@wp.func
def normals(seed: wp.int32, system_id: wp.int64, step: wp.int64, atom: wp.int32) -> wp.vec3d:
    """Return three independent standard normal numbers for one atom of one system in one step.

    Box–Muller in float64 on 32-bit uniforms (half-open steps, centred, so the logarithm is finite): values up to 6.7 standard deviations.
    """
    words = philox4x32(
        wp.uint32(step),
        wp.uint32(atom),
        wp.uint32(system_id),
        wp.uint32(system_id >> wp.int64(32)),
        wp.uint32(seed),
        _STREAM,
    )
    radius_0 = wp.sqrt(wp.float64(-2.0) * wp.log((wp.float64(words[0]) + wp.float64(0.5)) * _STEP_OF_WORD))
    angle_0 = _TWO_PI * (wp.float64(words[1]) + wp.float64(0.5)) * _STEP_OF_WORD
    radius_1 = wp.sqrt(wp.float64(-2.0) * wp.log((wp.float64(words[2]) + wp.float64(0.5)) * _STEP_OF_WORD))
    angle_1 = _TWO_PI * (wp.float64(words[3]) + wp.float64(0.5)) * _STEP_OF_WORD
    return wp.vec3d(radius_0 * wp.cos(angle_0), radius_0 * wp.sin(angle_0), radius_1 * wp.cos(angle_1))
