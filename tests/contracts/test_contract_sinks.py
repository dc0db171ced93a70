"""The sinks beside the reference's: what they give back, and what they refuse; for `ZarrData` see also its own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from specimens import FLOAT64, batch, lattice, mask, structure, with_edges, with_ids
from two_packages import Package, contents, differs, same, same_error
from zarr.storage import MemoryStore

Make = Callable[[Package], Any]
CAPACITY = 4

IN_MEMORY: dict[str, Make] = {
    "HostMemory": lambda p: p.HostMemory(CAPACITY),
    "ZarrData in a dict": lambda p: p.ZarrData({}, CAPACITY),
    "ZarrData in a store": lambda p: p.ZarrData(MemoryStore(), capacity=CAPACITY),
}


@pytest.fixture(params=[*IN_MEMORY, "ZarrData on disk", "ZarrData at a path"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """How to make a sink with room for four systems, anew at each call."""
    if request.param in IN_MEMORY:
        return IN_MEMORY[request.param]
    places = (tmp_path / f"{i}.zarr" for i in range(100))
    return lambda p: p.ZarrData(next(places) if "path" in request.param else str(next(places)), CAPACITY)


def written(
    make: Make, *masks: Any, of: Callable[..., Any] = batch, then: Callable[[Any], Any] = lambda sink: sink.read(), **properties: Any
) -> Any:
    """A script that writes batches through masks, each with other ids, and gives what `then` makes of the sink."""

    def script(p: Package) -> Any:
        sink = make(p)
        for i, chosen in enumerate(masks):
            sink.write(with_ids(p, 3 * i, of, **properties), chosen)
        return then(sink)

    return script


def common(sink: Any) -> Any:
    """What both packages read back: without own keys and neighbours, of which the table speaks."""
    read = contents(sink.read())
    read.pop("n_edges")
    unlike = {"status", "system_id", "neighbor_list", "neighbor_list_shifts"}
    return {**read, "tensors": {key: value for key, value in read["tensors"].items() if key not in unlike}}


def test_a_new_sink(make: Make) -> None:
    def script(p: Package) -> Any:
        sink = make(p)
        return [isinstance(sink, p.DataSink), len(sink), sink.capacity, sink.is_full, sink.local_rank, sink.global_rank]

    assert same(script) == [True, 0, 4, False, 0, 0]


@pytest.mark.parametrize("masks", [(None,), (mask(1, 0, 1),), (mask(1, 0, 1), mask(0, 1, 0)), (torch.tensor([1, 0, 1]),)])
def test_reading(make: Make, masks: tuple[Any, ...]) -> None:
    read = same(written(make, *masks, then=lambda sink: [common(sink), len(sink), sink.is_full]))
    assert len(read[0]["sizes"]) == read[1]


@pytest.mark.parametrize("properties", [{"dtype": FLOAT64}, lattice()], ids=["float64", "periodic"])
def test_reading_other_structures(make: Make, properties: dict[str, Any]) -> None:
    assert same(written(make, None, then=common, **properties))["sizes"] == [3, 1, 4]


def test_as_many_atoms_as_systems(make: Make) -> None:
    def ones(p: Package) -> Any:
        return batch(p, (1, 1, 1))

    assert same(written(make, None, of=ones, then=common))["tensors"]["forces"]["shape"] == [3, 3]


def test_systems_keep_their_ids(make: Make, request: pytest.FixtureRequest) -> None:
    ids = written(make, mask(1, 0, 1), mask(0, 1, 0), then=lambda sink: sink.read().system_id.flatten().tolist())
    if "HostMemory" in request.node.name:
        assert same(ids) == [0, 2, 4]
    else:
        differs("sink keys", ids, AttributeError, [0, 2, 4])


def own_key(make: Make, level: str, dtype: torch.dtype) -> Any:
    def script(p: Package) -> Any:
        sink, made = make(p), batch(p)
        rows = [1, 1, 1] if level == "system" else [3, 1, 4]
        made.add_key("mine", [torch.full((n, 2), i + 1).to(dtype) for i, n in enumerate(rows)], level=level)
        sink.write(made)
        return sink.read().mine.dtype

    return script


@pytest.mark.parametrize("level", ["node", "system"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_own_keys(make: Make, level: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    if "HostMemory" in request.node.name:
        assert same(own_key(make, level, dtype)) == str(dtype)
    else:
        differs("sink keys", own_key(make, level, dtype), AttributeError, dtype)


def test_own_keys_of_another_precision() -> None:
    differs("sink keys", own_key(IN_MEMORY["HostMemory"], "system", FLOAT64), torch.float32, FLOAT64)


def test_neighbours(make: Make, request: pytest.FixtureRequest) -> None:
    edges = written(make, None, of=with_edges, then=lambda sink: sink.read().num_edges)
    if "HostMemory" in request.node.name:
        assert same(edges) == 8
    else:
        differs("stored neighbours", edges, 8, 0)


def test_empty_reads(make: Make) -> None:
    same_error(lambda p: make(p).read(), RuntimeError)
    same_error(lambda p: make(p).drain(), RuntimeError)


def test_a_full_sink(make: Make) -> None:
    same_error(written(make, None, mask(1, 1, 0)), RuntimeError)

    def script(p: Package) -> Any:
        sink = make(p)
        sink.write(with_ids(p))
        with pytest.raises(RuntimeError):
            sink.write(with_ids(p, 3))
        refused = len(sink), common(sink)
        sink.write(with_ids(p, 6), mask(0, 0, 1))
        return refused, len(sink), sink.is_full, common(sink)

    result = same(script)
    assert (result[0][0], result[1:3]) == (3, [4, True])


def test_masks(make: Make) -> None:
    assert same(written(make, mask(0, 0, 0), then=len)) == 0
    same_error(written(make, mask(1, 1)), ValueError)
    same_error(written(make, mask(1, 1, 0, 0)), ValueError)
    differs("mask shape", written(make, mask(1, 1, 0).unsqueeze(1), then=len), 2, ValueError)


def test_a_batch_of_no_systems(make: Make) -> None:
    def script(p: Package) -> int:
        sink = make(p)
        sink.write(p.Batch.empty(num_systems=2, num_nodes=3, num_edges=0))
        return len(sink)

    assert same(script) == 0


def test_drain_and_zero(make: Make, request: pytest.FixtureRequest) -> None:
    def script(p: Package) -> Any:
        sink = make(p)
        sink.write(batch(p))
        drained = sink.drain()
        after_drain = len(sink)
        sink.write(batch(p), mask(1, 0, 0))
        sink.zero()
        after_zero = len(sink)
        # What comes next may have other keys.
        sink.write(batch(p, stress=torch.ones(1, 3, 3)))
        return drained.num_nodes_list, after_drain, after_zero, "stress" in sink.read()

    if "in a store" in request.node.name:
        differs("existing stores", script, FileExistsError, [[3, 1, 4], 0, 0, True])
    else:
        assert same(script) == [[3, 1, 4], 0, 0, True]
    same_error(written(make, None, then=lambda sink: [sink.zero(), sink.read()]), RuntimeError)


def test_other_keys_later(make: Make) -> None:
    def later(first: dict[str, Any], second: dict[str, Any]) -> Any:
        def script(p: Package) -> Any:
            sink = make(p)
            sink.write(batch(p, **first).index_select([0, 1]))
            sink.write(batch(p, **second).index_select([0, 1]))
            read = sink.read()
            return read.num_graphs, "stress" in read

        return script

    stress = {"stress": torch.ones(1, 3, 3)}
    differs("other keys", later({}, stress), [4, False], ValueError)
    differs("other keys", later({}, {"dtype": FLOAT64}), [4, False], ValueError)
    # There it is reading that fails, here writing.
    same_error(later(stress, {}), ValueError)

    def after_it_was_refused(p: Package) -> Any:
        sink = make(p)
        sink.write(batch(p, **stress).index_select([0, 1]))
        try:
            sink.write(batch(p).index_select([0, 1]))
        except ValueError:
            return sink.read().num_nodes_list
        return sink.read()

    differs("other keys", after_it_was_refused, ValueError, [3, 1])


def test_what_is_written_is_a_copy(make: Make, request: pytest.FixtureRequest) -> None:
    def script(p: Package) -> Any:
        sink, made = make(p), batch(p)
        sink.write(made)
        made.positions.zero_()
        return bool(sink.read().positions.any())

    def read_twice(p: Package) -> Any:
        sink = make(p)
        sink.write(batch(p))
        sink.read().energy.fill_(9.0)
        return sink.read().energy

    if "HostMemory" in request.node.name:
        differs("views", script, False, True)
    else:
        assert same(script) is True
    assert same(read_twice)["numbers"] == [0.0, 1.0, 2.0]


def test_capacity() -> None:
    assert same(lambda p: p.ZarrData({}).capacity) == 1_000_000
    for capacity in (0, -1, 1.5):
        differs("capacity", lambda p, capacity=capacity: p.HostMemory(capacity).capacity, capacity, ValueError)


# On the device


def test_a_buffer_without_a_gpu() -> None:
    same_error(lambda p: p.GPUBuffer(3, 4, 5, device="mps"), RuntimeError)
    differs("gpu buffer", lambda p: p.GPUBuffer(3, 4, 5, device="cpu").capacity, RuntimeError, 3)
    if not torch.cuda.is_available():
        same_error(lambda p: p.GPUBuffer(3, 4, 5), RuntimeError)


@pytest.mark.gpu
def test_a_buffer_on_a_gpu() -> None:
    def script(p: Package) -> Any:
        sink = p.GPUBuffer(CAPACITY, 4, 0)
        made = p.Batch.from_data_list([structure(p, n, i) for i, n in enumerate((3, 1, 4))], device="cuda")
        sink.write(made, mask(1, 0, 1).cuda())
        sink.write(made, mask(0, 1, 0).cuda())
        read = sink.read()
        sink.zero()
        return [len(sink), sink.capacity, read.num_nodes_list, read.positions, read.device]

    assert same(script)[:3] == [0, 4, [3, 4, 1]]


@pytest.mark.gpu
def test_what_does_not_fit_into_a_buffer_on_a_gpu() -> None:
    def script(p: Package, **sizes: int) -> None:
        sink = p.GPUBuffer(**{"capacity": 3, "max_atoms": 4, "max_edges": 0, **sizes})
        sink.write(p.Batch.from_data_list([structure(p, n, i) for i, n in enumerate((3, 1, 4))], device="cuda"))

    same_error(lambda p: script(p, capacity=2), RuntimeError)
    same_error(lambda p: script(p, max_atoms=3), RuntimeError)
