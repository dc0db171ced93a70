"""A store as one lazy object: a table of systems, arrays per atom, structures.

Opening reads the documents of the store and, of a running campaign, the ids; nothing is computed. `table` is a Dask DataFrame and
`array` gives Dask arrays whose chunks are cut between structures; chunk k of every array and partition k of the table hold the same
systems. `select` only notes a condition: each block then reads the columns that the condition needs, and of what is asked for, only the
rows that satisfy it. Lengths (`len`, `view[i]`, iteration) are what a selection cannot know without looking; they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.analysis.blocks import BLOCK_ATOMS, BLOCK_SYSTEMS, plan_blocks
from campaign.analysis.composition import Compositions
from campaign.analysis.select import Where, parse_where
from campaign.analysis.source import Block, Source, live_source, store_source
from campaign.analysis.structure import atoms_from_row
from campaign.analysis.systems import Systems, systems_of
from campaign.analysis.tables import INFO_PREFIX, block_mask, columns_of, empty_frame, masked, read_table
from campaign.errors import ContractError, FieldError, SpecError, StoreError
from campaign.fields import Field, Level
from campaign.paths import CampaignPaths
from campaign.store import Target

if TYPE_CHECKING:
    import dask.array as da
    import dask.dataframe as dd
    import pandas as pd
    import xarray as xr
    from ase import Atoms

T = TypeVar("T")

_READ_AHEAD: Final = 1024
"""Structures that iteration reads at a time."""


@dataclass(frozen=True, eq=False)
class StoreView:
    """Systems of a store, or those of them that satisfy some conditions. Made by `campaign.open`; `select` gives further ones.

    >>> view = campaign.open("runs/cu-au")                                    # doctest: +SKIP
    >>> low = view.select("outcome == 'converged' and energy_per_atom < -3")  # doctest: +SKIP
    >>> low.table.energy.mean().compute(), low[0], low[:10]                   # doctest: +SKIP
    """

    source: Source
    where: tuple[Where, ...] = ()
    max_block_atoms: int = BLOCK_ATOMS
    max_block_systems: int = BLOCK_SYSTEMS

    @classmethod
    def open(cls, target: Target | CampaignPaths) -> Self:
        """Return a view of a campaign or a store, as `campaign.open` says."""
        if isinstance(target, (str, Path)) and "://" not in str(target) and CampaignPaths(Path(target)).spec.is_file():
            target = CampaignPaths.open(target)
        if isinstance(target, CampaignPaths):
            return cls(store_source(target.store) if target.store.is_dir() else live_source(target))
        return cls(store_source(target))

    @property
    def fields(self) -> dict[str, Field]:
        """Fields of the store, by name."""
        return self.source.fields

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the store: format, provenance; of a running campaign, those of its first shard."""
        return dict(self.source.attributes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `table`. A condition may also name `system_id` and `info.<key>`."""
        return columns_of(self.fields)

    @cached_property
    def _block_ptr(self) -> list[int]:
        ptr: list[int] = plan_blocks(self.source.n_atoms, self.max_block_atoms, self.max_block_systems).tolist()
        return ptr

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """What one Dask task reads each, before conditions."""
        return tuple(self.source.block(start, stop) for start, stop in pairwise(self._block_ptr))

    def block_sizes(self) -> list[Int64[ndarray, " M"]]:
        """Number of atoms of each system of each block, before conditions."""
        return [self.source.n_atoms[start:stop] for start, stop in pairwise(self._block_ptr)]

    def select(self, where: str | Where | Bool[ndarray, " N"] | pd.Series | dd.Series) -> StoreView:
        """Return the systems that satisfy a condition (see `campaign.analysis.select`), or those that a mask is true for.

        A condition is only noted. A mask is a boolean array with one entry per system of this view, or a boolean column made from its
        table, which is matched by `system_id`; a lazy one is computed at once.

        Raises:
            SpecError: the text is no condition over the columns of this store.
            ContractError: the mask has another length or other ids, or is not boolean.
        """
        if isinstance(where, (str, Where)):
            known = ("system_id", *self.columns)
            text = where if isinstance(where, str) else where.text
            condition = parse_where(text, known)
            if "info" not in self.fields and any(name.startswith(INFO_PREFIX) for name in condition.columns):
                seen = f"the condition {text!r} asks for a key of info, which this store does not hold"
                raise SpecError(f"{seen}. Known are {', '.join(known)}; use one of these.")
            return replace(self, where=(*self.where, condition))
        resolved = self.resolve()
        return resolved._take(np.flatnonzero(resolved._mask_of(where)))

    def _mask_of(self, where: Any) -> NDArray[np.bool_]:
        """Return a mask as an array with one entry per system; one that has an index of ids is brought into the order of this view."""
        given = where.compute() if hasattr(where, "dask") else where
        index = getattr(given, "index", None)
        if index is not None and getattr(index, "name", None) == "system_id":
            ids = self.system_ids
            if not index.is_unique or len(index) != len(ids) or not index.isin(ids).all():
                raise ContractError(
                    f"select was given a mask of {len(index)} ids for a view of {len(ids)} systems; allowed is one entry for each system "
                    "of the view. Make the mask from the table of this view."
                )
            given = given.reindex(ids)
        mask = np.asarray(given)
        if mask.dtype != bool or mask.shape != (len(self.source),):
            raise ContractError(
                f"select was given {mask.dtype}{list(mask.shape)} for a view of {len(self.source)} systems; allowed are a text and a "
                "boolean array with one entry per system. Give one of these."
            )
        return mask

    @property
    def system_ids(self) -> Int64[ndarray, " N"]:
        """Ids of the systems, read at once; row numbers where a store has no ids. Computes where there are conditions."""
        return self.resolve().source.system_ids

    def select_ids(self, system_ids: Int64[ndarray, " M"]) -> StoreView:
        """Return the systems with these ids, in the order of this view; ids that it does not hold are passed over. Reads ids."""
        resolved = self.resolve()
        return resolved._take(np.flatnonzero(np.isin(resolved.system_ids, system_ids)))

    def resolve(self) -> StoreView:
        """Return the same systems with all conditions evaluated; computes unless there are none."""
        return self._resolved if self.where else self

    @cached_property
    def _resolved(self) -> StoreView:
        masks = self._of_each_block(partial(block_mask, source_fields=self.fields, where=self.where))
        return self._take(np.flatnonzero(np.concatenate(masks)))

    def _take(self, positions: Int64[ndarray, " M"]) -> StoreView:
        return replace(self, source=self.source.take(positions), where=())

    def __len__(self) -> int:
        return len(self.resolve().source)

    @property
    def table(self) -> dd.DataFrame:
        """All columns as a Dask DataFrame with the index `system_id`; a column that nobody uses is not read."""
        import dask.dataframe as dd

        names = self.columns
        read = _TableReader(self.fields, names, self.where, self._token)
        table: dd.DataFrame = dd.from_map(  # type: ignore[no-untyped-call]
            read, list(self.blocks), meta=empty_frame(names), enforce_metadata=False, label="campaign-table"
        )
        return table

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the per-system table in memory, or some columns of it; `info.<key>` too. Computes.

        Raises:
            FieldError: a column cannot be made from this store.
        """
        import pandas as pd

        columns = self.columns if columns is None else columns
        unknown = [name for name in columns if name not in self.columns and not (name.startswith(INFO_PREFIX) and "info" in self.fields)]
        if unknown:
            raise FieldError(
                f"column {unknown[0]!r} was asked of a store that has {', '.join(self.columns)}, info.<key>. Ask for one of these."
            )
        read = partial(read_table, source_fields=self.fields, columns=list(columns), where=self.where)
        return pd.concat(self._of_each_block(read))

    def array(self, name: str) -> da.Array:
        """Return a field as a Dask array, `[A, …]` per atom or `[N, …]` per system, with chunks that are cut between structures.

        The sizes of chunks of a selection are unknown (NaN, as Dask calls it) until `resolve` has looked.

        Raises:
            FieldError: the store has no such field, or it is text, which `table` has.
        """
        known = self.source.field(name)
        if known.dtype == "string":
            raise FieldError(f"field {name!r} is text, and arrays hold numbers. Take the column {name!r} of `table`.")
        read = partial(_read_array, fields=self.fields, name=name, where=self.where)
        return self.lazy_array(name, read, known.level, known.trailing, known.dtype)

    def lazy_array(
        self, label: str, read: Callable[[Block], NDArray[Any]], level: Level, trailing: tuple[int, ...], dtype: Any
    ) -> da.Array:
        """Return what `read` gives for each block, one behind the other, as a Dask array; `label` names it among those of this view."""
        import dask.array as da
        from dask.delayed import delayed

        parts = []
        for at, (block, n_atoms) in enumerate(zip(self.blocks, self.block_sizes(), strict=True)):
            rows: float = np.nan
            if not self.where:
                rows = block.n_systems if level is Level.SYSTEM else int(n_atoms.sum())
            # A partial hides its block from Dask, which would look for collections in it otherwise.
            values = delayed(partial(read, block), pure=False, traverse=False)(dask_key_name=f"campaign-{label}-{self._token}-{at}")
            parts.append(da.from_delayed(values, shape=(rows, *trailing), dtype=np.dtype(dtype)))  # type: ignore[no-untyped-call]
        array: da.Array = da.concatenate(parts, axis=0)  # type: ignore[no-untyped-call]
        return array

    @property
    def dataset(self) -> xr.Dataset:
        """Everything as an `xarray.Dataset` of Dask arrays with the dimensions `system` and `atom`; see `campaign.analysis.dataset`.

        Its sizes must be known, so a view with conditions looks first, as `resolve` does; else nothing is computed.

        Raises:
            MissingDependencyError: xarray is not installed.
        """
        from campaign.analysis.dataset import dataset_of

        return dataset_of(self.resolve())

    def map_systems(
        self, function: Callable[[Systems], Mapping[str, NDArray[Any]]], fields: Sequence[str], returns: Mapping[str, str]
    ) -> dd.DataFrame:
        """Apply `function` to all systems, many whole ones at a time, and return its columns as a Dask DataFrame by `system_id`.

        `function` gets `Systems` with `fields` and returns one array per column of `returns` (name to dtype), with one entry per system.

        Raises:
            FieldError: the store has no such field.
            ContractError: when computed: a column is missing or has another length.

        >>> def largest(systems):
        ...     norms = np.linalg.norm(systems["forces"], axis=1)
        ...     return {"fmax": np.maximum.reduceat(norms, systems.atoms_ptr[:-1])}
        >>> view.map_systems(largest, ["forces"], {"fmax": "float64"}).compute()  # doctest: +SKIP
        """
        import dask.dataframe as dd
        import pandas as pd

        chosen = [self.source.field(name) for name in fields]
        meta = pd.DataFrame(
            {name: pd.Series([], dtype=dtype) for name, dtype in returns.items()}, index=pd.Index([], dtype="int64", name="system_id")
        )
        mapping = _Mapping(function, chosen, dict(returns), self.fields, self.where, self._token)
        mapped: dd.DataFrame = dd.from_map(  # type: ignore[no-untyped-call]
            mapping, list(self.blocks), meta=meta, enforce_metadata=False, label="campaign-map"
        )
        return mapped

    def compositions(self) -> Compositions:
        """Return elements and counts of all systems, in order; computes."""
        return Compositions.concatenate(self._of_each_block(partial(_read_compositions, fields=self.fields, where=self.where)))

    @overload
    def __getitem__(self, at: int | np.integer[Any]) -> Atoms: ...

    @overload
    def __getitem__(self, at: slice | Sequence[int] | NDArray[Any] | pd.Series | dd.Series) -> StoreView: ...

    def __getitem__(self, at: Any) -> Atoms | StoreView:
        """Return one structure as `ase.Atoms`, counted from 0 or from the end by negative numbers, or a view of several.

        A slice and a list of positions give the systems in that order; a boolean mask is that of `select`.

        Raises:
            IndexError: a position outside the view.
        """
        view = self.resolve()
        if isinstance(at, slice):
            return view._take(np.arange(len(view.source), dtype=np.int64)[at])
        if not isinstance(at, (int, np.integer)):
            if hasattr(at, "dask") or np.asarray(at).dtype == np.bool_:
                return self.select(at)
            return view._take(np.array([view._position(int(one)) for one in at], dtype=np.int64))
        position = view._position(int(at))
        return next(view._structures(position, position + 1))

    def _position(self, at: int) -> int:
        n_systems = len(self.source)
        if not -n_systems <= at < n_systems:
            raise IndexError(
                f"structure {at} was asked of a view of {n_systems}; allowed are {-n_systems} to {n_systems - 1}. Look at len(view)."
            )
        return at % n_systems

    def __iter__(self) -> Iterator[Atoms]:
        view = self.resolve()
        for start in range(0, len(view.source), _READ_AHEAD):
            yield from view._structures(start, min(start + _READ_AHEAD, len(view.source)))

    def by_id(self, system_id: int) -> Atoms:
        """Return the structure of one input.

        Raises:
            StoreError: this view has no row of that id, or several (a trajectory).
        """
        found = self.select(f"system_id == {int(system_id)}").resolve()
        if len(found.source) != 1:
            seen = f"system {system_id} has {len(found.source)} rows here"
            raise StoreError(f"{seen}; one is needed. Select rows by another column, or wait until it is done.")
        return found[0]

    def _of_each_block(self, function: Callable[[Block], T]) -> list[T]:
        from dask.base import compute
        from dask.delayed import delayed

        # A partial hides its block from Dask, which would look for collections in it otherwise.
        calls = (delayed(partial(function, block), pure=False, traverse=False)() for block in self.blocks)
        return list(compute(*calls))  # type: ignore[no-untyped-call]

    def _structures(self, start: int, stop: int) -> Iterator[Atoms]:
        block = self.source.block(start, stop)
        for row in systems_of(block.n_atoms(), block.read(list(self.fields.values())), self.fields):
            yield atoms_from_row(row)

    @cached_property
    def _token(self) -> str:
        from dask.tokenize import tokenize

        rows = (self.source.part_of, self.source.row_of, self.max_block_atoms, self.max_block_systems)
        return str(tokenize(self.source.token, *rows, *(where.text for where in self.where)))


@dataclass(frozen=True)
class _TableReader:
    fields: Mapping[str, Field]
    names: tuple[str, ...]
    where: tuple[Where, ...]
    token: str

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("campaign-table", self.token)

    def __call__(self, block: Block, columns: Sequence[str] | None = None) -> pd.DataFrame:
        return read_table(block, self.fields, list(self.names if columns is None else columns), self.where)


@dataclass(frozen=True)
class _Mapping:
    function: Callable[[Systems], Mapping[str, NDArray[Any]]]
    chosen: Sequence[Field]
    returns: dict[str, str]
    fields: Mapping[str, Field]
    where: tuple[Where, ...]
    token: str

    def __call__(self, block: Block) -> pd.DataFrame:
        import pandas as pd

        frame = read_table(block, self.fields, [], self.where)
        n_atoms, values = masked(block, self.chosen, block_mask(block, self.fields, self.where))
        result = self.function(systems_of(n_atoms, values, self.fields))
        for name, dtype in self.returns.items():
            column = np.asarray(result[name]) if name in result else None
            if column is None or column.shape != (len(n_atoms),):
                seen = "nothing" if column is None else f"shape {list(column.shape)}"
                seen = f"map_systems: the function returned {seen} for {name!r} of {len(n_atoms)} systems"
                raise ContractError(f"{seen}; one value per system is allowed. Mend the function.")
            frame[name] = pd.Series(column, index=frame.index, dtype=dtype)
        return frame


def _read_array(block: Block, fields: Mapping[str, Field], name: str, where: Sequence[Where]) -> NDArray[Any]:
    return masked(block, [fields[name]], block_mask(block, fields, where))[1][name]


def _read_compositions(block: Block, fields: Mapping[str, Field], where: Sequence[Where]) -> Compositions:
    n_atoms, values = masked(block, [fields["atomic_numbers"]], block_mask(block, fields, where))
    return Compositions.of_atoms(n_atoms, values["atomic_numbers"])
