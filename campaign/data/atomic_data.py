"""One structure as tensors: what goes into a `Batch` and comes out of it.

Names, shapes and defaults are those of the nvalchemi dynamics contract; the class itself is plain Python, since a structure is made and
thrown away thousands of times a second. Properties per system have a leading dimension of 1, so that batching is concatenation.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from campaign.data.levels import KEYS, LEVEL_NAMES, BatchKey, declared_level
from campaign.errors import InputError
from campaign.fields import Level

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["AtomicData"]

_ABSENT = frozenset(KEYS)


class AtomicData:
    """One structure of A atoms (and E edges, where a neighbour list is given).

    Args:
        positions: Å; their dtype is the dtype of the structure, to which all other floating-point properties are cast, with a warning.
        atomic_numbers: any integer dtype.
        info: anything that belongs to the structure; kept, but never batched.
        properties: any key of `campaign.data.levels.KEYS`, None standing for absent, or a key of one's own; the level of the latter is
            given with `add_node_property` and its siblings before the structure is batched.

    `atomic_masses` (amu), `velocities` (zero) and `atom_categories` (zero) are filled in where not given. Reading a known property that
    is absent gives None.

    Raises:
        InputError: a property has the wrong shape, kind of number or number of rows.

    >>> data = AtomicData(positions=torch.zeros(2, 3), atomic_numbers=torch.tensor([29, 79]), energy=torch.tensor([[1.5]]))
    >>> data.num_nodes, data.num_edges, data.energy.shape, data.cell is None
    (2, 0, torch.Size([1, 1]), True)
    """

    positions: Float[Tensor, "A 3"]
    atomic_numbers: Integer[Tensor, " A"]
    atomic_masses: Float[Tensor, " A"]
    atom_categories: Integer[Tensor, " A"]
    velocities: Float[Tensor, "A 3"]
    forces: Float[Tensor, "A 3"] | None
    fixed: Bool[Tensor, "A 3"] | None
    cell: Float[Tensor, "1 3 3"] | None
    pbc: Bool[Tensor, "1 3"] | None
    energy: Float[Tensor, "1 1"] | None
    stress: Float[Tensor, "1 3 3"] | None
    system_id: Integer[Tensor, "1 1"] | None
    neighbor_list: Integer[Tensor, "E 2"] | None
    neighbor_list_shifts: Integer[Tensor, "E 3"] | None
    info: dict[str, Any]

    def __init__(self, *, positions: Tensor, atomic_numbers: Tensor, info: dict[str, Any] | None = None, **properties: Any) -> None:
        put = self.__dict__
        put["_levels"] = {}
        put["info"] = {} if info is None else dict(info)
        _check("positions", positions, None)
        _check("atomic_numbers", atomic_numbers, len(positions))
        put["positions"], put["atomic_numbers"] = positions, atomic_numbers
        present = {key: value for key, value in properties.items() if value is not None}
        n_edges = len(present["neighbor_list"]) if isinstance(present.get("neighbor_list"), Tensor) else None
        for key, value in present.items():
            if key in KEYS:
                _check(key, value, _n_rows(KEYS[key], len(positions), n_edges))
            put[key] = value
        self._move_to_one_device()
        self._cast_to_one_dtype()
        self._fill_defaults()

    def _move_to_one_device(self) -> None:
        # A device wins over the host, whichever of the two has it.
        device = next((t.device for t in (self.positions, self.atomic_numbers) if t.device.type != "cpu"), self.positions.device)
        for key, value in self.__dict__.items():
            if isinstance(value, Tensor) and value.device != device:
                self.__dict__[key] = value.to(device)

    def _cast_to_one_dtype(self) -> None:
        dtype = self.positions.dtype
        cast = sorted(key for key, value in self if value.is_floating_point() and value.dtype != dtype)
        for key in cast:
            self.__dict__[key] = self.__dict__[key].to(dtype)
        if cast:
            warnings.warn(
                f"AtomicData: {', '.join(cast)} had another dtype than positions and was cast to {dtype}; all floating-point properties "
                f"of a structure share one. Pass them as {dtype}.",
                UserWarning,
                stacklevel=3,
            )

    def _fill_defaults(self) -> None:
        put, numbers = self.__dict__, self.atomic_numbers
        if "atomic_masses" not in put:
            table = _default_masses()
            if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(table):
                raise InputError(
                    f"atomic_numbers runs from {int(numbers.min())} to {int(numbers.max())}; masses are known for 0 to {len(table) - 1}. "
                    "Correct the numbers or give atomic_masses."
                )
            put["atomic_masses"] = table.to(numbers.device, self.positions.dtype)[numbers.long()]
        if "velocities" not in put:
            put["velocities"] = torch.zeros_like(self.positions)
        if "atom_categories" not in put:
            put["atom_categories"] = torch.zeros_like(numbers, dtype=torch.int64)

    # Reading and writing

    def __getattr__(self, name: str) -> Any:
        # Only called for what __dict__ lacks.
        if name in _ABSENT:
            return None
        raise AttributeError(f"AtomicData has no property {name!r}; it has {', '.join(self.keys)}.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in KEYS and value is not None:
            n_edges = len(self.neighbor_list) if self.neighbor_list is not None and name != "neighbor_list" else None
            _check(name, value, _n_rows(KEYS[name], self.num_nodes, n_edges))
        if value is None and name in ("positions", "atomic_numbers"):
            raise InputError(f"{name} was set to None; a structure always has it. Give a tensor.")
        if value is None:
            self.__dict__.pop(name, None)
        else:
            self.__dict__[name] = value

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over names and tensors of the properties that are present."""
        for key, value in list(self.__dict__.items()):
            if isinstance(value, Tensor):
                yield key, value

    @property
    def keys(self) -> list[str]:
        """Names of the properties that are present."""
        return [key for key, _ in self]

    def level_of(self, key: str) -> Level | None:
        """Return the level of a property, or None where nobody has declared it."""
        level: Level | None = self._levels.get(key)
        return declared_level(key) if level is None else level

    def add_node_property(self, key: str, value: Tensor, node_dim: int = 0) -> None:
        """Add a property per atom: its dimension `node_dim` has A entries and becomes the first.

        Raises:
            InputError: it has another number of rows.
        """
        self._add(key, value.movedim(node_dim, 0), Level.ATOM, self.num_nodes)

    def add_edge_property(self, key: str, value: Tensor) -> None:
        """Add a property per edge.

        Raises:
            InputError: it has another number of rows.
        """
        n_edges = self.num_edges if self.neighbor_list is not None and key != "neighbor_list" else len(value)
        self._add(key, value, Level.EDGE, n_edges)

    def add_system_property(self, key: str, value: Tensor) -> None:
        """Add a property of the system; its first dimension is 1.

        Raises:
            InputError: it has another number of rows.
        """
        self._add(key, value, Level.SYSTEM, 1)

    def _add(self, key: str, value: Tensor, level: Level, n_rows: int) -> None:
        declared = declared_level(key)
        if declared not in (None, level):
            raise InputError(f"{key} is declared per {declared}; it was added per {level}. Choose another name.")
        if value.ndim == 0 or len(value) != n_rows:
            raise InputError(f"{key} has shape {tuple(value.shape)}; it must have {n_rows} rows, one per {level}. Reshape it.")
        self._levels[key] = level
        setattr(self, key, value)

    @property
    def node_properties(self) -> dict[str, Tensor]:
        """Properties per atom."""
        return self._of_level(Level.ATOM)

    @property
    def edge_properties(self) -> dict[str, Tensor]:
        """Properties per edge."""
        return self._of_level(Level.EDGE)

    @property
    def system_properties(self) -> dict[str, Tensor]:
        """Properties of the system."""
        return self._of_level(Level.SYSTEM)

    def _of_level(self, level: Level) -> dict[str, Tensor]:
        return {key: value for key, value in self if self.level_of(key) is level}

    # Size, place and identity

    @property
    def num_nodes(self) -> int:
        """A."""
        return len(self.atomic_numbers)

    @property
    def num_edges(self) -> int:
        """E; 0 without a neighbour list."""
        return 0 if self.neighbor_list is None else len(self.neighbor_list)

    @property
    def device(self) -> torch.device:
        """Device of the structure."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point dtype of the structure."""
        return self.positions.dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None, non_blocking: bool = False) -> Self:
        """Return a structure on another device and, if `dtype` is given, of another floating-point dtype."""
        return self._map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None, non_blocking=non_blocking))

    def cpu(self) -> Self:
        """Return a structure on the host."""
        return self.to("cpu")

    def clone(self) -> Self:
        """Return a structure that shares no tensor with this one."""
        return self._map(Tensor.clone)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        new = type(self).__new__(type(self))
        for key, value in self.__dict__.items():
            new.__dict__[key] = change(value) if isinstance(value, Tensor) else dict(value) if isinstance(value, dict) else value
        return new

    def to_dict(self) -> dict[str, Tensor]:
        """Return the properties that are present, by name."""
        return dict(iter(self))

    @property
    def chemical_hash(self) -> str:
        """Hash of elements, positions, cell and periodicity that does not depend on the order of the atoms."""
        numbers = self.atomic_numbers.cpu().numpy().astype(np.int64)
        positions = self.positions.detach().cpu().numpy().astype(np.float64) + 0.0  # -0.0 and 0.0 are one place
        order = np.lexsort((positions[:, 2], positions[:, 1], positions[:, 0], numbers))
        digest = hashlib.blake2s(numbers[order].tobytes() + positions[order].tobytes())
        if self.pbc is not None and self.cell is not None and bool(self.pbc.any()):
            digest.update(self.pbc.cpu().numpy().tobytes() + self.cell.detach().cpu().numpy().astype(np.float64).tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.chemical_hash == other.chemical_hash if isinstance(other, AtomicData) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equality follows tensors that may change

    def __repr__(self) -> str:
        shapes = ", ".join(f"{key}={list(value.shape)}" for key, value in self)
        return f"{type(self).__name__}({shapes})"

    # ASE

    @classmethod
    def from_atoms(cls, atoms: Atoms, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, **keys: str) -> Self:
        """Return the structure of an `ase.Atoms`; see `campaign.data.ase_atoms.properties_from_atoms`, which does the work.

        Raises:
            InputError: it holds something that a relaxation cannot take over.
        """
        # ASE takes 0.1 s to import and is not needed by whoever brings tensors.
        from campaign.data.ase_atoms import properties_from_atoms

        return cls(**properties_from_atoms(atoms, torch.device(device), dtype, **keys))

    def to_atoms(self) -> Atoms:
        """Return an `ase.Atoms` with everything ASE has a place for; see `campaign.data.ase_atoms.atoms_from_data`."""
        from campaign.data.ase_atoms import atoms_from_data

        return atoms_from_data(self)


def _n_rows(key: BatchKey, n_atoms: int, n_edges: int | None) -> int | None:
    return {Level.ATOM: n_atoms, Level.EDGE: n_edges, Level.SYSTEM: 1}[key.level]


def _check(name: str, value: Any, n_rows: int | None) -> None:
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name} is a {type(value).__name__}; a {LEVEL_NAMES[KEYS[name].level]} property is a tensor. Use torch.as_tensor."
        )
    complaint = KEYS[name].complaint(name, tuple(value.shape), value.dtype, n_rows)
    if complaint:
        raise InputError(f"AtomicData: {complaint}. Reshape or cast it.")


@cache
def _default_masses() -> Float[Tensor, " 119"]:
    # ASE's table, so that masses that were never set stay what ASE says; its import is heavy for whoever brings masses.
    from ase.data import atomic_masses

    return torch.tensor(atomic_masses, dtype=torch.float64)
