"""SizeAwareSampler beside the reference's: which structures it gives, in which order, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from specimens import Structures
from two_packages import Package, differs, ours, outcome, same, same_error, theirs

SIZES = (5, 1, 3, 3, 8, 2, 1, 5, 4, 3)
EDGES = {"sizes": (3, 2, 4), "n_edges": (5, 1, 2)}


def sampler(p: Package, sizes: Sequence[int] = SIZES, n_edges: Sequence[int] | None = None, **options: Any) -> Any:
    return p.SizeAwareSampler(Structures(p, sizes, n_edges), **(options or {"max_atoms": 9}))


def who(data: Any) -> Any:
    """Atoms, id and place in the dataset of what was given."""
    return None if data is None else [data.num_nodes, data.system_id.flatten().tolist(), data.energy.flatten().tolist()]


@pytest.mark.parametrize(
    "options",
    [
        {"max_atoms": 20},
        {"max_batch_size": 4},
        {"max_atoms": 9, "max_batch_size": 3},
        {"max_atoms": 20, "bin_width": 3},
        {"max_atoms": 12, "bin_width": 100},
        {"max_atoms": 100},
        {"max_atoms": 20, "max_edges": 6, **EDGES},
    ],
    ids=str,
)
def test_first_batch(options: dict[str, Any]) -> None:
    def script(p: Package) -> Any:
        made = sampler(p, **options)
        limits = [made.max_atoms, made.max_edges, made.max_batch_size]
        return made.build_initial_batch(), len(made), made.exhausted, list(made), limits

    first, n_left, is_exhausted, left, _ = same(script)
    assert first["tensors"]["status"]["numbers"] == [0.0] * len(first["sizes"])
    assert (n_left == len(left), is_exhausted) == (True, n_left == 0)


def test_batches_one_after_the_other() -> None:
    def script(p: Package) -> Any:
        made = sampler(p, max_atoms=12)
        return made.build_initial_batch().system_id, made.build_initial_batch().system_id, len(made)

    first, second, _ = same(script)
    assert first["numbers"] + second["numbers"] == [float(i) for i in range(8)]


def test_no_first_batch() -> None:
    def second(p: Package) -> None:
        made = sampler(p, max_atoms=100)
        made.build_initial_batch()
        made.build_initial_batch()

    same_error(second, RuntimeError)
    same_error(lambda p: sampler(p, sizes=(), max_atoms=3).build_initial_batch(), RuntimeError)
    assert same(lambda p: [len(sampler(p, sizes=(), max_atoms=3)), sampler(p, sizes=(), max_atoms=3).exhausted]) == [0, True]


@pytest.mark.parametrize(
    ("requests", "options"),
    [
        ([(5, 9), (3, 9), (3, 9), (3, 9), (3, 9), (0, 0), (9, 9), (100, 100)], {"max_atoms": 9}),
        ([(5, 9), (3, 9), (3, 9), (3, 9)], {"max_atoms": 9, "bin_width": 3}),
        ([(5, 1), (5, 4), (5, 5)], {"max_atoms": 9, **EDGES}),
    ],
)
def test_replacements_one_by_one(requests: list[tuple[int, int]], options: dict[str, Any]) -> None:
    def script(p: Package) -> Any:
        made = sampler(p, **options)
        return [who(made.request_replacement(*sizes)) for sizes in requests], len(made), list(made)

    assert any(same(script)[0])


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        ((9,), {"max_atoms": 9}),
        ((9, None, 2), {"max_atoms": 9}),
        ((), {"max_atoms": 9}),
        ((7,), {"max_atoms": 9, "bin_width": 3}),
        ((9, 3), {"max_atoms": 9, **EDGES}),
    ],
)
def test_replacements_within_a_budget(budget: tuple[Any, ...], options: dict[str, Any]) -> None:
    def script(p: Package) -> Any:
        made = sampler(p, **options)
        return [[who(data) for data in made.request_replacements_budget(*budget)] for _ in range(3)], len(made), made.exhausted

    assert same(script)[0][0]


@pytest.mark.parametrize("budget", [(0,), (-1,), (9, None, 0)])
def test_a_budget_of_nothing(budget: tuple[Any, ...]) -> None:
    assert same(lambda p: [sampler(p).request_replacements_budget(*budget), len(sampler(p))]) == [[], 10]


def test_replacements_for_places() -> None:
    def script(p: Package) -> Any:
        made = sampler(p)
        found = made.request_replacements(torch.tensor([3, 5, 1, 0]), torch.tensor([9, 9, 9, 9]))
        return [who(data) for data in found], len(made), list(made)

    assert [data is None for data in same(script)[0]] == [False, False, False, True]


@pytest.mark.parametrize(
    "options",
    [
        {"max_edges": 9},
        {"max_batch_size": 0},
        {"max_atoms": 20, "bin_width": 0},
        {"max_atoms": 20, "max_gpu_memory_fraction": 0},
        {"max_atoms": 20, "max_gpu_memory_fraction": 1.1},
    ],
    ids=str,
)
def test_limits_that_cannot_be(options: dict[str, Any]) -> None:
    same_error(lambda p: sampler(p, **options), ValueError)


def test_structures_that_never_fit() -> None:
    same_error(lambda p: sampler(p, max_atoms=7), RuntimeError)
    same_error(lambda p: sampler(p, max_atoms=20, max_edges=3, **EDGES), RuntimeError)


@pytest.mark.parametrize("dataset", [[1, 2], object()])
def test_what_is_no_dataset(dataset: Any) -> None:
    same_error(lambda p: p.SizeAwareSampler(dataset, max_atoms=3), TypeError)


def test_ids_that_structures_bring() -> None:
    def ids(p: Package) -> Any:
        return p.SizeAwareSampler(Structures(p, (3, 3), first_id=100), max_atoms=9).build_initial_batch().system_id.flatten().tolist()

    differs("system ids", ids, [0, 1], [100, 101])


def test_shuffling() -> None:
    def order(p: Package) -> list[float]:
        made = sampler(p, sizes=(3,) * 20, max_atoms=100, shuffle=True).build_initial_batch()
        return made.energy.flatten().tolist()

    for package in (theirs(), ours()):
        seen = outcome(package, order)
        assert seen != sorted(seen)
        assert sorted(seen) == [float(i) for i in range(20)]

    def is_repeated(p: Package) -> bool:
        return order(p) == order(p)

    differs("shuffling", is_repeated, False, True)
