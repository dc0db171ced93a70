"""NeighborListHook and WrapPeriodicHook beside the reference's: the same pairs, whichever way they are stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from specimens import FLOAT64, batch, trap
from two_packages import Package, contents, differs, same

CUTOFF = 4.5


def crystals(p: Package, periodic: bool = True) -> Any:
    """Two cubic lattices of 8 and 27 rattled atoms."""
    structures = []
    for i, (constant, n) in enumerate(((3.6, 2), (4.1, 3))):
        grid = torch.cartesian_prod(*[torch.arange(n)] * 3).double() * constant
        positions = grid + 0.1 * torch.rand(grid.shape, generator=torch.Generator().manual_seed(i), dtype=FLOAT64)
        cell = {"cell": torch.eye(3, dtype=FLOAT64)[None] * constant * n, "pbc": torch.ones(1, 3, dtype=torch.bool)}
        structures.append(p.AtomicData(positions=positions, atomic_numbers=torch.full((n**3,), 29), **(cell if periodic else {})))
    return p.Batch.from_data_list(structures)


def listed(p: Package, form: str, periodic: bool = True, half: bool = False, moved: float = 0.0, **options: Any) -> Any:
    """A batch with neighbours; `moved` moves atoms and asks for neighbours again."""
    made = crystals(p, periodic)
    config = p.NeighborConfig(cutoff=options.pop("cutoff", CUTOFF), format=p.NeighborListFormat(form), half_list=half)
    hook = p.NeighborListHook(config, stage=p.DynamicsStage.BEFORE_COMPUTE, **options)
    for step in (0.0, moved):
        made.positions.add_(step)
        hook(p.DynamicsContext(batch=made), hook.stage)
    return made


def pairs(made: Any, form: str) -> list[list[int]]:
    """Sorted rows of two atoms and a shift."""
    if form == "coo":
        edges = made.neighbor_list
        shifts = made.neighbor_list_shifts if "neighbor_list_shifts" in made else torch.zeros(len(edges), 3, dtype=torch.int32)
        return sorted(torch.cat([edges, shifts], dim=1).tolist())
    matrix, counts = made.neighbor_matrix, made.num_neighbors
    shifts = made.neighbor_matrix_shifts if "neighbor_matrix_shifts" in made else torch.zeros(*matrix.shape, 3, dtype=torch.int32)
    rows = zip(matrix.tolist(), shifts.tolist(), counts.tolist(), strict=True)
    return sorted([i, j, *s] for i, (row, row_shifts, n) in enumerate(rows) for j, s in zip(row[:n], row_shifts[:n], strict=True))


FORMS = pytest.mark.parametrize("form", ["coo", "matrix"])


@FORMS
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("options", [{}, {"skin": 0.5}, {"skin": 0.5, "moved": 0.1}, {"moved": 5.0}, {"max_neighbors": 2}], ids=str)
def test_pairs(form: str, periodic: bool, options: dict[str, Any]) -> None:
    assert len(same(lambda p: pairs(listed(p, form, periodic, **options), form))) > 100


@FORMS
@pytest.mark.parametrize("periodic", [True, False])
def test_half_lists(form: str, periodic: bool) -> None:
    def each_once(p: Package) -> list[list[int]]:
        """Which of its two ends lists a pair is not part of the contract."""
        rows = pairs(listed(p, form, periodic, half=True), form)
        return sorted([min([i, j, *s], [j, i, *(-x for x in s)]) for i, j, *s in rows])

    whole = same(lambda p: pairs(listed(p, form, periodic), form))
    assert 2 * len(same(each_once)) == len(whole)


@FORMS
def test_dtypes_and_shapes(form: str) -> None:
    def script(p: Package) -> Any:
        made = listed(p, form)
        listed_as = "neighbor_list neighbor_list_shifts" if form == "coo" else "neighbor_matrix num_neighbors neighbor_matrix_shifts"
        shapes = [[made[name].dtype, made[name].shape[0], made[name].ndim] for name in listed_as.split()]
        return shapes, made.num_edges_list if form == "coo" else None

    assert same(script)[0][0][0] == "torch.int32"


def test_what_stands_where_no_neighbour_is() -> None:
    def script(p: Package) -> Any:
        made = listed(p, "matrix", max_neighbors=40)
        beyond = torch.arange(made.neighbor_matrix.shape[1])[None] >= made.num_neighbors[:, None]
        return set(made.neighbor_matrix[beyond].tolist()), made.neighbor_matrix.shape[1]

    assert same(script) == [[35], 40]


def test_first_edge_of_each_atom() -> None:
    assert same(lambda p: listed(p, "coo").edge_ptr)["numbers"][-1] == len(same(lambda p: pairs(listed(p, "coo"), "coo")))


def test_shifts_without_periodicity() -> None:
    differs("shifts", lambda p: "neighbor_list_shifts" in listed(p, "coo", periodic=False), False, True)
    differs("shifts", lambda p: "neighbor_matrix_shifts" in listed(p, "matrix", periodic=False), False, True)


def chosen(form: str) -> Any:
    return lambda p: pairs(listed(p, form).index_select([1]), form)


def joined(form: str) -> Any:
    def script(p: Package) -> Any:
        made = listed(p, form)
        made.append(listed(p, form))
        return pairs(made, form)[-1]

    return script


def test_neighbours_of_chosen_systems() -> None:
    assert same(chosen("coo"))[0] == [0, 1, 0, 0, 0]
    assert same(joined("coo"))[0] == 69
    # There the rows still count from the first atom of the whole batch: atom 1 is called 9, and 68 is 33.
    differs("renumbering", lambda p: min(row[1] for row in chosen("matrix")(p)), 8, 0)
    differs("renumbering", lambda p: joined("matrix")(p)[1], 33, 68)


def test_widths_that_change() -> None:
    def script(p: Package) -> int:
        sink = p.HostMemory(10)
        for cutoff in (3.7, 8.0):
            sink.write(listed(p, "matrix", cutoff=cutoff))
        return sink.read().num_graphs

    differs("matrix widths", script, RuntimeError, 4)


def test_skin() -> None:
    def skin(p: Package, **options: Any) -> float:
        return p.NeighborListHook(p.NeighborConfig(cutoff=3.0, skin=0.7), **options).skin

    assert same(lambda p: skin(p, skin=0.3)) == 0.3
    differs("skin", skin, 0.0, 0.7)
    differs("nonsense", lambda p: skin(p, skin=-1.0), -1.0, TypeError)
    differs("nonsense", lambda p: p.NeighborConfig(cutoff=-1.0).cutoff, -1.0, ValueError)


def test_hooks_that_a_model_makes() -> None:
    def script(p: Package) -> Any:
        model = trap(p)
        without = len(model.make_neighbor_hooks())
        model.model_config = p.ModelConfig(neighbor_config=p.NeighborConfig(cutoff=3.0, skin=0.7))
        return without, [[type(hook).__name__, hook.stage, hook.frequency, hook.skin] for hook in model.make_neighbor_hooks()]

    assert same(script) == [0, [["NeighborListHook", "BEFORE_COMPUTE", 1, 0.7]]]


# Wrapping

CUBE = torch.eye(3, dtype=FLOAT64) * 4
TILTED = torch.tensor([[4.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.5, 0.7, 6.0]], dtype=FLOAT64)


def wrapped(p: Package, cell: torch.Tensor, pbc: Any) -> Any:
    made = batch(p, dtype=FLOAT64)
    made.positions.mul_(9)
    made["cell"] = cell.repeat(3, 1, 1)
    made["pbc"] = torch.tensor(pbc, dtype=torch.bool)
    p.WrapPeriodicHook()(p.DynamicsContext(batch=made), p.DynamicsStage.AFTER_POST_UPDATE)
    return made


@pytest.mark.parametrize(
    ("cell", "pbc"), [(CUBE, ((1, 1, 0), (1, 1, 1), (0, 0, 0))), (TILTED, ((1, 1, 1), (1, 1, 1), (0, 0, 0)))], ids=["cubic", "tilted"]
)
def test_wrapping(cell: torch.Tensor, pbc: Any) -> None:
    result = same(lambda p: wrapped(p, cell, pbc), 1e-9)
    assert min(result["tensors"]["positions"]["numbers"][9:12]) >= 0


def test_wrapping_tilted_slabs() -> None:
    def moved_by_whole_vectors(p: Package) -> bool:
        steps = (batch(p, dtype=FLOAT64).positions * 9 - wrapped(p, TILTED, [(1, 1, 0)] * 3).positions) @ torch.linalg.inv(TILTED)
        return bool((steps - steps.round()).abs().max() < 1e-9)

    differs("wrapping", moved_by_whole_vectors, False, True)


def test_wrapping_without_cells() -> None:
    def script(p: Package) -> Any:
        made = batch(p)
        p.WrapPeriodicHook()(p.DynamicsContext(batch=made), p.DynamicsStage.AFTER_POST_UPDATE)
        return contents(made)["sizes"]

    differs("wrapping", script, AttributeError, [3, 1, 4])


def test_neighbours_of_wrapped_atoms() -> None:
    def script(p: Package) -> bool:
        made = listed(p, "coo")
        made.positions.add_(100.0)
        p.WrapPeriodicHook()(p.DynamicsContext(batch=made), p.DynamicsStage.AFTER_POST_UPDATE)
        return "neighbor_list" in made

    differs("wrapping", script, True, False)
