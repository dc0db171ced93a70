"""Many structures in one set of tensors: atoms of all systems one after the other, with pointers that say whose they are.

Names and behaviour follow the `Batch` of the nvalchemi dynamics contract. Every key has a level (atom, edge, system) by declaration, so a
batch with as many atoms as systems is nothing special. Pointer arithmetic is in `pointers.py`, construction in `build.py`, the use of a
batch as a buffer of fixed size in `buffer.py`.

Where this differs from nvalchemi 0.2.0: neighbour matrices are renumbered when systems are selected or appended (there they go stale);
`append` keeps keys that only one side has; `put` copies every dtype; `index_select` and `append` have no loop over systems.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Int32
from numpy import ndarray
from torch import Tensor

from campaign.data import buffer, build, combine
from campaign.data.atomic_data import AtomicData
from campaign.data.levels import LEVEL_NAMES, declared_level, parse_level
from campaign.data.segments import Segments
from campaign.data.sizes import Sizes
from campaign.errors import BatchError, BatchKeyError
from campaign.fields import Level

__all__ = ["Batch", "SystemIndex"]

SystemIndex = int | slice | Tensor | ndarray[Any, Any] | Sequence[int]
"""What names systems of a batch: positions, negative ones from the end, or a mask."""


class Batch(Sizes):
    """N systems of A atoms and E edges in total, as a structure of arrays.

    Make one with `from_data_list`, `from_arrays` or `empty`. Tensors are read and replaced as `batch["positions"]` or `batch.positions`.
    A new key takes its declared level; one that nobody declared is per system, as in the contract, unless `add_key` says otherwise.

    >>> water = AtomicData(positions=torch.zeros(3, 3), atomic_numbers=torch.tensor([8, 1, 1]))
    >>> copper = AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.tensor([29]))
    >>> batch = Batch.from_data_list([water, copper])
    >>> batch.num_graphs, batch.num_nodes, batch.batch_idx.tolist(), batch.batch_ptr.tolist()
    (2, 4, [0, 0, 0, 1], [0, 3, 4])
    >>> batch.index_select([1]).atomic_numbers.tolist()
    [29]
    """

    device: torch.device

    def __init__(
        self,
        tensors: dict[str, Tensor],
        levels: dict[str, Level],
        atoms: Segments,
        edges: Segments | None = None,
        capacity: dict[Level, int] | None = None,
    ) -> None:
        put = self.__dict__
        put["_tensors"], put["_levels"], put["_capacity"] = tensors, levels, capacity
        put["device"] = atoms.device
        put["atom_segments"] = atoms
        put["edge_segments"] = Segments(np.zeros(atoms.n_segments, dtype=np.int64), atoms.device) if edges is None else edges

    # Construction

    @classmethod
    def from_data_list(
        cls,
        data_list: Sequence[AtomicData],
        device: torch.device | str | None = None,
        skip_validation: bool = False,
        exclude_keys: Collection[str] | None = None,
        field_levels: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a batch of these structures; `field_levels` declares the level of keys of one's own.

        All must have the same properties, except that a structure without cell and pbc is one with a zero cell and no periodicity.

        Raises:
            BatchError: the list is empty, a structure lacks a property that another has, or a property has no declared level.
        """
        del skip_validation  # the contract's; structures are checked when they are made
        levels = {key: parse_level(level) for key, level in (field_levels or {}).items()}
        return cls(*build.from_data_list(data_list, _device(device), frozenset(exclude_keys or ()), levels))

    @classmethod
    def from_arrays(
        cls,
        n_atoms: ndarray[Any, Any] | Tensor | Sequence[int],
        atom: Mapping[str, ndarray[Any, Any] | Tensor],
        system: Mapping[str, ndarray[Any, Any] | Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Return a batch from concatenated columns: `atom` has one row per atom, `system` one per system, `n_atoms` says how many each has.

        Arrays are copied, tensors that are on the device already are not. `dtype`, if given, is that of all floating-point columns.

        Raises:
            BatchError: a column has the wrong number of rows, shape or kind, or is declared for the other level.

        >>> batch = Batch.from_arrays([2, 1], {"positions": np.zeros((3, 3))}, {"energy": np.zeros((2, 1))})
        >>> batch.level_of("energy").value, batch.num_nodes_list
        ('system', [2, 1])
        """
        return cls(*build.from_arrays(n_atoms, atom, system, torch.device(device), dtype))

    @classmethod
    def empty(
        cls,
        *,
        num_systems: int,
        num_nodes: int,
        num_edges: int,
        template: AtomicData | Batch | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return a batch of no systems with room for so many, to be filled by `put`; keys, shapes and dtypes are those of `template`.

        Raises:
            BatchError: a number is negative.
        """
        if template is None:
            template = AtomicData(positions=torch.zeros(1, 3), atomic_numbers=torch.zeros(1, dtype=torch.int64), energy=torch.zeros(1, 1))
        source = cls.from_data_list([template]) if isinstance(template, AtomicData) else template
        capacity = {Level.SYSTEM: num_systems, Level.ATOM: num_nodes, Level.EDGE: num_edges}
        return cls(*buffer.allocate(source, capacity, torch.device(device)))

    @classmethod
    def empty_like(cls, batch: Batch, *, device: torch.device | str | None = None) -> Self:
        """Return a batch of no systems and no room with the keys of `batch`."""
        return cls.empty(num_systems=0, num_nodes=0, num_edges=0, template=batch, device=batch.device if device is None else device)

    # Size, beyond what `Sizes` has

    @property
    def system_capacity(self) -> int:
        """Systems that the batch has room for; N unless it was made by `empty`."""
        return self.num_graphs if self._capacity is None else int(self._capacity[Level.SYSTEM])

    @property
    def edge_ptr(self) -> Int32[Tensor, " A+1"]:
        """First edge of each atom, and E; meaningful for a neighbour list sorted by its first column."""
        ptr = torch.zeros(self.num_nodes + 1, dtype=torch.int32, device=self.device)
        if "neighbor_list" in self:
            ptr[1:] = torch.bincount(self["neighbor_list"][:, 0], minlength=self.num_nodes).cumsum(0)
        return ptr

    # Keys

    @property
    def keys(self) -> dict[str, set[str]]:
        """Names of the tensors by level: node, edge, system."""
        return {name: {key for key, own in self._levels.items() if own is level} for level, name in LEVEL_NAMES.items()}

    def level_of(self, key: str) -> Level:
        """Return the level of a key that the batch has.

        Raises:
            BatchKeyError: it has no such key.
        """
        try:
            level: Level = self._levels[key]
        except KeyError:
            raise self._no_such_key(key) from None
        return level

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def __getitem__(self, key: str | SystemIndex) -> Any:
        """Return a tensor by name, an `AtomicData` by position, or a `Batch` of several systems."""
        if isinstance(key, str):
            try:
                tensor = self._tensors[key]
            except KeyError:
                raise self._no_such_key(key) from None
            return tensor if self._capacity is None else tensor[: self.n_rows(self._levels[key])]
        if isinstance(key, int):
            return self.get_data(key)
        return self.index_select(key)

    def __setitem__(self, key: str, value: Tensor) -> None:
        """Replace a tensor, or add one under its declared level.

        Raises:
            BatchError: the tensor has another number of rows than its level.
        """
        level = self._levels.get(key) or declared_level(key) or Level.SYSTEM
        self._store(key, value, level)

    def __delitem__(self, key: str) -> None:
        self.level_of(key)
        del self._tensors[key], self._levels[key]

    def __getattr__(self, name: str) -> Any:
        # Only called for what is neither a property nor in __dict__.
        if not name.startswith("_") and name in self._tensors:
            return self[name]
        raise AttributeError(f"this batch has no {name!r}; it has {', '.join(self.__dict__.get('_tensors', ()))}.")

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, Tensor):
            self.__dict__[name] = value
        elif hasattr(type(self), name):
            raise BatchError(f"{name} of a batch follows from its systems and cannot be set. Use another name.")
        else:
            self[name] = value

    def add_key(self, key: str, values: Tensor | Sequence[Tensor], level: str | Level = "node", overwrite: bool = False) -> None:
        """Add a tensor of the given level: all its rows, or a list with the rows of each system.

        Raises:
            BatchError: the key is there already and not to be overwritten, is declared for another level, or has the wrong number of rows.
        """
        parsed = parse_level(level)
        if key in self and not overwrite:
            raise BatchError(f"the batch has a key {key!r} already; keys are added once. Pass overwrite=True to replace it.")
        if declared_level(key) not in (None, parsed):
            raise BatchError(f"{key} is declared per {declared_level(key)}; it was added per {parsed}. Choose another name.")
        if not isinstance(values, Tensor):
            if len(values) != self.num_graphs:
                raise BatchError(f"{key} was given for {len(values)} systems; the batch has {self.num_graphs}. Give one tensor for each.")
            values = build.concatenate_values(values, parsed, self.device)
        self._store(key, values, parsed)

    def replace_edges(self, n_edges: ndarray[Any, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace the whole edge level: `n_edges` edges per system, and its tensors, `neighbor_list` counting atoms through the batch.

        Raises:
            BatchError: a tensor has another number of rows.
        """
        for key in [key for key, level in self._levels.items() if level is Level.EDGE]:
            del self[key]
        self.__dict__["edge_segments"] = Segments(np.array(n_edges, dtype=np.int64), self.device)
        for key, tensor in tensors.items():
            self._store(key, tensor, Level.EDGE)

    def _store(self, key: str, value: Any, level: Level) -> None:
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value)
        n_rows = self.n_rows(level)
        if value.ndim == 0 or value.shape[0] != n_rows:
            raise BatchError(
                f"{key} has shape {tuple(value.shape)}; a key per {level} needs {n_rows} rows in a batch of {self.num_graphs} systems and "
                f"{self.num_nodes} atoms. Reshape it, or give its level with add_key."
            )
        if value.device != self.device:
            value = value.to(self.device)
        if self._capacity is not None:
            value = buffer.pad(value, self._capacity[level])
        self._tensors[key] = value
        self._levels[key] = level

    def _no_such_key(self, key: str) -> BatchKeyError:
        return BatchKeyError(f"the batch has no key {key!r}; it has {', '.join(self._tensors)}. Set it first.")

    # Systems

    def __len__(self) -> int:
        return self.num_graphs

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over names and tensors."""
        for key in list(self._tensors):
            yield key, self[key]

    def get_data(self, idx: int) -> AtomicData:
        """Return one system, its tensors being views; neighbours are counted from its own first atom.

        Raises:
            BatchIndexError: there is no such system.
        """
        system = int(self.positions_of(idx)[0])
        return build.one_system(self, system)

    def to_data_list(self) -> list[AtomicData]:
        """Return all systems, one by one."""
        return [build.one_system(self, system) for system in range(self.num_graphs)]

    def positions_of(self, idx: SystemIndex) -> ndarray[Any, Any]:
        """Return what `idx` names as positions from 0, int64.

        Raises:
            BatchIndexError: it names nothing, a system that is not there, or is no index at all.
        """
        return combine.system_positions(idx, self.num_graphs)

    def index_select(self, idx: SystemIndex, exclude_keys: Collection[str] = ()) -> Self:
        """Return a batch of some systems, in the order named, without the keys in `exclude_keys`; nothing is shared with this one.

        Raises:
            BatchIndexError: `idx` names nothing or a system that is not there.
        """
        return type(self)(*combine.select(self, self.positions_of(idx), exclude_keys))

    def append(self, other: Batch) -> None:
        """Append the systems of another batch, which is not changed.

        A key that one side lacks is zero for its systems, except neighbour data, which both must have or neither keeps.

        Raises:
            BatchError: the batches share storage, or a key has another level, dtype or shape of a row in each.
        """
        if other is self or other._tensors is self._tensors:
            raise BatchError("a batch was appended to itself; both would be damaged. Append its clone().")
        self._become(combine.concatenate(self, other))

    def append_data(self, data_list: Sequence[AtomicData], exclude_keys: Collection[str] | None = None) -> None:
        """Append structures.

        Raises:
            BatchError: there are none, or see `append`.
        """
        self.append(Batch.from_data_list(data_list, device=self.device, exclude_keys=exclude_keys))

    def _become(self, parts: tuple[dict[str, Tensor], dict[str, Level], Segments, Segments]) -> None:
        put = self.__dict__
        put["_tensors"], put["_levels"], put["atom_segments"], put["edge_segments"] = parts
        put["_capacity"] = None

    # As a buffer

    def put(
        self, src_batch: Batch, mask: Bool[Tensor, " M"], *, copied_mask: Tensor | None = None, dest_mask: Tensor | None = None
    ) -> None:
        """Copy the masked systems of another batch into the room that is left, in order, until one does not fit.

        Args:
            src_batch: where they come from; it is not changed, but remembers what was copied for its own `defrag` and `trim`.
            mask: one entry per system of `src_batch`.
            copied_mask: if given, is set to what was copied.
            dest_mask: if given, one entry per system there is room for, true where occupied; is brought up to date.

        Raises:
            BatchError: a mask has the wrong length, or `src_batch` lacks a key of this one.
        """
        src_batch.__dict__["_copied_mask"] = buffer.put(self, src_batch, mask, dest_mask, copied_mask)

    def defrag(self, copied_mask: Bool[Tensor, " N"] | None = None) -> Self:
        """Remove the systems in `copied_mask`, by default those of the last `put`, and keep the room; return the batch itself.

        Raises:
            BatchError: there was no `put` and no mask is given, or it has the wrong length.
        """
        buffer.remove(self, self._removal_mask(copied_mask))
        return self

    def trim(self, copied_mask: Bool[Tensor, " N"] | None = None) -> Self | None:
        """Return a batch without the systems in `copied_mask`, by default those of the last `put`, and without spare room; None if all go.

        Raises:
            BatchError: see `defrag`.
        """
        keep = ~self._removal_mask(copied_mask)
        return self.index_select(keep) if keep.any() else None

    def zero(self) -> None:
        """Remove all systems, set every number to zero and keep the room."""
        buffer.zero(self)

    def _removal_mask(self, mask: Tensor | None) -> Tensor:
        mask = self.__dict__.get("_copied_mask") if mask is None else mask
        if mask is None:
            raise BatchError("nothing says which systems to remove; a put does, or a mask. Pass copied_mask.")
        return buffer.checked_mask(mask, self.num_graphs, "copied_mask")

    # Place

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None, non_blocking: bool = False) -> Self:
        """Return a copy on another device; `dtype` is there for the contract's sake and has no effect."""
        del dtype
        target = torch.device(device)
        tensors = {
            key: tensor.clone() if tensor.device == target else tensor.to(target, non_blocking=non_blocking)
            for key, tensor in self._tensors.items()
        }
        capacity = None if self._capacity is None else dict(self._capacity)
        return type(self)(tensors, dict(self._levels), self.atom_segments.to(target), self.edge_segments.to(target), capacity)

    def clone(self) -> Self:
        """Return a copy that shares no tensor with this batch."""
        return self.to(self.device)

    def cpu(self) -> Self:
        """Return a copy on the host."""
        return self.to("cpu")

    def cuda(self, device: int | None = None, non_blocking: bool = False) -> Self:
        """Return a copy on a CUDA device."""
        return self.to("cuda" if device is None else f"cuda:{device}", non_blocking=non_blocking)

    def contiguous(self) -> Self:
        """Make every tensor contiguous and return the batch itself."""
        for key, tensor in self._tensors.items():
            self._tensors[key] = tensor.contiguous()
        return self

    def pin_memory(self) -> Self:
        """Move every tensor to page-locked memory and return the batch itself."""
        for key, tensor in self._tensors.items():
            self._tensors[key] = tensor.pin_memory()
        return self

    def to_dict(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return dict(iter(self))

    def __repr__(self) -> str:
        return f"Batch(num_graphs={self.num_graphs}, num_nodes={self.num_nodes}, num_edges={self.num_edges}, device={self.device})"


def _device(device: torch.device | str | None) -> torch.device | None:
    return None if device is None else torch.device(device)
