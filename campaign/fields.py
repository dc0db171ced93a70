"""The one table of fields: name, level, dtype, trailing shape, unit and meaning of everything a store or a batch can hold.

Levels are declared here and never guessed from shapes. Names and shapes of the core fields are those of the nvalchemi dynamics
contract, so that its readers and hooks find what they expect: scalars per system have the trailing shape (1,).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """What one row of a field belongs to."""

    ATOM = "atom"
    EDGE = "edge"
    SYSTEM = "system"


class Group(StrEnum):
    """Zarr group a field lies in.

    `core` and `custom` hold numbers and are listed in the store's `fields` attribute, which foreign readers follow; `labels` holds
    text of variable length and is known to our reader only.
    """

    CORE = "core"
    CUSTOM = "custom"
    LABELS = "labels"


ERROR_BYTES: Final = 192
"""Width of the `error` field: UTF-8 text, cut at a character and padded with zeros, so that it fits a tensor."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: shape of a row is `trailing`; dtype is a numpy name, or "string" in the group `labels`."""

    name: str
    level: Level
    dtype: str
    trailing: tuple[int, ...]
    unit: str
    meaning: str
    group: Group = Group.CUSTOM
    since: int = 1
    """Format version from which on stores have it."""

    @property
    def path(self) -> str:
        """Path of the array below the root of a store, such as `core/positions`."""
        return f"{self.group}/{self.name}"


_A, _S = Level.ATOM, Level.SYSTEM
_CORE, _CUSTOM, _LABELS = Group.CORE, Group.CUSTOM, Group.LABELS

_TABLE: Final = (
    # what a structure is
    Field("atomic_numbers", _A, "int64", (), "", "number of protons", _CORE),
    Field("positions", _A, "float64", (3,), "Å", "Cartesian, unwrapped", _CORE),
    Field("atomic_masses", _A, "float64", (), "amu", "mass", _CORE),
    Field("cell", _S, "float64", (3, 3), "Å", "cell vectors as rows; zero where there is none", _CORE),
    Field("pbc", _S, "bool", (3,), "", "periodic along each cell vector", _CORE),
    Field("system_id", _S, "int64", (1,), "", "row in inputs.zarr, for ever", _CUSTOM),
    # what comes with an input and stays with it
    Field("fixed", _A, "bool", (3,), "", "Cartesian components that may not move (FixAtoms, FixCartesian)", _CUSTOM),
    Field(
        "symprec", _S, "float64", (1,), "Å", "tolerance of the space group that is kept (FixSymmetry); 0 where none is", _CUSTOM, since=3
    ),
    Field("tags", _A, "int64", (), "", "ASE's tags", _CUSTOM),
    Field("initial_charges", _A, "float64", (), "e", "ASE's initial charges", _CUSTOM),
    Field("initial_magmoms", _A, "float64", (), "μB", "ASE's initial magnetic moments", _CUSTOM),
    Field("source", _S, "string", (), "", "file the input came from, relative to the spec's folder where it lies below it", _LABELS),
    Field("frame", _S, "int64", (1,), "", "position of the input in its file, from 0", _CUSTOM),
    Field("info", _S, "string", (), "", "ASE's info as a JSON object", _LABELS),
    # what the relaxation says
    Field("energy", _S, "float64", (1,), "eV", "potential energy at the stored positions", _CORE),
    Field("forces", _A, "float64", (3,), "eV/Å", "forces at the stored positions, before fixed components are zeroed", _CORE),
    Field("stress", _S, "float64", (3, 3), "eV/Å³", "dE/dε / V, positive under tension as in ASE; zero without a volume", _CORE),
    Field("outcome", _S, "int64", (1,), "", "see outcomes.py", _CUSTOM),
    Field("error", _S, "uint8", (ERROR_BYTES,), "", "reason in words where the outcome is not converged: UTF-8, zero padded", _CUSTOM),
    Field("n_steps", _S, "int64", (1,), "", "optimizer steps taken", _CUSTOM),
    Field("fmax", _S, "float64", (1,), "eV/Å", "largest force on an atom, fixed components left out", _CUSTOM),
    Field(
        "smax",
        _S,
        "float64",
        (1,),
        "eV/Å³",
        "largest stress, with the pressure, that the cell could follow; zero for a fixed cell",
        _CUSTOM,
    ),
    Field("initial_energy", _S, "float64", (1,), "eV", "potential energy of the input", _CUSTOM),
    Field("energy_per_atom", _S, "float64", (1,), "eV", "potential energy over the number of atoms", _CUSTOM, since=2),
    Field("shortest_distance_ratio", _S, "float64", (1,), "", "shortest distance over the sum of the two covalent radii", _CUSTOM),
    Field("volume_ratio", _S, "float64", (1,), "", "final over initial volume; 1 without a cell", _CUSTOM),
    Field("n_fragments", _S, "int64", (1,), "", "groups of bonded atoms, images included; 0 where unknown", _CUSTOM, since=2),
    # what the dynamics keeps on a batch
    Field("velocities", _A, "float64", (3,), "Å/ASE time", "velocities of the dynamics", _CORE),
    Field("atom_categories", _A, "int64", (), "", "category of the dynamics contract (FreezeAtomsHook)", _CORE),
    Field("status", _S, "int64", (1,), "", "routes a system through a FusedStage", _CUSTOM),
    Field("initial_volume", _S, "float64", (1,), "Å³", "volume of the cell of the input; zero without one", _CUSTOM),
    Field("cause", _S, "int64", (1,), "", "why a running relaxation ended its system; see exit_kernels.py", _CUSTOM),
    Field("step", _S, "int64", (1,), "", "optimizer step of a trajectory frame", _CUSTOM),
)

FIELDS: Final[dict[str, Field]] = {field.name: field for field in _TABLE}
"""Every field by name."""


def _pick(*names: str) -> tuple[Field, ...]:
    return tuple(FIELDS[name] for name in names)


STRUCTURE_FIELDS: Final = _pick("atomic_numbers", "positions", "cell", "pbc", "system_id")
"""What makes a structure."""

CARRIED_FIELDS: Final = _pick(
    *("atomic_masses", "fixed", "symprec", "tags", "initial_charges", "initial_magmoms", "source", "frame", "info")
)
"""What comes with an input and is copied from `inputs.zarr` into the store by consolidation; shards do not repeat it."""

INPUT_FIELDS: Final = (*STRUCTURE_FIELDS, *CARRIED_FIELDS, *_pick("outcome", "error"))
"""Columns of `inputs.zarr`; outcome is invalid for a reject and -1 for every other input."""

RESULT_FIELDS: Final = (
    *STRUCTURE_FIELDS,
    *_pick(
        "energy",
        "forces",
        "stress",
        "outcome",
        "error",
        "n_steps",
        "fmax",
        "smax",
        "initial_energy",
        "energy_per_atom",
        "shortest_distance_ratio",
        "volume_ratio",
        "n_fragments",
    ),
)
"""Columns of a per-rank shard."""

STORE_FIELDS: Final = (*RESULT_FIELDS, *CARRIED_FIELDS)
"""Columns of `store.zarr`."""

TRAJECTORY_FIELDS: Final = (*STRUCTURE_FIELDS, *_pick("step", "energy", "forces", "stress"))
"""Columns of `trajectory.zarr` and of the shards it is made from."""

NEIGHBOR_KEYS: Final = frozenset({"neighbor_matrix", "num_neighbors", "neighbor_matrix_shifts", "neighbor_list", "neighbor_list_shifts"})
"""Neighbour data that lives on a batch, is rebuilt at will and is never stored."""


def encode_error(text: str) -> bytes:
    """Return `text` as exactly `ERROR_BYTES` bytes of UTF-8, cut between characters, zero padded.

    >>> len(encode_error("å" * 200))
    192
    """
    raw = text.replace("\0", " ").encode()
    if len(raw) > ERROR_BYTES:
        raw = raw[: ERROR_BYTES - 3].decode(errors="ignore").encode() + "…".encode()
    return raw.ljust(ERROR_BYTES, b"\0")


def decode_error(raw: bytes) -> str:
    """Return the text of an `error` row.

    >>> decode_error(encode_error("NaN in positions"))
    'NaN in positions'
    """
    return raw.rstrip(b"\0").decode(errors="replace")
