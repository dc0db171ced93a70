"""Atoms come back into their cells along periodic directions, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.data import AtomicData, Batch
from campaign.hooks import DynamicsContext, DynamicsStage, Hook, HookContext, WrapPeriodicHook
from campaign.hooks.periodic import wrapped_positions

STAGE = DynamicsStage.AFTER_POST_UPDATE
CELL = [[3.0, 0.3, 0.0], [0.4, 4.0, 0.2], [0.0, -1.0, 5.0]]


def batch_of(*pbc: object, dtype: torch.dtype = torch.float64) -> Batch:
    rng = np.random.default_rng(0)
    structures = [Atoms("Ar9", positions=rng.normal(size=(9, 3)) * 10, cell=CELL, pbc=one) for one in pbc]
    return Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=dtype) for atoms in structures])


def fractional(batch: Batch) -> torch.Tensor:
    return torch.einsum("ai,aij->aj", batch.positions, torch.linalg.inv(batch.cell)[batch.batch_idx])


def test_it_is_a_hook_of_its_stage() -> None:
    assert isinstance(WrapPeriodicHook(), Hook)
    assert WrapPeriodicHook().stage is STAGE
    assert WrapPeriodicHook(frequency=7, stage=DynamicsStage.AFTER_STEP).stage is DynamicsStage.AFTER_STEP


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False), (False, False, False)])
def test_atoms_move_by_whole_periodic_vectors_into_the_cell(pbc: tuple[bool, ...]) -> None:
    batch = batch_of(pbc)
    before, positions = fractional(batch), batch.positions
    WrapPeriodicHook()(HookContext(batch=batch), STAGE)
    assert batch.positions is positions
    whole = before - fractional(batch)
    assert torch.allclose(whole, whole.round(), atol=1e-9)
    assert not whole[:, [not p for p in pbc]].abs().gt(1e-9).any()
    if all(pbc):
        assert ((fractional(batch) > -1e-12) & (fractional(batch) < 1.0)).all()


def test_only_active_systems_are_touched() -> None:
    batch = batch_of(True, True)
    before = batch.positions.clone()
    ctx = DynamicsContext(batch=batch, active_graph_mask=torch.tensor([True, False]))
    WrapPeriodicHook()(ctx, STAGE)
    assert not torch.equal(batch.positions[:9], before[:9])
    assert torch.equal(batch.positions[9:], before[9:])


def test_wrapping_twice_changes_nothing() -> None:
    batch = batch_of(True, [True, False, True])
    hook = WrapPeriodicHook()
    hook(HookContext(batch=batch), STAGE)
    once = batch.positions.clone()
    hook(HookContext(batch=batch), STAGE)
    assert torch.equal(batch.positions, once)


def test_atoms_in_the_cell_keep_their_bits_and_neighbours_stay() -> None:
    batch = Batch.from_data_list([AtomicData.from_atoms(Atoms("Ar2", scaled_positions=[[0.1, 0.2, 0.3], [0, 0, 0]], cell=CELL, pbc=True))])
    batch["num_neighbors"] = torch.zeros(2, dtype=torch.int32)
    before = batch.positions.clone()
    WrapPeriodicHook()(HookContext(batch=batch), STAGE)
    assert torch.equal(batch.positions, before) and "num_neighbors" in batch


@settings(max_examples=50, deadline=None)
@given(st.integers(-10, 10), st.sampled_from([torch.float32, torch.float64]))
def test_atoms_on_faces_are_brought_to_a_face(n: int, dtype: torch.dtype) -> None:
    cell = 3.3 * torch.eye(3, dtype=dtype)[None]
    for offset in (0.0, -1e-17, 1e-17):
        position = (n * cell[0, 0] + offset)[None]
        wrapped = wrapped_positions(position, cell, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.int32))
        # Where rounding has put it below the face, it stays at the end of the cell before.
        assert min(abs(float(wrapped[0, 0])), abs(float(wrapped[0, 0]) - 3.3)) < 1e-5
        assert -1e-16 < float(wrapped[0, 0]) < 3.3000002


def test_batches_without_cells_and_no_batch_are_left_alone() -> None:
    batch = Batch.from_arrays([1], {"positions": np.array([[9.0, 9.0, 9.0]])}, {})
    WrapPeriodicHook()(HookContext(batch=batch), STAGE)
    WrapPeriodicHook()(HookContext(batch=None), STAGE)
    assert batch.positions.tolist() == [[9.0, 9.0, 9.0]]


def test_a_zero_cell_leaves_atoms_where_they_are() -> None:
    batch = batch_of(True)
    batch.cell[0] = 0.0
    before = batch.positions.clone()
    WrapPeriodicHook()(HookContext(batch=batch), STAGE)
    assert torch.equal(batch.positions, before)
