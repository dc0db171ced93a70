"""A view as an `xarray.Dataset`: every field of the store under its name, lazily, with its unit and meaning beside it.

| dimension | one entry is |
|---|---|
| `system` | a system of the view; the coordinate `system_id` has the ids |
| `atom` | an atom, those of one system behind those of the other; the coordinate `owner` has the position of its system along `system` |
| `vector` | a cell vector |
| `xyz`, `xyz_2` | a Cartesian component; the second one of a stress |

`n_atoms` is a coordinate along `system`. Text (`source`, `info`, `error`) is decoded. Chunk k along `system` and chunk k along `atom` hold
the same systems, so `dataset.forces.groupby("owner")` and its kin never see a structure in two.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from campaign.analysis.tables import COLUMNS
from campaign.errors import MissingDependencyError
from campaign.fields import FIELDS, Field, Level
from campaign.outcomes import Outcome

if TYPE_CHECKING:
    import xarray as xr

    from campaign.analysis.source import Block
    from campaign.analysis.view import StoreView

_TRAILING: Final = {
    "cell": ("vector", "xyz"),
    "pbc": ("vector",),
    "stress": ("xyz", "xyz_2"),
    "positions": ("xyz",),
    "forces": ("xyz",),
    "velocities": ("xyz",),
    "fixed": ("xyz",),
}
_TEXT: Final = ("source", "info", "error")


def dataset_of(view: StoreView) -> xr.Dataset:
    """Return the dataset of a view without conditions; nothing is computed.

    Raises:
        MissingDependencyError: xarray is not installed.
    """
    try:
        import xarray as xr
    except ImportError as error:
        raise MissingDependencyError(
            "a dataset needs xarray, which is not installed: pip install 'relax-campaign[analysis]'. Or use `table` and `array`."
        ) from error
    variables: dict[str, Any] = {}
    for field in view.fields.values():
        if field.name in _TEXT:
            values = view.lazy_array(f"text-{field.name}", partial(_read_text, field=field), Level.SYSTEM, (), object)
            variables[field.name] = (("system",), values, _attributes(field))
        elif field.dtype != "string":
            values = view.array(field.name)
            scalar = field.trailing == (1,)
            dims = () if scalar else _TRAILING.get(field.name) or tuple(f"{field.name}_{axis}" for axis in range(len(field.trailing)))
            variables[field.name] = ((str(field.level), *dims), values[:, 0] if scalar else values, _attributes(field))
    coordinates: dict[str, Any] = {"n_atoms": (("system",), view.source.n_atoms, {"long_name": "number of atoms"})}
    coordinates["owner"] = (
        ("atom",),
        _owners(view),
        {"long_name": "position along the dimension system of the system that the atom belongs to"},
    )
    if "system_id" in variables:
        coordinates["system_id"] = variables.pop("system_id")
    attributes = {key: value for key, value in view.attributes.items() if isinstance(value, (str, int, float))}
    return xr.Dataset(variables, coordinates, attributes)


def _attributes(field: Field) -> dict[str, Any]:
    known = FIELDS.get(field.name, field)
    attributes: dict[str, Any] = {"long_name": known.meaning}
    if known.unit:
        attributes["units"] = known.unit
    if field.name == "outcome":
        attributes["flag_values"] = [int(outcome) for outcome in Outcome]
        attributes["flag_meanings"] = " ".join(outcome.label for outcome in Outcome)
    return attributes


def _read_text(block: Block, field: Field) -> NDArray[Any]:
    return COLUMNS[field.name].make(block.read([field]), block.n_atoms())


def _owners(view: StoreView) -> Any:
    import dask.array as da
    from dask.delayed import delayed

    parts, first = [], 0
    for n_atoms in view.block_sizes():
        owners = delayed(_owner, pure=True)(first, n_atoms)
        parts.append(da.from_delayed(owners, shape=(int(n_atoms.sum()),), dtype=np.dtype(np.int64)))  # type: ignore[no-untyped-call]
        first += len(n_atoms)
    return da.concatenate(parts, axis=0)  # type: ignore[no-untyped-call]


def _owner(first: int, n_atoms: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(first, first + len(n_atoms)), n_atoms)
