"""Batch beside the reference's: construction, sizes, keys, choosing systems, appending, copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from specimens import FLOAT64, SIZES, batch, lattice, mask, structure, tensors_of, with_edges
from two_packages import Package, differs, same, same_error

NAMES = (
    "num_graphs batch_size num_nodes num_edges system_capacity batch_idx edge_ptr num_nodes_list num_nodes_per_graph max_num_nodes "
    "device keys"
)


def sizes(made: Any, names: str = NAMES) -> dict[str, Any]:
    return {"len": len(made), "repr": repr(made), **{name: getattr(made, name) for name in names.split()}}


@pytest.mark.parametrize("make", [batch, with_edges])
@pytest.mark.parametrize("properties", [{}, {"dtype": FLOAT64}, lattice()], ids=["float32", "float64", "periodic"])
def test_from_data_list(make: Callable[..., Any], properties: dict[str, Any]) -> None:
    result = same(lambda p: [make(p, **properties), sizes(make(p, **properties))])
    assert result[0]["tensors"]["positions"]["shape"] == [sum(result[0]["sizes"]), 3]


def test_sizes_with_edges() -> None:
    assert same(lambda p: sizes(with_edges(p), "num_edges_list num_edges_per_graph"))["num_edges_list"] == [5, 1, 2]


def test_sizes_without_edges() -> None:
    differs("edges", lambda p: batch(p).num_edges_list, [], [0, 0, 0])
    differs("edges", lambda p: batch(p).num_edges_per_graph.tolist(), [], [0, 0, 0])


def test_pointers() -> None:
    assert same(lambda p: batch(p).batch_ptr.tolist()) == [0, 3, 4, 8]
    differs("batch_ptr", lambda p: batch(p).batch_ptr.dtype, "torch.int64", "torch.int32")


def test_options_of_from_data_list() -> None:
    def excluding(p: Package) -> Any:
        return p.Batch.from_data_list([structure(p), structure(p)], device="cpu", exclude_keys=["forces"])

    assert "forces" not in same(excluding)["tensors"]
    same_error(lambda p: p.Batch.from_data_list([]), ValueError)


def own_key(p: Package, level: str, how: str, **options: Any) -> Any:
    structures = [structure(p, n) for n in (3, 2)]
    for data in structures:
        value = torch.ones(1 if level == "system" else data.num_nodes, 2)
        if how == "added":
            getattr(data, f"add_{level}_property")("mine", value)
        else:
            data.mine = value
    made = p.Batch.from_data_list(structures, **options)
    return list(made.mine.shape), made.keys["system" if level == "system" else "node"]


def test_own_keys() -> None:
    assert same(lambda p: own_key(p, "system", "added"))[0] == [2, 2]
    assert same(lambda p: own_key(p, "node", "set", field_levels={"mine": "atom"}))[0] == [5, 2]
    differs("own keys", lambda p: own_key(p, "node", "added")[0], AttributeError, [5, 2])
    differs("own keys", lambda p: own_key(p, "system", "set")[0], AttributeError, ValueError)


def test_uneven_structures() -> None:
    def made(p: Package, first: dict[str, Any], second: dict[str, Any]) -> bool:
        keys = {key for key, _ in p.Batch.from_data_list([structure(p, **first), structure(p, **second)])}
        return bool(keys & {"stress", "neighbor_list", "cell"})

    stress = {"stress": torch.zeros(1, 3, 3)}
    same_error(lambda p: made(p, stress, {}), ValueError)
    differs("uneven structures", lambda p: made(p, {}, stress), False, ValueError)
    differs("uneven structures", lambda p: made(p, {"n_edges": 3}, {}), True, ValueError)
    differs("uneven structures", lambda p: made(p, lattice(), {}), ValueError, True)


# Keys


def changed(change: Callable[[Any], None], make: Callable[..., Any] = batch) -> Any:
    def script(p: Package) -> Any:
        made = make(p)
        change(made)
        return made

    return script


def put_in(key: str, value: torch.Tensor) -> Callable[[Any], None]:
    return lambda made: made.__setitem__(key, value)


@pytest.mark.parametrize(
    ("key", "shape"),
    [("forces", (8, 3)), ("energy", (3, 1)), ("stress", (3, 3, 3)), ("status", (3, 1)), ("status", (3,)), ("mine", (3, 2))],
)
def test_setting_keys(key: str, shape: tuple[int, ...]) -> None:
    value = torch.arange(float(np.prod(shape))).reshape(shape)
    assert same(changed(put_in(key, value)))["tensors"][key]["shape"] == list(shape)
    assert same(changed(lambda made: setattr(made, key, value)))["tensors"][key]["shape"] == list(shape)


def test_setting_another_dtype() -> None:
    assert same(changed(put_in("positions", torch.zeros(8, 3, dtype=FLOAT64))))["tensors"]["positions"]["dtype"] == "torch.float64"


@pytest.mark.parametrize(
    ("key", "rows", "make"), [("forces", 7, batch), ("status", 2, batch), ("mine", 8, batch), ("neighbor_list", 5, with_edges)]
)
def test_setting_keys_with_another_number_of_rows(key: str, rows: int, make: Callable[..., Any]) -> None:
    same_error(changed(put_in(key, torch.zeros(rows, 2)), make), ValueError)


def test_what_follows_from_the_systems_cannot_be_set() -> None:
    same_error(changed(lambda made: setattr(made, "batch_idx", torch.zeros(8))), ValueError)


def test_levels() -> None:
    def set_key(key: str, value: torch.Tensor, level: str) -> Any:
        def script(p: Package) -> Any:
            made = batch(p)
            made[key] = value
            return key in made.keys[level]

        return script

    differs("levels", set_key("status", torch.zeros(3, 1), "system"), False, True)
    differs("levels", set_key("atom_categories", torch.zeros(8, dtype=torch.int64), "node"), ValueError, True)
    differs("levels", set_key("neighbor_matrix", torch.zeros(8, 2, dtype=torch.int32), "node"), ValueError, True)


def test_reading_and_deleting_keys() -> None:
    assert same(lambda p: ["forces" in batch(p), "nothing" in batch(p), sorted(key for key, _ in batch(p))])[:2] == [True, False]
    assert "forces" not in same(changed(lambda made: made.__delitem__("forces")))["tensors"]
    same_error(lambda p: batch(p)["nothing"], KeyError)
    same_error(lambda p: batch(p).nothing, AttributeError)
    same_error(changed(lambda made: made.__delitem__("nothing")), KeyError)


def add_key(values: list[torch.Tensor], make: Callable[..., Any] = batch, key: str = "mine", **options: Any) -> Any:
    def script(p: Package) -> Any:
        made = make(p)
        made.add_key(key, values, **options)
        return made, made.keys

    return script


PER_ATOM = [torch.full((n, 2), float(n)) for n in SIZES]


def test_add_key() -> None:
    assert "mine" in same(add_key(PER_ATOM))[1]["node"]
    assert "mine" in same(add_key([torch.full((1, 2), float(n)) for n in SIZES], level="system"))[1]["system"]
    assert "mine" in same(add_key([torch.full((2,), float(n)) for n in SIZES], level="system"))[1]["system"]
    assert "mine" in same(add_key([torch.full((n,), float(n)) for n in (5, 1, 2)], with_edges, level="edge"))[1]["edge"]
    assert same(add_key([torch.ones(n, 3) for n in SIZES], key="forces", overwrite=True))[0]["tensors"]["forces"]["numbers"] == [1.0] * 24


def test_add_key_that_cannot_be() -> None:
    same_error(add_key(PER_ATOM[:1]), ValueError)
    same_error(add_key([torch.ones(n, 3) for n in SIZES], key="forces"), ValueError)
    same_error(add_key([torch.ones(2)] * 3, level="edge"), ValueError)
    differs("wrong calls", add_key(PER_ATOM, level="bogus"), KeyError, ValueError)
    differs("wrong calls", add_key([torch.ones(2)] * 3), RuntimeError, ValueError)


# Systems

INDICES: dict[str, Any] = {
    "number": 1,
    "from the end": -1,
    "slice": slice(0, 2),
    "slice from behind": slice(None, None, -1),
    "list": [2, 0],
    "twice the same": [1, 1],
    "list from the end": [-1, 0],
    "tuple": (0, 1),
    "range": range(2),
    "tensor": torch.tensor([2, 0]),
    "tensor of int32": torch.tensor([2], dtype=torch.int32),
    "tensor without dimensions": torch.tensor(1),
    "tensor of two dimensions": torch.tensor([[0, 1]]),
    "mask": mask(1, 0, 1),
    "array": np.array([0, 2]),
    "mask in an array": np.array([True, False, True]),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_index_select(index: Any) -> None:
    result = same(lambda p: with_edges(p, **lattice()).index_select(index))
    assert set(result["sizes"]) <= {3, 2, 4}


@pytest.mark.parametrize("index", [[], [3], 5, slice(3, 3), mask(0, 0, 0), mask(1, 1, 1, 1), torch.tensor([1.0]), "x", None], ids=str)
def test_indices_of_nothing(index: Any) -> None:
    same_error(lambda p: with_edges(p).index_select(index), IndexError)


def test_indices_that_only_one_takes() -> None:
    def chosen(index: Any) -> Any:
        return lambda p: with_edges(p).index_select(index).num_nodes_list

    differs("indices", chosen(mask(1, 1)), [3, 2], IndexError)
    differs("indices", chosen([1.0]), [2], IndexError)
    differs("indices", chosen([True, False, True]), [2, 3, 2], [3, 4])
    differs("wrong calls", chosen([-4]), RuntimeError, IndexError)


def test_square_brackets() -> None:
    def script(p: Package) -> Any:
        made = with_edges(p)
        return [type(made[0]).__name__, made[[0, 2]], made[1:], made["energy"]]

    assert same(script)[0] == "AtomicData"


@pytest.mark.parametrize("index", [0, -1, 2])
def test_get_data(index: int) -> None:
    assert same(lambda p: tensors_of(with_edges(p).get_data(index)))["energy"]["numbers"] == [float(index % 3)]


def test_get_data_that_is_not_there() -> None:
    same_error(lambda p: with_edges(p).get_data(3), IndexError)
    same_error(lambda p: with_edges(p).get_data(-4), IndexError)


def test_all_structures() -> None:
    assert len(same(lambda p: [tensors_of(data) for data in with_edges(p).to_data_list()])) == 3


# Appending


def appended(first: Callable[..., Any], second: Callable[..., Any], **properties: Any) -> Any:
    def script(p: Package) -> Any:
        made, other = first(p), second(p, **properties)
        made.append(other)
        return made, other

    return script


@pytest.mark.parametrize("make", [batch, with_edges])
def test_append(make: Callable[..., Any]) -> None:
    result = same(appended(make, make))
    assert len(result[0]["sizes"]) == 6
    assert len(result[1]["sizes"]) == 3


def test_append_data() -> None:
    def script(p: Package, **options: Any) -> Any:
        made = batch(p)
        made.append_data([structure(p, 2, 7)], **options)
        return made

    assert same(script)["sizes"] == [3, 1, 4, 2]
    same_error(lambda p: batch(p).append_data([]), ValueError)


def test_append_to_itself() -> None:
    same_error(changed(lambda made: made.append(made)), ValueError)


def test_append_of_what_does_not_match() -> None:
    def keys(first: Callable[..., Any], second: Callable[..., Any], key: str, **properties: Any) -> Any:
        def script(p: Package) -> bool:
            made = first(p)
            made.append(second(p, **properties))
            return key in made

        return script

    differs("append", keys(batch, batch, "stress", stress=torch.ones(1, 3, 3)), False, True)
    differs("append", keys(with_edges, batch, "neighbor_list"), True, False)
    differs("append", keys(batch, batch, "forces", dtype=FLOAT64), True, ValueError)


# Copies


@pytest.mark.parametrize("copy", ["clone", "to", "to float64", "cpu", "contiguous"])
def test_copies(copy: str) -> None:
    ways: dict[str, Callable[[Any], Any]] = {
        "clone": lambda made: made.clone(),
        "to": lambda made: made.to("cpu"),
        # The dtype is part of the contract and without effect.
        "to float64": lambda made: made.to("cpu", dtype=FLOAT64),
        "cpu": lambda made: made.cpu(),
        "contiguous": lambda made: made.contiguous(),
    }

    def script(p: Package) -> Any:
        made = with_edges(p)
        copied = ways[copy](made)
        copied.positions.zero_()
        copied["status"] = torch.zeros(3, 1)
        return made, copied, copied is made

    made, copied, is_same = same(script)
    assert is_same == (copy == "contiguous")
    assert copied["tensors"]["positions"]["numbers"] == [0.0] * 27
    assert ("status" in made["tensors"]) == is_same
