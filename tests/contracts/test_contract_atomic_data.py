"""AtomicData beside the reference's: what a structure holds, what it refuses, and what it takes from ASE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from specimens import FLOAT64, lattice, structure, tensors_of
from two_packages import Package, differs, ours, same, same_error

YTTERBIUM = torch.tensor([70])


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_defaults(dtype: torch.dtype) -> None:
    def script(p: Package) -> Any:
        data = structure(p, dtype=dtype, n_edges=4, **lattice(dtype=dtype))
        return tensors_of(data), data.num_nodes, data.num_edges, data.dtype, data.device, data.info

    assert same(script)[1:] == [3, 4, str(dtype), "cpu", {}]


def test_masses_without_any_given() -> None:
    def mass(p: Package) -> float:
        data = p.AtomicData(positions=torch.zeros(1, 3, dtype=FLOAT64), atomic_numbers=YTTERBIUM)
        return float(data.atomic_masses)

    differs("masses", mass, 173.045, 173.054, atol=1e-9)
    # Elsewhere the tables agree.
    same(lambda p: p.AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.tensor([29])).atomic_masses)


def test_floats_are_cast_to_the_dtype_of_positions() -> None:
    def script(p: Package) -> Any:
        return tensors_of(structure(p, energy=torch.ones(1, 1, dtype=FLOAT64)))

    with pytest.warns(UserWarning, match="energy had another dtype"):
        assert same(script)["energy"]["dtype"] == "torch.float32"


@pytest.mark.parametrize("key", ["cell", "energy", "stress", "neighbor_list", "charge"])
def test_what_is_absent_is_none(key: str) -> None:
    bare = {"positions": torch.zeros(1, 3), "atomic_numbers": YTTERBIUM}
    assert same(lambda p: [getattr(p.AtomicData(**bare), key), p.AtomicData(**bare)[key]]) == [None, None]


BAD: dict[str, dict[str, Any]] = {
    "rows of positions": {"positions": torch.zeros(4, 3)},
    "integer positions": {"positions": torch.zeros(3, 3, dtype=torch.int64)},
    "no positions": {"positions": None},
    "a list for positions": {"positions": [[0.0, 0.0, 0.0]] * 3},
    "numbers that are no integers": {"atomic_numbers": torch.zeros(3)},
    "rows of forces": {"forces": torch.zeros(2, 3)},
    "columns of forces": {"forces": torch.zeros(3, 2)},
    "energy of one dimension": {"energy": torch.tensor([1.0])},
    "energy of none": {"energy": torch.tensor(1.0)},
    "cell of two dimensions": {"cell": torch.eye(3)},
    "pbc of one dimension": {"pbc": torch.tensor([True, True, True])},
    "integer pbc": {"pbc": torch.tensor([[1, 1, 1]])},
    "neighbours of shape [2, E]": {"neighbor_list": torch.tensor([[0, 1, 2], [1, 2, 0]])},
    "fewer shifts than neighbours": {
        "neighbor_list": torch.zeros(4, 2, dtype=torch.int64),
        "neighbor_list_shifts": torch.zeros(3, 3, dtype=torch.int64),
    },
}


@pytest.mark.parametrize("properties", BAD.values(), ids=BAD)
def test_shapes_and_kinds_are_checked(properties: dict[str, Any]) -> None:
    same_error(lambda p: structure(p, **properties), ValueError)


def test_names_that_are_not_there() -> None:
    same_error(lambda p: structure(p).nothing, AttributeError)
    same_error(lambda p: structure(p)["nothing"], AttributeError)


@pytest.mark.parametrize("value", [torch.ones(1, 1), None])
def test_assignment(value: Any) -> None:
    def script(p: Package) -> Any:
        data = structure(p)
        data.energy = value
        data["positions"] = torch.ones(3, 3)
        return tensors_of(data)

    assert same(script)["positions"]["numbers"] == [1.0] * 9


def test_assignment_is_checked() -> None:
    def script(p: Package) -> Any:
        data = structure(p)
        data.positions = torch.ones(4, 3)

    same_error(script, ValueError)


def added(level: str, value: torch.Tensor, **options: Any) -> Any:
    def script(p: Package) -> Any:
        data = structure(p, n_edges=4)
        getattr(data, f"add_{level}_property")("mine", value, **options)
        return data.mine, [set(data.node_properties), set(data.edge_properties), set(data.system_properties)]

    return script


@pytest.mark.parametrize(("level", "value"), [("edge", torch.ones(4, 2)), ("system", torch.ones(1, 2))])
def test_own_properties(level: str, value: torch.Tensor) -> None:
    place = {"edge": 1, "system": 2}[level]
    assert "mine" in same(added(level, value))[1][place]


def test_own_properties_per_atom() -> None:
    def is_known(p: Package) -> bool:
        return "mine" in added("node", torch.ones(3, 2))(p)[1][0]

    differs("own keys", is_known, False, True)
    differs("own keys", lambda p: list(added("node", torch.ones(2, 3), node_dim=1)(p)[0].shape), [2, 3], [3, 2])


@pytest.mark.parametrize("level", ["node", "edge", "system"])
def test_own_properties_with_too_many_rows(level: str) -> None:
    differs("own keys", lambda p: list(added(level, torch.ones(5, 2))(p)[0].shape), [5, 2], ValueError)


def test_equality() -> None:
    def script(p: Package) -> Any:
        one = structure(p)
        order = torch.tensor([2, 0, 1])
        turned = p.AtomicData(positions=one.positions[order], atomic_numbers=one.atomic_numbers[order])
        return [one == structure(p), one == turned, one == structure(p, seed=1), one == 3, len(one.chemical_hash)]

    assert same(script) == [True, True, False, False, 64]


def test_copies() -> None:
    def script(p: Package) -> Any:
        data = structure(p)
        copies = [data.to("cpu"), data.to("cpu", dtype=FLOAT64), data.cpu(), data.clone()]
        data.clone().positions.zero_()
        return [tensors_of(copy) for copy in [*copies, data]]

    assert [copy["positions"]["dtype"] for copy in same(script)] == [f"torch.float{n}" for n in (32, 64, 32, 32, 32)]


def test_wrong_calls() -> None:
    for missing in ("positions", "atomic_numbers"):
        given = {"positions": torch.zeros(2, 3), "atomic_numbers": torch.zeros(2, dtype=torch.int64)}
        del given[missing]
        differs("wrong calls", lambda p, given=given: p.AtomicData(**given), ValueError, TypeError)
    heavy = torch.tensor([119])
    differs("wrong calls", lambda p: p.AtomicData(positions=torch.zeros(1, 3), atomic_numbers=heavy), IndexError, ValueError)


# ASE


def from_atoms(atoms: Atoms, **options: Any) -> Any:
    return lambda p: tensors_of(p.AtomicData.from_atoms(atoms, **options))


ALSO = {"fixed", "symprec", "tags", "initial_charges", "initial_magmoms"}
"""What ours takes over and the reference does not."""


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_what_both_take_from_ase(dtype: torch.dtype) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.info.update(energy=1.5, stress=np.arange(6.0), dipole=np.ones(3), charge=2)
    atoms.arrays["forces"] = np.ones((4, 3))
    atoms.arrays["charges"] = np.full(4, 0.5)

    def script(p: Package) -> Any:
        seen = from_atoms(atoms, dtype=dtype)(p)
        seen["atomic_numbers"] = seen["atomic_numbers"].long()
        return {key: value for key, value in seen.items() if key not in ALSO}

    assert {"energy", "forces", "stress", "dipole", "charge", "charges", "cell", "pbc"} <= set(same(script))


def test_names_of_labels() -> None:
    atoms = molecule("H2O")
    atoms.info["mine"] = -1.0
    assert same(lambda p: from_atoms(atoms, energy_key="mine")(p)["energy"])["numbers"] == [-1.0]


def test_what_else_is_taken_from_ase() -> None:
    water = molecule("H2O")
    water.set_velocities(np.ones((3, 3)))

    def script(p: Package) -> Any:
        seen = from_atoms(water)(p)
        return [seen["atomic_numbers"].dtype, "cell" in seen, ALSO & set(seen), bool(seen["velocities"].any())]

    differs("from_atoms", script, ["torch.int32", False, set(), False], ["torch.int64", True, ALSO, True])


def test_info_of_ase() -> None:
    atoms = Atoms("Cu", info={"name": "x", "number": 3})

    def script(p: Package) -> Any:
        return p.AtomicData.from_atoms(atoms).info

    differs("from_atoms", script, {"number": torch.tensor([3.0])}, {"name": "x", "number": 3})


def test_cells_of_ase() -> None:
    slab = Atoms("Cu2", [[0, 0, 0], [0, 0, 2]], cell=[3, 3, 0], pbc=[True, True, False])
    differs("from_atoms", lambda p: from_atoms(slab)(p)["pbc"], ValueError, torch.tensor([[True, True, False]]))
    same_error(from_atoms(Atoms("Cu", pbc=True)), ValueError)


def test_no_atoms_at_all() -> None:
    differs("from_atoms", lambda p: len(from_atoms(Atoms())(p)["positions"]), 0, ValueError)


def test_charges_are_whole_numbers() -> None:
    same_error(from_atoms(Atoms("Cu", info={"charge": 0.5})), ValueError)


def test_ours_gives_atoms_back() -> None:
    # What the table promises of `from_atoms`: nothing is lost on the way.
    atoms = bulk("Cu", cubic=True)
    atoms.set_tags([1, 2, 3, 4])
    assert ours().AtomicData.from_atoms(atoms).tags.tolist() == [1, 2, 3, 4]
