"""The table of systems: its columns, each with the fields it is made from, and the frame of a block of systems.

The index is `system_id`. Stored scalars keep their names and units (see `campaign.fields`); the others are

| column | meaning |
|---|---|
| n_atoms | atoms |
| outcome | the outcome in words; "running" while there is none |
| energy_per_atom, volume_per_atom | eV, Å³ |
| volume | Å³; NaN without a full cell |
| n_periodic | how many of the three directions are periodic: 3 is bulk, 2 a slab, 0 a molecule or cluster |
| error, source, info | text; info is ASE's as JSON |
| formula, elements | Cu3Au, Au-Cu |
| info.<key> | one key of info; only on request, by name |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Int64
from numpy import ndarray
from numpy.typing import NDArray

from campaign.analysis.composition import Compositions
from campaign.analysis.select import ELEMENTS, Where
from campaign.analysis.structure import parse_info
from campaign.fields import FIELDS, Field, decode_error
from campaign.outcomes import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from campaign.analysis.source import Block

INFO_PREFIX: Final = "info."
RUNNING_LABEL: Final = "running"

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Column:
    """How a column is made: from which fields, of which pandas dtype, by which function of their values and the numbers of atoms."""

    needs: tuple[str, ...]
    dtype: str
    make: Callable[[Values, Int64[ndarray, " N"]], NDArray[Any]]


def _scalar(name: str) -> Column:
    return Column((name,), FIELDS[name].dtype, lambda values, n_atoms: values[name].reshape(len(n_atoms)))


def _text(name: str) -> Column:
    return Column((name,), "str", lambda values, n_atoms: values[name].astype(object))


def _outcomes(values: Values, n_atoms: Int64[ndarray, " N"]) -> NDArray[Any]:
    labels = np.full(max(Outcome) + 2, RUNNING_LABEL, object)
    for outcome in Outcome:
        labels[outcome] = outcome.label
    codes = values["outcome"].ravel()
    # The last label is for whatever is no outcome.
    made: NDArray[Any] = labels[np.where((codes >= 0) & (codes <= max(Outcome)), codes, len(labels) - 1)]
    return made


def _errors(values: Values, n_atoms: Int64[ndarray, " N"]) -> NDArray[Any]:
    rows = values["error"]
    texts = np.full(len(rows), "", object)
    for at in np.flatnonzero(rows.any(axis=1)):
        texts[at] = decode_error(rows[at].tobytes())
    return texts


def _volumes(values: Values, n_atoms: Int64[ndarray, " N"]) -> NDArray[Any]:
    # The triple product; a determinant by LAPACK, one small matrix at a time, takes several times as long.
    a, b, c = np.moveaxis(values["cell"], 1, 0)
    volume = np.abs(np.einsum("ni,ni->n", a, np.cross(b, c)))
    return np.where(volume > 0, volume, np.nan)


def _per_atom(total: NDArray[Any], n_atoms: Int64[ndarray, " N"]) -> NDArray[Any]:
    return np.where(n_atoms > 0, total.reshape(len(n_atoms)) / np.maximum(n_atoms, 1), np.nan)


def _compositions(values: Values, n_atoms: Int64[ndarray, " N"]) -> Compositions:
    return Compositions.of_atoms(n_atoms, values["atomic_numbers"])


COLUMNS: Final[dict[str, Column]] = {
    "outcome": Column(("outcome",), "str", _outcomes),
    "n_atoms": Column((), "int64", lambda values, n_atoms: n_atoms),
    "n_steps": _scalar("n_steps"),
    "energy": _scalar("energy"),
    "energy_per_atom": Column(("energy",), "float64", lambda values, n_atoms: _per_atom(values["energy"], n_atoms)),
    "initial_energy": _scalar("initial_energy"),
    "fmax": _scalar("fmax"),
    "smax": _scalar("smax"),
    "n_periodic": Column(("pbc",), "int64", lambda values, n_atoms: values["pbc"].sum(axis=1).astype(np.int64)),
    "volume": Column(("cell",), "float64", _volumes),
    "volume_per_atom": Column(("cell",), "float64", lambda values, n_atoms: _per_atom(_volumes(values, n_atoms), n_atoms)),
    "volume_ratio": _scalar("volume_ratio"),
    "shortest_distance_ratio": _scalar("shortest_distance_ratio"),
    "n_fragments": _scalar("n_fragments"),
    "formula": Column(("atomic_numbers",), "str", lambda values, n_atoms: np.array(_compositions(values, n_atoms).formulas, object)),
    ELEMENTS: Column(("atomic_numbers",), "str", lambda values, n_atoms: np.array(_compositions(values, n_atoms).chemical_systems, object)),
    "source": _text("source"),
    "frame": _scalar("frame"),
    "step": _scalar("step"),
    "error": Column(("error",), "str", _errors),
    "info": _text("info"),
}
"""Every column, in the order of the table."""

CONDITION_COLUMNS: Final = ("system_id", *COLUMNS)
"""What a condition may name, besides `info.<key>`."""


def columns_of(fields: Mapping[str, Field]) -> tuple[str, ...]:
    """Return the columns that can be made from `fields`, in order."""
    return tuple(name for name, column in COLUMNS.items() if all(need in fields for need in column.needs))


def needed_fields(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the fields that `columns` are made from, each once."""
    needs: dict[str, None] = {}
    for name in columns:
        if name == "system_id":
            needs["system_id"] = None
        elif name.startswith(INFO_PREFIX):
            needs["info"] = None
        else:
            needs.update(dict.fromkeys(COLUMNS[name].needs))
    return tuple(needs)


def frame_of(values: Values, n_atoms: Int64[ndarray, " N"], columns: Sequence[str]) -> pd.DataFrame:
    """Return `columns` for systems whose fields are `values`, with the default index."""
    import pandas as pd

    made: dict[str, Any] = {}
    infos: list[dict[str, Any]] | None = None
    for name in columns:
        if name == "system_id":
            made[name] = values["system_id"].reshape(len(n_atoms))
        elif name.startswith(INFO_PREFIX):
            infos = infos if infos is not None else [parse_info(text) for text in values["info"].tolist()]
            made[name] = pd.Series([info.get(name.removeprefix(INFO_PREFIX)) for info in infos], dtype=object)
        else:
            made[name] = pd.Series(COLUMNS[name].make(values, n_atoms), dtype=COLUMNS[name].dtype)
    return pd.DataFrame(made, index=pd.RangeIndex(len(n_atoms)))


def empty_frame(columns: Sequence[str]) -> pd.DataFrame:
    """Return the table without rows: what Dask needs to know of it."""
    import pandas as pd

    empty = {name: pd.Series([], dtype=COLUMNS[name].dtype if name in COLUMNS else object) for name in columns}
    return pd.DataFrame(empty, index=pd.Index([], dtype="int64", name="system_id"))


def read_table(block: Block, source_fields: Mapping[str, Field], columns: Sequence[str], where: Sequence[Where]) -> pd.DataFrame:
    """Return `columns` for the systems of a block that satisfy all of `where`; reads what these need and no other field."""
    import pandas as pd

    mask = block_mask(block, source_fields, where)
    ids_there = "system_id" in source_fields
    needs = [source_fields[name] for name in needed_fields([*columns, *(["system_id"] if ids_there else [])])]
    n_atoms, values = masked(block, needs, mask)
    frame = frame_of(values, n_atoms, columns)
    ids = values["system_id"].reshape(-1) if ids_there else np.concatenate([rows for _, rows in block.pieces])[mask]
    frame.index = pd.Index(ids, dtype="int64", name="system_id")
    return frame


def block_mask(block: Block, source_fields: Mapping[str, Field], where: Sequence[Where]) -> NDArray[np.bool_]:
    """Return which systems of a block satisfy all of `where`."""
    mask = np.ones(block.n_systems, bool)
    for condition in where:
        needs = [source_fields[name] for name in needed_fields(condition.columns)]
        mask &= condition.mask(frame_of(block.read(needs), block.n_atoms(), condition.columns))
    return mask


def masked(block: Block, fields: Sequence[Field], mask: NDArray[np.bool_]) -> tuple[Int64[ndarray, " M"], dict[str, NDArray[Any]]]:
    """Return number of atoms and fields of the systems of a block that `mask` keeps; the others are not read."""
    if not mask.all():
        block = block.take(mask)
    return block.n_atoms(), block.read(fields)
