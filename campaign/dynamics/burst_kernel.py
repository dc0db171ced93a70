# mypy: ignore-errors
# ruff: noqa: UP018, RUF046
# The kernel below is written in Warp's language, whose types are values here; a Python type checker has nothing to say about it.
"""Many steps of all systems in one launch, one thread per system: moving, neighbour list, energy and forces, averages, judging.

What is done to a system is what `Optimizer`, `VerletList`, `KernelModel` and `Exits` do to it step by step, by the same functions in the
same order, so it ends with the same bits. `forces` and `stress` are what is followed and judged: the model's own, in the same arrays, where
nobody keeps symmetry. A system stops early when it has ended, or when only the host can make its list: that is too
large for the search done here, or wider than the rows. It is then `pending`, which means moved and not yet evaluated, as a new system is.
"""

from functools import cache

import torch
import warp as wp

from campaign.data.warp_interop import PRECISIONS
from campaign.dynamics.exit_kernels import exit_function
from campaign.dynamics.optimizers.step_kernel import Rule
from campaign.dynamics.symmetry_kernel import average_function
from campaign.models.loops import Loops, near_list_function, system_function
from campaign.neighbors.search import LARGE_SYSTEM
from campaign.neighbors.search_kernel import measure_cell, search_function
from campaign.neighbors.skin_kernel import outgrown_function

__all__ = ["burst_kernel"]


@cache
def burst_kernel(rule: Rule, loops: Loops) -> wp.Kernel:
    """Return the kernel for one optimizer and one potential, in float64, in which neighbour searches are."""
    precision = PRECISIONS[torch.float64]
    real, vec3, mat33 = precision.real, precision.vec3, precision.mat33
    follow = rule(precision)
    evaluate = system_function(precision, loops)
    judge = exit_function(precision)
    average = average_function(precision)
    is_outgrown = outgrown_function(precision)
    search_rows = search_function(precision)
    make_near_list = near_list_function()
    large = wp.constant(LARGE_SYSTEM)

    @wp.func
    def note_geometry(
        i: wp.int32,
        begin: wp.int32,
        end: wp.int32,
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        duals: wp.array(dtype=mat33),
        old_positions: wp.array(dtype=vec3),
        old_cell: wp.array(dtype=mat33),
        old_duals: wp.array(dtype=mat33),
        old_pbc: wp.array2d(dtype=wp.bool),
    ):
        """Note where system i is when a list of it is made."""
        for j in range(begin, end):
            old_positions[j] = positions[j]
        old_cell[i] = cell[i]
        old_duals[i] = duals[i]
        for k in range(3):
            old_pbc[i, k] = pbc[i, k]

    @wp.func
    def renew_list(
        i: wp.int32,
        begin: wp.int32,
        end: wp.int32,
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        old_positions: wp.array(dtype=vec3),
        old_cell: wp.array(dtype=mat33),
        old_duals: wp.array(dtype=mat33),
        old_pbc: wp.array2d(dtype=wp.bool),
        duals: wp.array(dtype=mat33),
        reach: wp.array(dtype=vec3),
        cell_state: wp.array(dtype=wp.int32),
        radius: real,
    ) -> bool:
        """Make the rows of system i anew; return whether that could be done here."""
        if end - begin >= large:
            return False
        measure_cell(i, cell, pbc, radius, duals, reach, cell_state)
        if cell_state[i] != 0:
            return False
        longest = search_rows(
            i,
            begin,
            end,
            begin,
            end,
            positions,
            cell,
            duals,
            reach,
            cell_state,
            radius,
            1,
            1,
            -1,
            neighbor_matrix,
            shifts,
            num_neighbors,
        )
        if longest > neighbor_matrix.shape[1]:
            return False
        note_geometry(i, begin, end, positions, cell, pbc, duals, old_positions, old_cell, old_duals, old_pbc)
        return True

    @wp.kernel(enable_backward=False, module="unique")
    def burst(
        most_steps: wp.int32,
        pending: wp.array(dtype=wp.bool),
        ptr: wp.array(dtype=wp.int32),
        fixed: wp.array2d(dtype=wp.bool),
        any_fixed: wp.int32,
        energy: wp.array2d(dtype=real),
        forces: wp.array(dtype=vec3),
        stress: wp.array(dtype=mat33),
        pbc: wp.array2d(dtype=wp.bool),
        positions: wp.array(dtype=vec3),
        cell: wp.array(dtype=mat33),
        last_positions: wp.array(dtype=vec3),
        last_cell: wp.array(dtype=mat33),
        cell_mode: wp.int32,
        pressure: real,
        cell_length: real,
        max_strain: real,
        motion: wp.array(dtype=vec3),
        state: wp.array2d(dtype=real),
        counts: wp.array2d(dtype=wp.int32),
        atom_state: wp.array2d(dtype=vec3),
        numbers: wp.array(dtype=real),
        keeps_symmetry: wp.int32,
        root: wp.array2d(dtype=wp.int32),
        matrix: wp.array(dtype=mat33),
        projector: wp.array3d(dtype=real),
        model_forces: wp.array(dtype=vec3),
        model_stress: wp.array(dtype=mat33),
        atomic_numbers: wp.array(dtype=wp.int64),
        table: wp.array(dtype=real),
        scratch: wp.array(dtype=real),
        neighbor_matrix: wp.array2d(dtype=wp.int32),
        num_neighbors: wp.array(dtype=wp.int32),
        shifts: wp.array2d(dtype=wp.vec3i),
        old_positions: wp.array(dtype=vec3),
        old_cell: wp.array(dtype=mat33),
        old_duals: wp.array(dtype=mat33),
        old_pbc: wp.array2d(dtype=wp.bool),
        duals: wp.array(dtype=mat33),
        reach: wp.array(dtype=vec3),
        cell_state: wp.array(dtype=wp.int32),
        cutoff: real,
        skin: real,
        radius: real,
        near: wp.array(dtype=wp.int32),
        near_counts: wp.array(dtype=wp.int32),
        near_reach: wp.array(dtype=wp.int32),
        near_positions: wp.array(dtype=vec3),
        near_cell: wp.array(dtype=mat33),
        near_duals: wp.array(dtype=mat33),
        near_pbc: wp.array2d(dtype=wp.bool),
        near_cutoff: real,
        near_skin: real,
        near_radius: real,
        n_steps: wp.array2d(dtype=wp.int64),
        status: wp.array2d(dtype=wp.int64),
        outcome: wp.array2d(dtype=wp.int64),
        cause: wp.array2d(dtype=wp.int64),
        fmax: wp.array2d(dtype=real),
        smax: wp.array2d(dtype=real),
        initial_energy: wp.array2d(dtype=real),
        initial_volume: wp.array2d(dtype=real),
        volume_ratio: wp.array2d(dtype=real),
        newly: wp.array(dtype=wp.bool),
        tally: wp.array(dtype=wp.int32),
        exit_status: wp.int32,
        max_steps: wp.int32,
        fmax_threshold: real,
        smax_threshold: real,
        energy_bound: real,
        force_bound: real,
        volume_bound: real,
    ):
        i = wp.tid()
        begin = ptr[i]
        end = ptr[i + 1]
        steps = int(0)
        goes_on = bool(True)
        with_stress = int(0)
        if cell_mode != 0:
            with_stress = 1
        if outcome[i, 0] >= wp.int64(0):
            goes_on = False
            judge(
                i,
                ptr,
                fixed,
                any_fixed,
                energy,
                forces,
                stress,
                cell,
                pbc,
                n_steps,
                status,
                outcome,
                cause,
                fmax,
                smax,
                initial_energy,
                initial_volume,
                volume_ratio,
                newly,
                tally,
                1,
                cell_mode,
                pressure,
                exit_status,
                max_steps,
                fmax_threshold,
                smax_threshold,
                energy_bound,
                force_bound,
                volume_bound,
            )
        while goes_on and steps < most_steps:
            if not pending[i]:
                follow(
                    i,
                    ptr,
                    fixed,
                    any_fixed,
                    energy,
                    forces,
                    stress,
                    pbc,
                    positions,
                    cell,
                    last_positions,
                    last_cell,
                    cell_mode,
                    pressure,
                    cell_length,
                    max_strain,
                    motion,
                    state,
                    counts,
                    atom_state,
                    numbers,
                )
                n_steps[i, 0] = n_steps[i, 0] + wp.int64(1)
                pending[i] = True
            if is_outgrown(i, positions, near_positions, ptr, cell, pbc, near_cell, near_duals, near_pbc, near_cutoff, near_skin):
                if is_outgrown(i, positions, old_positions, ptr, cell, pbc, old_cell, old_duals, old_pbc, cutoff, skin):
                    goes_on = renew_list(
                        i,
                        begin,
                        end,
                        positions,
                        cell,
                        pbc,
                        neighbor_matrix,
                        num_neighbors,
                        shifts,
                        old_positions,
                        old_cell,
                        old_duals,
                        old_pbc,
                        duals,
                        reach,
                        cell_state,
                        radius,
                    )
                if goes_on:
                    measure_cell(i, cell, pbc, near_radius, duals, reach, cell_state)
                    make_near_list(
                        i,
                        ptr,
                        positions,
                        cell,
                        neighbor_matrix,
                        num_neighbors,
                        shifts,
                        near_radius,
                        near,
                        near_counts,
                        near_reach,
                    )
                    note_geometry(i, begin, end, positions, cell, pbc, duals, near_positions, near_cell, near_duals, near_pbc)
            if goes_on:
                evaluate(
                    i,
                    with_stress,
                    ptr,
                    atomic_numbers,
                    positions,
                    cell,
                    pbc,
                    neighbor_matrix,
                    num_neighbors,
                    shifts,
                    near,
                    near_counts,
                    near_reach,
                    table,
                    scratch,
                    energy,
                    model_forces,
                    model_stress,
                )
                if keeps_symmetry != 0:
                    average(i, ptr, root, matrix, projector, model_forces, model_stress, forces, stress)
                pending[i] = False
                steps += 1
                judge(
                    i,
                    ptr,
                    fixed,
                    any_fixed,
                    energy,
                    forces,
                    stress,
                    cell,
                    pbc,
                    n_steps,
                    status,
                    outcome,
                    cause,
                    fmax,
                    smax,
                    initial_energy,
                    initial_volume,
                    volume_ratio,
                    newly,
                    tally,
                    1,
                    cell_mode,
                    pressure,
                    exit_status,
                    max_steps,
                    fmax_threshold,
                    smax_threshold,
                    energy_bound,
                    force_bound,
                    volume_bound,
                )
                if outcome[i, 0] >= wp.int64(0):
                    goes_on = False
                    if with_stress == 0:
                        # Nothing followed the stress, but whoever reads the result wants it.
                        evaluate(
                            i,
                            1,
                            ptr,
                            atomic_numbers,
                            positions,
                            cell,
                            pbc,
                            neighbor_matrix,
                            num_neighbors,
                            shifts,
                            near,
                            near_counts,
                            near_reach,
                            table,
                            scratch,
                            energy,
                            model_forces,
                            model_stress,
                        )

    return burst
