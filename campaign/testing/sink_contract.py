"""What every sink must do, as a class to subclass; usable by whoever writes one.

    class TestMySink(SinkContract):
        def create_sink(self, capacity, folder):
            return MySink(capacity)

The batches here are made so that nothing can be right by chance: systems of different size, custom fields at both levels in many dtypes,
numbers that are not finite, and as many atoms as systems where a level could be guessed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.sinks.base import DataSink
from campaign.errors import ArgumentError, EmptySinkError, FieldError, SinkFullError
from campaign.fields import ERROR_BYTES, NEIGHBOR_KEYS, Level

__all__ = ["SinkContract", "assert_same_systems", "bits", "example_batch", "with_neighbor_matrix"]

SIZES = (3, 1, 7, 2)
"""Atoms of the systems of a usual batch."""


def example_batch(n_atoms: Sequence[int] = SIZES, first_id: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """Return a batch of systems with these numbers of atoms and ids from `first_id` on; every number follows from its system's id.

    >>> example_batch([2, 1], first_id=5).system_id.flatten().tolist()
    [5, 6]
    """
    generators = [np.random.default_rng(first_id + i) for i in range(len(n_atoms))]

    def per_atom(*trailing: int, dtype: torch.dtype = dtype) -> Tensor:
        rows = [g.normal(size=(n, *trailing)) for g, n in zip(generators, n_atoms, strict=True)]
        return torch.from_numpy(np.concatenate(rows)).to(dtype)

    def per_system(*trailing: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.from_numpy(np.stack([g.normal(size=trailing) for g in generators])).to(dtype)

    def whole(values: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
        return (values.abs() * 1e4).to(torch.int64).remainder(high - low).add(low).to(dtype)

    n_systems = len(n_atoms)
    float64 = torch.float64
    atom = {
        "positions": per_atom(3),
        "atomic_numbers": whole(per_atom(dtype=float64), 1, 100, torch.int64),
        "forces": per_atom(3),
        "fixed": per_atom(3) > 0.5,
        "mine_per_atom": per_atom(2, dtype=torch.float32),
        "mine_per_atom_integer": whole(per_atom(dtype=float64), -90, 90, torch.int8),
    }
    energy = per_system(1)
    # Systems that diverged are stored like any other, with what they ended with.
    for position, value in enumerate((float("nan"), float("-inf"), -0.0)):
        energy[position::5] = value
    system = {
        "cell": per_system(3, 3),
        "pbc": per_system(3) > 0,
        "system_id": torch.arange(first_id, first_id + n_systems).unsqueeze(1),
        "energy": energy,
        "outcome": whole(per_system(1, dtype=float64), 0, 4, torch.int64),
        "error": whole(per_system(ERROR_BYTES, dtype=float64), 0, 256, torch.uint8),
        "mine_per_system": per_system(2, 2, dtype=torch.float16),
        "mine_per_system_scalar": per_system(),
        "mine_per_system_bool": per_system() > 0,
        "mine_per_system_integer": whole(per_system(1, dtype=float64), -9, 9, torch.int32),
    }
    return Batch.from_arrays(list(n_atoms), atom, system)


def with_neighbor_matrix(batch: Batch, width: int) -> Batch:
    """Return a copy with a neighbour matrix of this width, in which each atom has the next one of its own system as its neighbour."""
    batch = batch.clone()
    n_atoms = batch.num_nodes
    matrix = torch.full((n_atoms, width), n_atoms, dtype=torch.int32)
    lengths, ptr = batch.num_nodes_per_graph[batch.batch_idx], batch.batch_ptr[batch.batch_idx]
    matrix[:, 0] = ptr + (torch.arange(n_atoms) - ptr + 1) % lengths
    batch["neighbor_matrix"] = matrix
    batch["num_neighbors"] = torch.ones(n_atoms, dtype=torch.int32)
    batch["neighbor_matrix_shifts"] = torch.zeros((n_atoms, width, 3), dtype=torch.int32)
    return batch


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, in which NaN equals itself and 0 does not equal -0."""
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def assert_same_systems(seen: Batch, wanted: Batch, ignore: frozenset[str] = frozenset()) -> None:
    """Assert that two batches have the same systems in the same order: sizes, fields, levels, dtypes, shapes and bits."""
    assert seen.num_nodes_list == wanted.num_nodes_list
    assert _keys(seen) - ignore == _keys(wanted) - ignore
    for key in _keys(wanted) - ignore:
        assert seen.level_of(key) is wanted.level_of(key), key
        assert (seen[key].dtype, seen[key].shape) == (wanted[key].dtype, wanted[key].shape), key
        assert bits(seen[key]) == bits(wanted[key]), key


def _keys(batch: Batch) -> set[str]:
    return {key for key, _ in batch}


def _joined(*batches: Batch) -> Batch:
    joined = batches[0].clone()
    for batch in batches[1:]:
        joined.append(batch)
    return joined


def _state(batch: Batch) -> Mapping[str, Any]:
    """Return all that can change about a batch."""
    return {key: (id(tensor), tensor.data_ptr(), bits(tensor), batch.level_of(key)) for key, tensor in batch}


class SinkContract(ABC):
    """The tests. A subclass makes the sink, and says so where it keeps neighbour data."""

    keeps_neighbor_matrix: ClassVar[bool] = False
    keeps_neighbor_list: ClassVar[bool] = False

    @abstractmethod
    def create_sink(self, capacity: int, folder: Path) -> DataSink:
        """Return a new, empty sink; systems have at most 12 atoms and 12 edges. `folder` is empty, and the test's own."""

    @pytest.fixture
    def sink(self, tmp_path: Path) -> Any:
        """A sink with room for 10 systems."""
        with self.create_sink(10, tmp_path) as sink:
            yield sink

    def test_is_a_data_sink(self, sink: DataSink) -> None:
        assert isinstance(sink, DataSink)
        assert (len(sink), sink.capacity, sink.is_full) == (0, 10, False)
        assert (sink.local_rank, sink.global_rank) == (0, 0)

    # What is written is read

    def test_every_field_comes_back(self, sink: DataSink) -> None:
        batch = example_batch()
        sink.write(batch)
        assert len(sink) == batch.num_graphs
        assert_same_systems(sink.read(), batch)

    def test_dtypes_come_back(self, sink: DataSink) -> None:
        batch = example_batch(dtype=torch.float32)
        sink.write(batch)
        assert sink.read()["positions"].dtype == torch.float32
        assert_same_systems(sink.read(), batch)

    def test_levels_are_declared(self, sink: DataSink) -> None:
        # One atom per system: a level guessed from the number of rows would be wrong for half of the fields.
        batch = example_batch([1, 1, 1])
        sink.write(batch)
        read = sink.read()
        assert (read.level_of("mine_per_atom_integer"), read.level_of("mine_per_system_scalar")) == (Level.ATOM, Level.SYSTEM)
        assert_same_systems(read, batch)

    def test_order_is_that_of_writing(self, sink: DataSink) -> None:
        parts = [example_batch([3, 1], 40), example_batch([5], 20), example_batch([2, 2, 9], 30)]
        for part in parts:
            sink.write(part)
        assert_same_systems(sink.read(), _joined(*parts))

    def test_reading_takes_nothing_away(self, sink: DataSink) -> None:
        sink.write(example_batch())
        first = sink.read()
        sink.write(example_batch([4], 50))
        assert_same_systems(sink.read(), _joined(first, example_batch([4], 50)))

    def test_systems_may_have_no_atoms(self, sink: DataSink) -> None:
        batch = example_batch([0, 2, 0])
        sink.write(batch)
        assert_same_systems(sink.read(), batch)

    def test_like_a_list(self, sink: DataSink) -> None:
        # Random writes with random masks, against a list of systems.
        generator = np.random.default_rng(0)
        twin: list[Batch] = []
        for first_id in range(0, 1000, 50):
            batch = example_batch(generator.integers(1, 13, size=generator.integers(1, 5)).tolist(), first_id)
            mask = torch.from_numpy(generator.random(batch.num_graphs) < 0.6)
            chosen = [batch.index_select([i]) for i in torch.nonzero(mask).flatten().tolist()]
            if len(twin) + len(chosen) > 10:
                with pytest.raises(SinkFullError):
                    sink.write(batch, mask)
                assert_same_systems(sink.drain(), _joined(*twin))
                twin = []
            sink.write(batch, mask)
            twin += chosen
            assert (len(sink), sink.is_full) == (len(twin), len(twin) >= 10)
        if twin:
            assert_same_systems(sink.read(), _joined(*twin))

    # Masks

    def test_mask_selects(self, sink: DataSink) -> None:
        batch = example_batch()
        sink.write(batch, torch.tensor([True, False, True, False]))
        assert_same_systems(sink.read(), batch.index_select([0, 2]))

    def test_mask_of_all(self, sink: DataSink) -> None:
        batch = example_batch()
        sink.write(batch, mask=torch.ones(4, dtype=torch.bool))
        assert_same_systems(sink.read(), batch)

    def test_mask_of_none(self, sink: DataSink) -> None:
        sink.write(example_batch(), mask=torch.zeros(4, dtype=torch.bool))
        assert len(sink) == 0

    @pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (0,), ()])
    def test_mask_of_wrong_length(self, sink: DataSink, shape: tuple[int, ...]) -> None:
        with pytest.raises(ArgumentError, match=r"mask of shape .* batch of 4 systems; it must have shape \(4,\)"):
            sink.write(example_batch(), mask=torch.ones(shape, dtype=torch.bool))
        assert issubclass(ArgumentError, ValueError)
        assert len(sink) == 0

    # Nothing

    def test_a_batch_without_systems(self, sink: DataSink) -> None:
        sink.write(Batch.empty_like(example_batch()))
        assert len(sink) == 0
        sink.write(example_batch())
        sink.write(Batch.empty_like(example_batch()))
        assert len(sink) == 4

    def test_empty_read(self, sink: DataSink) -> None:
        for read in (sink.read, sink.drain):
            with pytest.raises(EmptySinkError, match=r"read while empty; .* Write to it first"):
                read()
        assert issubclass(EmptySinkError, RuntimeError)

    # Full

    def test_full(self, sink: DataSink) -> None:
        sink.write(example_batch())
        sink.write(example_batch(first_id=10))
        before = sink.read()
        with pytest.raises(SinkFullError, match=r"holds 8 of 10 systems and 4 more do not fit; nothing was written"):
            sink.write(example_batch(first_id=20))
        assert issubclass(SinkFullError, RuntimeError)
        assert_same_systems(sink.read(), before)
        sink.write(example_batch(first_id=20), mask=torch.tensor([False, True, True, False]))
        assert sink.is_full
        with pytest.raises(SinkFullError):
            sink.write(example_batch([1], 30))
        assert_same_systems(sink.read(), _joined(before, example_batch(first_id=20).index_select([1, 2])))

    def test_more_than_the_capacity(self, sink: DataSink) -> None:
        with pytest.raises(SinkFullError):
            sink.write(example_batch([1] * 11))
        assert len(sink) == 0
        with pytest.raises(EmptySinkError):
            sink.read()

    @pytest.mark.parametrize("capacity", [0, -1, 2.5, True])
    def test_capacity_is_a_count(self, tmp_path: Path, capacity: Any) -> None:
        with pytest.raises(ArgumentError, match="capacity of a sink is"):
            self.create_sink(capacity, tmp_path)

    # Clearing

    def test_zero(self, sink: DataSink) -> None:
        sink.write(example_batch())
        sink.zero()
        assert (len(sink), sink.is_full) == (0, False)
        with pytest.raises(EmptySinkError):
            sink.read()
        sink.zero()
        sink.write(example_batch([2], 9))
        assert_same_systems(sink.read(), example_batch([2], 9))

    def test_zero_forgets_the_fields(self, sink: DataSink) -> None:
        sink.write(example_batch())
        sink.zero()
        other = example_batch(dtype=torch.float32)
        del other["forces"]
        sink.write(other)
        assert_same_systems(sink.read(), other)

    def test_drain(self, sink: DataSink) -> None:
        sink.write(example_batch())
        assert_same_systems(sink.drain(), example_batch())
        assert len(sink) == 0

    # Other fields

    def test_other_fields_are_refused(self, sink: DataSink) -> None:
        sink.write(example_batch())
        missing, new, retyped, reshaped = (example_batch(first_id=10) for _ in range(4))
        del missing["mine_per_atom"]
        new["another"] = torch.zeros(4, 1)
        retyped.add_key("mine_per_atom", retyped["mine_per_atom"].double(), level="node", overwrite=True)
        reshaped.add_key("mine_per_system", torch.zeros(4, 3, dtype=torch.float16), level="system", overwrite=True)
        for batch, words in (
            (missing, "'mine_per_atom' is missing"),
            (new, "'another' is new"),
            (retyped, r"'mine_per_atom' is float64\[2\] per atom where float32\[2\] per atom is stored"),
            (reshaped, r"'mine_per_system' is float16\[3\] per system where float16\[2, 2\] per system is stored"),
        ):
            with pytest.raises(FieldError, match=words):
                sink.write(batch)
        assert_same_systems(sink.read(), example_batch())

    def test_notes_of_hooks_are_left_out(self, sink: DataSink) -> None:
        batch = example_batch()
        batch["_note"] = torch.ones(4, 1)
        sink.write(batch)
        sink.write(example_batch(first_id=10))
        assert_same_systems(sink.read(), _joined(example_batch(), example_batch(first_id=10)))

    # Neighbour data

    def test_neighbor_matrices_change_their_width(self, sink: DataSink) -> None:
        batches = [with_neighbor_matrix(example_batch([3, 2], 10 * width), width) for width in (2, 5, 1)]
        for batch in batches:
            sink.write(batch)
        read = sink.read()
        wanted = _joined(*batches)
        assert_same_systems(read, wanted, ignore=NEIGHBOR_KEYS)
        if self.keeps_neighbor_matrix:
            assert_same_systems(read, wanted)
        else:
            assert not {"neighbor_matrix", "num_neighbors", "neighbor_matrix_shifts"} & _keys(read)

    def test_neighbor_lists(self, sink: DataSink) -> None:
        batches = [example_batch([3, 2], first_id) for first_id in (0, 10)]
        for batch in batches:
            # Every atom and the next one of its system, in the second batch only from one side.
            pairs = torch.tensor([[0, 1], [1, 2], [2, 0], [3, 4], [4, 3]])
            batch.replace_edges(np.array([3, 2]), {"neighbor_list": pairs, "neighbor_list_shifts": torch.zeros(5, 3, dtype=torch.int32)})
            sink.write(batch, mask=torch.tensor([False, True]))
            sink.write(batch)
        read = sink.read()
        wanted = _joined(*(batch.index_select(rows) for batch in batches for rows in ([1], [0, 1])))
        assert_same_systems(read, wanted, ignore=NEIGHBOR_KEYS)
        if self.keeps_neighbor_list:
            assert_same_systems(read, wanted)
            assert read.num_edges_list == wanted.num_edges_list
        else:
            assert "neighbor_list" not in read

    def test_neighbour_data_may_come_and_go(self, sink: DataSink) -> None:
        # As when a hook takes it off the batch because atoms were wrapped into their cells.
        plain, listed, matrix = example_batch([3]), example_batch([2], 10), with_neighbor_matrix(example_batch([4], 20), 2)
        listed.replace_edges(np.array([2]), {"neighbor_list": torch.tensor([[0, 1], [1, 0]])})
        for batch in (listed, plain, matrix, listed):
            sink.write(batch)
        wanted = _joined(*(batch.index_select([0], exclude_keys=NEIGHBOR_KEYS) for batch in (listed, plain, matrix, listed)))
        assert_same_systems(sink.read(), wanted)
        sink.zero()
        for batch in (plain, listed):
            sink.write(batch)
        assert_same_systems(sink.read(), wanted.index_select([1, 0]))

    # The batch is the caller's

    def test_the_live_batch_is_not_changed(self, sink: DataSink) -> None:
        batch = with_neighbor_matrix(example_batch(), 3)
        before = _state(batch)
        sink.write(batch)
        sink.write(batch, mask=torch.tensor([False, True, True, False]))
        with pytest.raises(SinkFullError):
            sink.write(example_batch([1] * 11))
        with pytest.raises(ArgumentError):
            sink.write(batch, mask=torch.ones(1, dtype=torch.bool))
        sink.read()
        assert _state(batch) == before

    def test_nothing_is_shared(self, sink: DataSink) -> None:
        batch = example_batch()
        sink.write(batch)
        batch["positions"].zero_()
        batch["energy"].zero_()
        read = sink.read()
        assert_same_systems(read, example_batch())
        read["positions"].zero_()
        read["energy"].zero_()
        assert_same_systems(sink.read(), example_batch())

    def test_a_batch_with_spare_room(self, sink: DataSink) -> None:
        batch = example_batch()
        roomy = Batch.empty(num_systems=9, num_nodes=60, num_edges=0, template=batch)
        roomy.put(batch, torch.ones(4, dtype=torch.bool))
        sink.write(roomy)
        sink.write(roomy, mask=torch.tensor([False, False, True, True]))
        assert_same_systems(sink.read(), _joined(batch, batch.index_select([2, 3])))

    # Closing

    def test_what_was_written_outlives_closing(self, tmp_path: Path) -> None:
        with self.create_sink(10, tmp_path) as sink:
            sink.write(example_batch())
            sink.flush()
        sink.close()
        assert len(sink) == 4
        assert_same_systems(sink.read(), example_batch())
