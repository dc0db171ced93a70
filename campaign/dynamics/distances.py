# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
# The kernel below is written in Warp's language, whose types are values here; a Python type checker has nothing to say about it.
# In it, int(0) and bool(True) declare variables; bare literals would be constants.
"""Contacts of each system, periodic images included, as checks on what comes out: the shortest distance over the sum of the two covalent
radii, and the number of fragments that bonds hold together.

All pairs and all images that can be bonds, or shorter than the shortest found so far, are looked at, without a neighbour list: it is done
once per system, when it ends. An image with shift s lies at least (|s + f_k|) h_k away, with f_k the pair's fractional distance along k,
wrapped to ±½, and h_k the spacing of the planes along k. So images beyond r/h_k + ½ need not be looked at, and small or skewed cells come
out right.
"""

from functools import cache
from typing import Final, NamedTuple

import torch
import warp as wp
from ase.data import covalent_radii
from jaxtyping import Float, Int64
from torch import Tensor

from campaign.data import Batch
from campaign.data.warp_interop import Precision, launch, precision_of

__all__ = ["BOND_RATIO", "Contacts", "contacts"]

BOND_RATIO: Final = 1.3
"""Two atoms are bonded at up to this times the sum of their covalent radii."""

_MOST_IMAGES = wp.constant(200_000)
"""Images beyond which a cell has collapsed and no number means anything."""


class Contacts(NamedTuple):
    """Contacts of N systems."""

    shortest_ratio: Float[Tensor, "N 1"]
    """NaN for a lone atom without images, a collapsed cell, or a position that is not finite."""
    n_fragments: Int64[Tensor, "N 1"]
    """Groups of atoms that bonds connect; an atom and its images are one. 0 without atoms, in a collapsed cell, or if a position is not
    finite."""


def contacts(batch: Batch) -> Contacts:
    """Return the contacts of each system.

    >>> import numpy as np
    >>> h2_and_h = np.array([[0.0, 0, 0], [0, 0, 0.62], [0, 0, 9]])
    >>> ratio, n = contacts(Batch.from_arrays([3], {"positions": h2_and_h, "atomic_numbers": np.array([1, 1, 1])}, {}))
    >>> round(float(ratio), 3), int(n)
    (1.0, 2)
    """
    positions = batch["positions"]
    n, device, dtype = batch.num_graphs, batch.device, positions.dtype
    radii = torch.as_tensor(covalent_radii, dtype=dtype, device=device)
    cell = batch["cell"] if "cell" in batch else torch.zeros(n, 3, 3, dtype=dtype, device=device)
    pbc = batch["pbc"] if "pbc" in batch else torch.zeros(n, 3, dtype=torch.bool, device=device)
    numbers = batch["atomic_numbers"].clamp(0, len(radii) - 1)
    ratio = torch.zeros(n, 1, dtype=dtype, device=device)
    n_fragments = torch.zeros(n, 1, dtype=torch.int64, device=device)
    parents = torch.arange(batch.num_nodes, dtype=torch.int32, device=device)
    arguments = [batch.batch_ptr, positions, radii[numbers], cell, pbc, BOND_RATIO, parents, ratio, n_fragments]
    launch(_kernel(precision_of(dtype)), n, arguments, device)
    return Contacts(ratio, n_fragments)


@cache
def _kernel(precision: Precision) -> wp.Kernel:
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    zero = real(0.0)
    half = real(0.5)

    @wp.func
    def row(m: mat33, k: wp.int32) -> vec3:
        return vec3(m[k, 0], m[k, 1], m[k, 2])

    @wp.func
    def reach(distance: real, spacing: real) -> wp.int32:
        """Largest shift that can be nearer than `distance`."""
        n = int(0)
        if spacing > zero:
            n = int(wp.floor(wp.min(distance / spacing + half, real(1.0e4))))
        return n

    @wp.func
    def root(parents: wp.array(dtype=wp.int32), atom: wp.int32) -> wp.int32:
        """The atom that stands for the fragment of this one; the way there is halved."""
        at = int(atom)
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    @wp.kernel(enable_backward=False, module="unique")
    def find_contacts(
        ptr: wp.array(dtype=wp.int32),
        positions: wp.array(dtype=vec3),
        radii: wp.array(dtype=real),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        bond_ratio: real,
        parents: wp.array(dtype=wp.int32),
        ratio: wp.array2d(dtype=real),
        n_fragments: wp.array2d(dtype=wp.int64),
    ):
        s = wp.tid()
        a = row(cell[s], 0)
        b = row(cell[s], 1)
        c = row(cell[s], 2)
        along_a = pbc[s, 0] and wp.dot(a, a) > zero
        along_b = pbc[s, 1] and wp.dot(b, b) > zero
        along_c = pbc[s, 2] and wp.dot(c, c) > zero
        # Directions that do not repeat get vectors across the others, so that every system has dual vectors.
        x = vec3(real(1.0), zero, zero)
        y = vec3(zero, real(1.0), zero)
        z = vec3(zero, zero, real(1.0))
        u = a
        v = b
        w = c
        if not along_a:
            u = vec3()
        if not along_b:
            v = vec3()
        if not along_c:
            w = vec3()
        for turn in range(3):
            known = vec3()
            other = vec3()
            if turn == 0 and not along_a:
                known = v
                other = w
            if turn == 1 and not along_b:
                known = w
                other = u
            if turn == 2 and not along_c:
                known = u
                other = v
            missing = (turn == 0 and not along_a) or (turn == 1 and not along_b) or (turn == 2 and not along_c)
            if missing:
                made = wp.cross(known, other)
                if wp.dot(made, made) == zero:
                    only = known
                    if wp.dot(only, only) == zero:
                        only = other
                    # Across the one vector that there is, or the axes if there is none.
                    made = wp.cross(only, x)
                    if wp.dot(wp.cross(only, y), wp.cross(only, y)) > wp.dot(made, made):
                        made = wp.cross(only, y)
                    if wp.dot(wp.cross(only, z), wp.cross(only, z)) > wp.dot(made, made):
                        made = wp.cross(only, z)
                    if wp.dot(made, made) == zero:
                        made = x
                        if turn == 1:
                            made = y
                        if turn == 2:
                            made = z
                made = wp.normalize(made)
                if turn == 0:
                    u = made
                if turn == 1:
                    v = made
                if turn == 2:
                    w = made
        volume = wp.dot(u, wp.cross(v, w))
        dual_u = wp.cross(v, w) / volume
        dual_v = wp.cross(w, u) / volume
        dual_w = wp.cross(u, v) / volume
        h_u = zero
        h_v = zero
        h_w = zero
        if along_a:
            h_u = real(1.0) / wp.length(dual_u)
        if along_b:
            h_v = real(1.0) / wp.length(dual_v)
        if along_c:
            h_w = real(1.0) / wp.length(dual_w)

        # Of a pair nearer than half of it no image but the wrapped one can be as near.
        narrowest = real(1.0e30)
        if along_a:
            narrowest = wp.min(narrowest, h_u)
        if along_b:
            narrowest = wp.min(narrowest, h_v)
        if along_c:
            narrowest = wp.min(narrowest, h_w)

        best = real(-1.0)
        fragments = ptr[s + 1] - ptr[s]
        for i in range(ptr[s], ptr[s + 1]):
            for j in range(i, ptr[s + 1]):
                d = positions[j] - positions[i]
                if along_a:
                    d -= u * wp.rint(wp.dot(dual_u, d))
                if along_b:
                    d -= v * wp.rint(wp.dot(dual_v, d))
                if along_c:
                    d -= w * wp.rint(wp.dot(dual_w, d))
                wrapped = wp.dot(d, d)
                if not wp.isfinite(wrapped):
                    ratio[s, 0] = wp.sqrt(real(-1.0))
                    return
                both = radii[i] + radii[j]
                if best >= zero and i != j:
                    # Most pairs are neither a bond nor nearer than the nearest so far.
                    matters = wp.max(best, bond_ratio) * both
                    if wrapped > matters * matters and real(2.0) * matters < narrowest:
                        continue
                limit = wp.sqrt(wrapped)
                if i == j:
                    # The nearest image of an atom is no further than its shortest cell vector.
                    limit = real(-1.0)
                    if along_a:
                        limit = wp.length(a)
                    if along_b and (limit < zero or wp.length(b) < limit):
                        limit = wp.length(b)
                    if along_c and (limit < zero or wp.length(c) < limit):
                        limit = wp.length(c)
                    if limit < zero:
                        continue
                if best >= zero:
                    limit = wp.min(limit, wp.max(best, bond_ratio) * both)
                n_u = reach(limit, h_u)
                n_v = reach(limit, h_v)
                n_w = reach(limit, h_w)
                images = real(2 * n_u + 1) * real(2 * n_v + 1) * real(2 * n_w + 1)
                if not (images <= real(_MOST_IMAGES)):
                    ratio[s, 0] = wp.sqrt(real(-1.0))
                    return
                nearest = real(-1.0)
                for p in range(-n_u, n_u + 1):
                    for q in range(-n_v, n_v + 1):
                        for r in range(-n_w, n_w + 1):
                            if i != j or p != 0 or q != 0 or r != 0:
                                image = d + u * real(p) + v * real(q) + w * real(r)
                                square = wp.dot(image, image)
                                if nearest < zero or square < nearest:
                                    nearest = square
                if nearest >= zero:
                    found = wp.sqrt(nearest) / both
                    if best < zero or found < best:
                        best = found
                    if i != j and found <= bond_ratio:
                        first = root(parents, i)
                        second = root(parents, j)
                        if first != second:
                            parents[wp.max(first, second)] = wp.min(first, second)
                            fragments -= 1
        if best < zero:
            best = wp.sqrt(real(-1.0))
        ratio[s, 0] = best
        n_fragments[s, 0] = wp.int64(fragments)

    return find_contacts
