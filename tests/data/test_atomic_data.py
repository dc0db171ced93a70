"""One structure: what it accepts, fills in, and refuses."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from ase.data import atomic_masses

from campaign.data import AtomicData
from campaign.errors import InputError
from campaign.fields import Level

POSITIONS = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]], dtype=torch.float64)
NUMBERS = torch.tensor([6, 8])


def monoxide(**properties: Any) -> AtomicData:
    return AtomicData(positions=POSITIONS.clone(), atomic_numbers=NUMBERS.clone(), **properties)


def test_defaults() -> None:
    data = monoxide()
    assert data.atomic_masses.tolist() == atomic_masses[[6, 8]].tolist()
    assert torch.equal(data.velocities, torch.zeros(2, 3, dtype=torch.float64))
    assert data.atom_categories.tolist() == [0, 0]
    assert (data.num_nodes, data.num_edges, data.dtype, data.device.type, data.info) == (2, 0, torch.float64, "cpu", {})


def test_what_is_absent_is_none_and_what_is_unknown_is_an_error() -> None:
    data = monoxide(forces=None)
    assert data.forces is None and data.energy is None and "forces" not in data
    with pytest.raises(AttributeError, match=r"no property 'force'; it has positions"):
        _ = data.force


def test_levels_and_groups_of_properties() -> None:
    edges = torch.tensor([[0, 1], [1, 0]])
    data = monoxide(energy=torch.ones(1, 1, dtype=torch.float64), neighbor_list=edges, system_id=torch.tensor([[3]]))
    assert set(data.node_properties) == {"positions", "atomic_numbers", "atomic_masses", "velocities", "atom_categories"}
    assert set(data.edge_properties) == {"neighbor_list"}
    assert set(data.system_properties) == {"energy", "system_id"}
    assert data.num_edges == 2
    assert dict(iter(data)) == data.to_dict()


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"forces": torch.zeros(3, 3).double()}, r"forces has shape \(3, 3\); it must be \(2 atoms, 3\)"),
        ({"forces": torch.zeros(2).double()}, r"forces has shape \(2,\); it must be \(2 atoms, 3\)"),
        ({"cell": torch.eye(3).double()}, r"cell has shape \(3, 3\); it must be \(1 systems, 3, 3\)"),
        ({"energy": torch.zeros(1).double()}, r"energy has shape \(1,\); it must be \(1 systems, 1\)"),
        ({"pbc": torch.zeros(1, 3)}, r"pbc has dtype torch.float32; it must be bool"),
        ({"tags": torch.zeros(2)}, r"tags has dtype torch.float32; it must be integer"),
        (
            {"neighbor_list": torch.zeros(2, 2, dtype=torch.int32), "shifts": torch.zeros(3, 3).double()},
            r"shifts has shape \(3, 3\); it must be \(2 edges, 3\)",
        ),
        ({"charges": [0.0, 0.0]}, r"charges is a list; a node property is a tensor. Use torch.as_tensor"),
    ],
)
def test_wrong_properties_are_refused(properties: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        monoxide(**properties)


def test_required_properties_are_checked_too() -> None:
    with pytest.raises(InputError, match=r"positions has dtype torch.int64; it must be float"):
        AtomicData(positions=torch.zeros(2, 3, dtype=torch.int64), atomic_numbers=NUMBERS)
    with pytest.raises(InputError, match=r"atomic_numbers has shape \(3,\); it must be \(2 atoms\)"):
        AtomicData(positions=POSITIONS, atomic_numbers=torch.tensor([1, 2, 3]))
    with pytest.raises(InputError, match=r"positions was set to None.*always has it.*Give a tensor"):
        monoxide().positions = None  # type: ignore[assignment]


def test_unknown_elements_need_masses() -> None:
    numbers = torch.tensor([6, 200])
    with pytest.raises(InputError, match=r"runs from 6 to 200; masses are known for 0 to 118.*give atomic_masses"):
        AtomicData(positions=POSITIONS, atomic_numbers=numbers)
    assert AtomicData(positions=POSITIONS, atomic_numbers=numbers, atomic_masses=torch.ones(2).double()).num_nodes == 2


def test_other_precisions_are_cast_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"cell, energy had another dtype than positions and was cast to torch.float64"):
        data = monoxide(energy=torch.ones(1, 1), cell=torch.ones(1, 3, 3))
    assert data.energy.dtype == data.cell.dtype == torch.float64


def test_assignment_is_checked() -> None:
    data = monoxide()
    data.forces = torch.ones(2, 3).double()
    data["tags"] = torch.tensor([1, 2])
    assert data["forces"].sum() == 6 and data.tags.tolist() == [1, 2]
    with pytest.raises(InputError, match="forces has shape"):
        data.forces = torch.ones(1, 3)
    data.forces = None
    assert "forces" not in data


def test_properties_of_ones_own() -> None:
    data = monoxide()
    data.add_node_property("colour", torch.ones(5, 2), node_dim=1)
    data.add_system_property("name", torch.ones(1, 7))
    data.add_edge_property("bond", torch.ones(4))
    assert data.colour.shape == (2, 5)
    assert (data.level_of("colour"), data.level_of("name"), data.level_of("bond")) == (Level.ATOM, Level.SYSTEM, Level.EDGE)
    assert set(data.system_properties) == {"name"}
    with pytest.raises(InputError, match=r"colour has shape \(3,\); it must have 2 rows, one per atom"):
        data.add_node_property("colour", torch.ones(3))
    with pytest.raises(InputError, match=r"energy is declared per system; it was added per atom"):
        data.add_node_property("energy", torch.ones(2, 1))


def test_copies_share_nothing() -> None:
    data = monoxide(info={"a": 1})
    data.add_node_property("colour", torch.ones(2))
    copy = data.clone()
    copy.positions += 1.0
    copy.info["a"] = 2
    assert torch.equal(data.positions, POSITIONS) and data.info == {"a": 1}
    assert copy.level_of("colour") is Level.ATOM


def test_to_casts_floating_point_only() -> None:
    single = monoxide(tags=torch.tensor([1, 2])).to("cpu", dtype=torch.float32)
    assert (single.positions.dtype, single.atomic_masses.dtype, single.tags.dtype) == (torch.float32, torch.float32, torch.int64)
    assert single.cpu().dtype == torch.float32


def test_equality_is_chemical() -> None:
    data = monoxide()
    swapped = AtomicData(positions=POSITIONS.flip(0), atomic_numbers=NUMBERS.flip(0))
    assert data == swapped and data.chemical_hash == swapped.chemical_hash
    assert data == monoxide(energy=torch.ones(1, 1).double())
    moved = monoxide()
    moved.positions[0, 0] = 1e-9
    periodic = monoxide(cell=torch.eye(3)[None].double(), pbc=torch.ones(1, 3, dtype=torch.bool))
    assert len({data.chemical_hash, moved.chemical_hash, periodic.chemical_hash}) == 3
    assert data != "CO"


def test_it_pickles() -> None:
    data = monoxide(info={"a": [1]})
    again = pickle.loads(pickle.dumps(data))
    assert again == data and again.info == {"a": [1]} and again.forces is None


def test_repr_has_shapes() -> None:
    assert "positions=[2, 3]" in repr(monoxide())
