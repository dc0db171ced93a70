"""Where the rows of a view come from: one store, or the shards and inputs of a campaign that is still running.

A source is a list of parts, each of them a store on disk, in memory or behind a URL, and the rows taken from each. Everything above it
sees one list of systems. A running campaign has two kinds of parts: its shards, to whose rows the carried fields (source file, info,
tags, …) are joined from `inputs.zarr`, and `inputs.zarr` itself for the inputs that ingest refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.errors import FieldError, StoreNotFoundError
from campaign.fields import FIELDS, STORE_FIELDS, Field, Level
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths
from campaign.store import StoreReader, Target


class Part:
    """One store, and the inputs that its rows' carried fields are joined from.

    A part crosses processes as its two targets and opens them again there; rows are append-only, so an address stays valid.
    """

    def __init__(self, target: Target, carried: Target | None = None) -> None:
        self.target = str(target) if isinstance(target, Path) else target
        self.carried = str(carried) if isinstance(carried, Path) else carried

    def __getstate__(self) -> dict[str, Any]:
        return {"target": self.target, "carried": self.carried}

    @cached_property
    def reader(self) -> StoreReader:
        """The store, as it is when it is first needed."""
        return StoreReader.open(self.target)

    @cached_property
    def _own(self) -> dict[str, Field]:
        return {known.name: known for known in self.reader.fields}

    @cached_property
    def _inputs(self) -> StoreReader | None:
        return None if self.carried is None else StoreReader.open(self.carried)

    @cached_property
    def _joined(self) -> dict[str, Field]:
        return {} if self._inputs is None else {known.name: known for known in self._inputs.fields if known.name not in self._own}

    @property
    def fields(self) -> dict[str, Field]:
        """Fields by name, joined ones included."""
        return {**self._own, **self._joined}

    def n_atoms(self, rows: Int64[ndarray, " M"]) -> Int64[ndarray, " M"]:
        """Number of atoms of each of the systems `rows`."""
        return self.reader.n_atoms(rows)

    def read(self, rows: Int64[ndarray, " M"], fields: Sequence[Field]) -> dict[str, NDArray[Any]]:
        """Return fields of the systems `rows`; one that this part does not have is filled with "nothing": NaN, 0, false or ""."""
        values = self.reader.read(rows, [known.name for known in fields if known.name in self._own])
        joined = [known.name for known in fields if known.name in self._joined]
        if joined and self._inputs is not None:
            values |= self._inputs.read(self.reader.read_system("system_id", rows).ravel(), joined)
        for known in fields:
            if known.name not in values:
                n_rows = len(rows) if known.level is Level.SYSTEM else int(self.n_atoms(rows).sum())
                values[known.name] = nothing(known, n_rows)
        return values


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive systems of a source: pieces of one part each, in order."""

    pieces: tuple[tuple[Part, Int64[ndarray, " M"]], ...]

    @property
    def n_systems(self) -> int:
        """Systems in the block."""
        return sum(len(rows) for _, rows in self.pieces)

    def n_atoms(self) -> Int64[ndarray, " N"]:
        """Number of atoms of each system."""
        return np.concatenate([np.zeros(0, np.int64), *(part.n_atoms(rows) for part, rows in self.pieces)])

    def take(self, mask: NDArray[np.bool_]) -> Block:
        """Return the systems that `mask` keeps."""
        ends = np.cumsum([len(rows) for _, rows in self.pieces])
        return Block(tuple((part, rows[kept]) for (part, rows), kept in zip(self.pieces, np.split(mask, ends[:-1]), strict=True)))

    def read(self, fields: Sequence[Field]) -> dict[str, NDArray[Any]]:
        """Return fields of all systems of the block; atom fields have the atoms one system behind the other."""
        read = [part.read(rows, fields) for part, rows in self.pieces]
        if len(read) == 1:
            return read[0]
        return {known.name: np.concatenate([nothing(known, 0), *(values[known.name] for values in read)]) for known in fields}


@dataclass(frozen=True, eq=False)
class Source:
    """N systems: system i is row `row_of[i]` of `parts[part_of[i]]`.

    `declared` are fields that the source has even while none of its parts does. `token` is new for every opening, and names Dask's keys."""

    parts: tuple[Part, ...]
    part_of: Int[ndarray, " N"]
    row_of: Int64[ndarray, " N"]
    attributes: dict[str, Any]
    declared: tuple[Field, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def __len__(self) -> int:
        return len(self.row_of)

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Fields by name: those declared, and those that at least one part has."""
        return {known.name: known for known in self.declared} | {name: known for part in self.parts for name, known in part.fields.items()}

    @cached_property
    def n_atoms(self) -> Int64[ndarray, " N"]:
        """Number of atoms of each system."""
        counts = np.zeros(len(self), np.int64)
        for at, part in enumerate(self.parts):
            here = self.part_of == at
            counts[here] = part.n_atoms(self.row_of[here])
        return counts

    @cached_property
    def system_ids(self) -> Int64[ndarray, " N"]:
        """Id of each system; its row where its part has none."""
        ids = self.row_of.copy()
        for at, part in enumerate(self.parts):
            if "system_id" in part.fields:
                here = self.part_of == at
                ids[here] = part.reader.read_system("system_id", self.row_of[here]).ravel()
        return ids

    def field(self, name: str) -> Field:
        """Return a field.

        Raises:
            FieldError: no part has it.
        """
        if name not in self.fields:
            raise FieldError(f"field {name!r} was asked of a store that has {', '.join(self.fields)}. Ask for one of these.")
        return self.fields[name]

    def block(self, start: int, stop: int) -> Block:
        """Return the systems from `start` to before `stop`."""
        part_of, row_of = self.part_of[start:stop], self.row_of[start:stop]
        cuts = [0, *(np.flatnonzero(np.diff(part_of)) + 1).tolist(), len(part_of)]
        spans = [(a, b) for a, b in pairwise(cuts) if a < b]
        return Block(tuple((self.parts[part_of[a]], row_of[a:b]) for a, b in spans))

    def take(self, positions: Int64[ndarray, " M"]) -> Source:
        """Return some of the systems, in the order of `positions`."""
        return replace(self, part_of=self.part_of[positions], row_of=self.row_of[positions])


def store_source(target: Target) -> Source:
    """Return all systems of one store.

    Raises:
        StoreNotFoundError: there is no store.
    """
    part = Part(target)
    n_systems = part.reader.n_systems
    return Source((part,), np.zeros(n_systems, np.int32), np.arange(n_systems), part.reader.attributes)


def live_source(paths: CampaignPaths) -> Source:
    """Return what a campaign has committed so far: one row for each system that has an outcome, by shard, then the refused inputs."""
    inputs = paths.inputs if paths.inputs.is_dir() else None
    parts = [part for name in paths.shard_names() if _is_there(part := Part(paths.shard(name), inputs))]
    ids = [part.reader.read_system("system_id").ravel() for part in parts]
    rows = [np.arange(len(of_part)) for of_part in ids]
    if inputs is not None:
        part = Part(inputs)
        refused = np.flatnonzero(part.reader.read_system("outcome").ravel() == Outcome.INVALID)
        parts.append(part)
        ids.append(refused)
        rows.append(refused)
    part_of = np.repeat(np.arange(len(parts), dtype=np.int32), [len(of_part) for of_part in ids])
    kept = _first_of_each(_joined(ids))
    attributes = parts[0].reader.attributes if parts else {}
    return Source(tuple(parts), part_of[kept], _joined(rows)[kept], attributes, declared=STORE_FIELDS)


def nothing(known: Field, n_rows: int) -> NDArray[Any]:
    """Return rows that say "not there" for a field: NaN, 0, false or ""."""
    if known.dtype == "string":
        return np.full((n_rows, *known.trailing), "", object)
    values = np.zeros((n_rows, *known.trailing), known.dtype)
    if known.level is Level.SYSTEM and values.dtype.kind == "f" and known not in (FIELDS["cell"],):
        values[...] = np.nan
    return values


def _is_there(part: Part) -> bool:
    # The folder of a shard is there a moment before its first document.
    try:
        return part.reader.n_systems > 0
    except StoreNotFoundError:
        return False


def _joined(arrays: Iterable[NDArray[np.int64]]) -> Int64[ndarray, " N"]:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _first_of_each(system_ids: Int64[ndarray, " N"]) -> Int64[ndarray, " M"]:
    """Positions that keep each id once, in rising order: of a system that was done twice the first shard's, as consolidation does."""
    return np.sort(np.unique(system_ids, return_index=True)[1])
