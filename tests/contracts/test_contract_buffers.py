"""A Batch as a buffer beside the reference's: empty, put, defrag, trim, zero. There `put` copies float32 alone, so that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from specimens import FLOAT64, batch, mask, structure, with_edges
from two_packages import Package, differs, same, same_error

FLOATS = ("positions", "velocities", "forces", "atomic_masses")


def buffer(p: Package, places: int = 4, n_atoms: int = 20, n_edges: int = 30, make: Callable[..., Any] = batch) -> Any:
    return p.Batch.empty(num_systems=places, num_nodes=n_atoms, num_edges=n_edges, template=make(p))


def state(made: Any) -> list[Any]:
    return [made.num_graphs, made.system_capacity, made.num_nodes_list]


def put(entries: Sequence[int] = (1, 1, 1), sizes: Sequence[int] = (3, 1, 4), **options: Any) -> Any:
    """A script that puts systems into a new buffer and gives what was copied, the buffer's state, and its float32 keys per atom."""

    def script(p: Package) -> Any:
        source = batch(p, sizes)
        into, copied = buffer(p, **options), torch.zeros(len(sizes), dtype=torch.bool)
        into.put(source, mask(*entries), copied_mask=copied)
        n_atoms = sum(into.num_nodes_list)
        return copied, state(into), [into[key][:n_atoms] for key in FLOATS]

    return script


def test_empty() -> None:
    assert same(lambda p: state(buffer(p)))[:2] == [0, 4]
    assert same(lambda p: state(p.Batch.empty(num_systems=2, num_nodes=9, num_edges=0, template=structure(p))))[:2] == [0, 2]
    assert same(lambda p: state(p.Batch.empty_like(batch(p))))[:2] == [0, 0]
    same_error(lambda p: p.Batch.empty(num_systems=-1, num_nodes=3, num_edges=0), ValueError)


def test_keys_of_an_empty_batch_without_template() -> None:
    def script(p: Package) -> Any:
        return {key: [value.dtype, list(value.shape[1:])] for key, value in p.Batch.empty(num_systems=2, num_nodes=3, num_edges=0)}

    assert same(script)["energy"] == ["torch.float32", [1]]


@pytest.mark.parametrize("entries", [(1, 1, 1), (1, 0, 1), (0, 0, 0)])
def test_put(entries: tuple[int, ...]) -> None:
    assert same(put(entries))[1][0] == sum(entries)


@pytest.mark.parametrize(
    ("sizes", "n_atoms", "n_copied"),
    [((3, 1, 4), 5, 2), ((3, 1, 4), 3, 1), ((3, 4, 1), 5, 1), ((4, 3, 1), 3, 0), ((1, 1, 1), 2, 2), ((1, 1, 1), 3, 3)],
)
def test_put_stops_at_the_first_that_does_not_fit(sizes: tuple[int, ...], n_atoms: int, n_copied: int) -> None:
    assert same(put(sizes=sizes, n_atoms=n_atoms))[1][0] == n_copied


def test_edges_limit_what_fits() -> None:
    def script(p: Package) -> Any:
        source, copied = with_edges(p), torch.zeros(3, dtype=torch.bool)
        buffer(p, n_edges=6, make=with_edges).put(source, mask(1, 1, 1), copied_mask=copied)
        return copied

    assert same(script)["numbers"] == [1.0, 1.0, 0.0]


def test_masks_of_the_wrong_length() -> None:
    same_error(put((1, 1)), ValueError)
    same_error(put((1, 1, 1, 1)), ValueError)
    same_error(lambda p: buffer(p).put(batch(p), mask(1, 1, 1), dest_mask=mask(0, 0)), ValueError)


def test_copied_mask_of_the_wrong_length_leaves_the_buffer_alone() -> None:
    def script(p: Package) -> Any:
        into = buffer(p)
        with pytest.raises(ValueError, match="copied_mask"):
            into.put(batch(p), mask(1, 1, 1), copied_mask=mask(0, 0))
        return into.num_graphs

    assert same(script) == 0


def test_places_that_are_occupied() -> None:
    def script(p: Package) -> Any:
        into, source, occupied = buffer(p), batch(p), mask(0, 0, 0, 0)
        steps = []
        for entries in ((1, 0, 0), (0, 1, 1), (1, 1, 1)):
            copied = torch.zeros(3, dtype=torch.bool)
            into.put(source, mask(*entries), copied_mask=copied, dest_mask=occupied)
            steps.append([copied, occupied.clone(), state(into)])
        return steps[:2]

    assert same(script)[1][1]["numbers"] == [1.0, 1.0, 1.0, 0.0]


def test_a_full_buffer_takes_nothing() -> None:
    def script(p: Package) -> Any:
        into, copied = buffer(p), torch.zeros(3, dtype=torch.bool)
        into.put(batch(p), mask(1, 1, 1), copied_mask=copied, dest_mask=mask(1, 1, 1, 1))
        return copied, state(into)

    assert same(script)[1][0] == 0


def test_more_systems_than_places() -> None:
    differs("put places", lambda p: put(places=2)(p)[0], mask(0, 0, 0), mask(1, 1, 0))


def test_put_twice_without_places() -> None:
    def script(p: Package) -> Any:
        into, source = buffer(p), batch(p)
        into.put(source, mask(1, 0, 0))
        into.put(source, mask(0, 1, 1))
        return into.num_graphs, into.energy[:3].flatten().tolist()

    differs("put places", script, [3, [1.0, 2.0, 0.0]], [3, [0.0, 1.0, 2.0]])


def test_dtypes_that_are_put() -> None:
    def numbers(p: Package) -> Any:
        into = buffer(p)
        into.put(batch(p), mask(1, 1, 1))
        return [bool(into.atomic_numbers.any()), into.num_graphs]

    def doubles(p: Package) -> int:
        into = buffer(p, make=lambda p: batch(p, dtype=FLOAT64))
        into.put(batch(p, dtype=FLOAT64), mask(1, 1, 1))
        return into.num_graphs

    differs("put dtypes", numbers, [False, 3], [True, 3])
    differs("put dtypes", doubles, 0, 3)


def test_keys_that_the_source_lacks() -> None:
    def script(p: Package) -> int:
        into = buffer(p, make=lambda p: batch(p, stress=torch.ones(1, 3, 3)))
        into.put(batch(p), mask(1, 1, 1))
        return into.num_graphs

    differs("put dtypes", script, 3, ValueError)


def test_what_a_buffer_shows() -> None:
    differs("buffer in use", lambda p: list(buffer(p).positions.shape), [20, 3], [0, 3])

    def after_put(p: Package) -> Any:
        into = buffer(p)
        into.put(batch(p), mask(1, 1, 1))
        return into.num_nodes

    differs("buffer in use", after_put, 20, 8)


def test_whose_atoms_are_whose() -> None:
    def script(p: Package) -> Any:
        into, seen = buffer(p), []
        for entries in ((1, 0, 0), (0, 1, 1)):
            into.put(batch(p), mask(*entries))
            seen.append(into.batch_idx.tolist())
        return seen

    differs("batch_idx", script, [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0, 1, 2, 2, 2, 2]])
    assert same(lambda p: batch(p).defrag(mask(1, 0, 0)).batch_idx)["numbers"] == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_zero() -> None:
    def script(p: Package) -> Any:
        into = buffer(p)
        into.put(batch(p), mask(1, 1, 1))
        into.zero()
        emptied = state(into), bool(into.positions.any())
        into.put(batch(p), mask(0, 1, 1))
        live = batch(p)
        live.zero()
        return emptied, state(into), state(live)

    assert [part[0] for part in same(script)[1:]] == [2, 0]


# Removing


@pytest.mark.parametrize("entries", [(1, 0, 0), (0, 0, 0), (1, 1, 1)])
def test_trim(entries: tuple[int, ...]) -> None:
    result = same(lambda p: batch(p).trim(mask(*entries)))
    assert (result is None) == (sum(entries) == 3)


def test_trim_renumbers_neighbours() -> None:
    assert same(lambda p: with_edges(p).trim(mask(1, 0, 0)))["sizes"] == [2, 4]


def test_trim_of_what_was_put() -> None:
    def script(p: Package) -> Any:
        source = batch(p)
        buffer(p).put(source, mask(1, 0, 1))
        return source.trim(), source

    assert [made["sizes"] for made in same(script)] == [[1], [3, 1, 4]]


def test_trim_without_saying_what() -> None:
    same_error(lambda p: batch(p).trim(), ValueError)
    same_error(lambda p: batch(p).defrag(), ValueError)
    differs("indices", lambda p: batch(p).trim(mask(1, 1)), None, ValueError)
    differs("indices", lambda p: batch(p).trim(mask(1, 1, 0, 0)), IndexError, ValueError)


@pytest.mark.parametrize("entries", [(1, 0, 0), (0, 1, 0), (0, 0, 0), (1, 1, 1)])
def test_defrag(entries: tuple[int, ...]) -> None:
    def script(p: Package) -> Any:
        made = batch(p)
        returned = made.defrag(mask(*entries))
        n_atoms = sum(made.num_nodes_list)
        return returned is made, state(made), [made[key][:n_atoms] for key in FLOATS], made.energy[: made.num_graphs]

    assert same(script)[0] is True


def test_defrag_of_what_was_put() -> None:
    def script(p: Package) -> Any:
        source = batch(p)
        buffer(p).put(source, mask(1, 0, 1))
        return state(source.defrag())

    assert same(script)[2] == [1]


def test_defrag_with_a_mask_of_the_wrong_length() -> None:
    same_error(lambda p: batch(p).defrag(mask(1, 1)), ValueError)


def test_neighbours_after_defrag() -> None:
    def largest(p: Package) -> int:
        return int(with_edges(p).defrag(mask(1, 0, 0)).index_select([0, 1]).neighbor_list.max())

    # Six atoms are left.
    differs("renumbering", largest, 8, 5)
