# mypy: ignore-errors
"""Warp kernels of the integrators: kick, drift and thermostat, one thread per atom.

Each thread reads and writes one atom, so the bits of a system do not depend on its batch mates. A component marked in `fixed` does not
move and has no velocity. Systems that are not `active` are left untouched.

`dt` is in ASE's unit of time, Å·sqrt(amu/eV); `kt` in eV; `friction` in its inverse. Annotations of kernels must be
types when they are defined, not strings, so this file does without `from __future__ import annotations`; to mypy they are none.
"""

from functools import cache

import warp as wp

from campaign.data.warp_interop import Precision
from campaign.dynamics.integrators.philox import normals

__all__ = ["baoa_kernel", "kick_drift_kernel", "kick_kernel"]


@cache
def kick_drift_kernel(p: Precision) -> wp.Kernel:
    """Velocity Verlet before the forces: v += f/m·dt/2, then x += v·dt."""
    real, vec3 = p.real, p.vec3

    @wp.kernel(enable_backward=False, module="unique")
    def kick_drift(
        positions: wp.array(dtype=vec3),
        velocities: wp.array(dtype=vec3),
        forces: wp.array(dtype=vec3),
        masses: wp.array(dtype=real),
        fixed: wp.array2d(dtype=wp.bool),
        dt: wp.array(dtype=real),
        active: wp.array(dtype=wp.bool),
        batch_idx: wp.array(dtype=wp.int32),
    ):
        atom = wp.tid()
        system = batch_idx[atom]
        if active[system]:
            v = velocities[atom] + forces[atom] * (real(0.5) * dt[system] / masses[atom])
            for axis in range(3):
                if fixed[atom, axis]:
                    v[axis] = real(0.0)
            velocities[atom] = v
            positions[atom] = positions[atom] + v * dt[system]

    return kick_drift


@cache
def kick_kernel(p: Precision) -> wp.Kernel:
    """Half a kick: v += f/m·dt/2, which ends both integrators' steps."""
    real, vec3 = p.real, p.vec3

    @wp.kernel(enable_backward=False, module="unique")
    def kick(
        velocities: wp.array(dtype=vec3),
        forces: wp.array(dtype=vec3),
        masses: wp.array(dtype=real),
        fixed: wp.array2d(dtype=wp.bool),
        dt: wp.array(dtype=real),
        active: wp.array(dtype=wp.bool),
        batch_idx: wp.array(dtype=wp.int32),
    ):
        atom = wp.tid()
        system = batch_idx[atom]
        if active[system]:
            v = velocities[atom] + forces[atom] * (real(0.5) * dt[system] / masses[atom])
            for axis in range(3):
                if fixed[atom, axis]:
                    v[axis] = real(0.0)
            velocities[atom] = v

    return kick


@cache
def baoa_kernel(p: Precision) -> wp.Kernel:
    """BAOAB Langevin before the forces: half a kick, half a drift, the exact Ornstein–Uhlenbeck step over dt, half a drift."""
    real, vec3 = p.real, p.vec3

    @wp.kernel(enable_backward=False, module="unique")
    def baoa(
        positions: wp.array(dtype=vec3),
        velocities: wp.array(dtype=vec3),
        forces: wp.array(dtype=vec3),
        masses: wp.array(dtype=real),
        fixed: wp.array2d(dtype=wp.bool),
        dt: wp.array(dtype=real),
        kt: wp.array(dtype=real),
        friction: wp.array(dtype=real),
        seed: wp.int32,
        system_id: wp.array(dtype=wp.int64),
        step: wp.array(dtype=wp.int64),
        active: wp.array(dtype=wp.bool),
        batch_idx: wp.array(dtype=wp.int32),
        batch_ptr: wp.array(dtype=wp.int32),
    ):
        atom = wp.tid()
        system = batch_idx[atom]
        if active[system]:
            half = real(0.5) * dt[system]
            decay = wp.exp(-friction[system] * dt[system])
            # 1 - decay² without cancellation at weak friction would need expm1; below 1e-8 per step it is lost in rounding anyway.
            width = wp.sqrt(kt[system] / masses[atom] * (real(1.0) - decay * decay))
            noise = normals(seed, system_id[system], step[system], atom - batch_ptr[system])
            x = positions[atom]
            v = velocities[atom] + forces[atom] * (half / masses[atom])
            for axis in range(3):
                if fixed[atom, axis]:
                    v[axis] = real(0.0)
                else:
                    x[axis] = x[axis] + half * v[axis]
                    v[axis] = decay * v[axis] + width * real(noise[axis])
                    x[axis] = x[axis] + half * v[axis]
            positions[atom] = x
            velocities[atom] = v

    return baoa
