"""Everything about one input: where it came from, what became of it, and where that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from campaign.errors import SpecError, StoreNotFoundError
from campaign.fields import decode_error
from campaign.outcomes import RUNNING, Outcome
from campaign.paths import CampaignPaths
from campaign.units import GPA_PER_EV_PER_ANG3

if TYPE_CHECKING:
    from campaign.store import StoreReader

_SCALARS: Final = ("energy", "initial_energy", "n_steps", "fmax", "smax", "volume_ratio", "shortest_distance_ratio", "n_fragments")
_CARRIED: Final = ("atomic_numbers", "fixed", "cell", "pbc", "source", "frame", "info", "outcome", "error")


@dataclass(frozen=True, slots=True)
class SystemRecord:
    """One input as `campaign show` prints it. What is not known, because it is not done or has no such thing, is None.

    `place` is the store that the result is in, relative to the campaign directory; None while there is no result.
    """

    system_id: int
    source: str
    frame: int
    outcome: str
    reason: str
    place: str | None
    formula: str
    n_atoms: int
    n_fixed: int
    pbc: tuple[bool, bool, bool]
    cell_ang: tuple[tuple[float, float, float], ...]
    cell_before_ang: tuple[tuple[float, float, float], ...]
    energy_ev: float | None
    energy_per_atom_ev: float | None
    initial_energy_ev: float | None
    n_steps: int | None
    fmax_ev_per_ang: float | None
    smax_ev_per_ang3: float | None
    volume_ratio: float | None
    shortest_distance_ratio: float | None
    n_fragments: int | None
    info: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:<20}{text}" for name, text in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        lines = [
            ("system", str(self.system_id)),
            ("source", f"{_printable(self.source)}, frame {self.frame}"),
            ("outcome", self.outcome),
        ]
        if self.reason:
            lines.append(("reason", _printable(self.reason)))
        lines.append(("stored in", self.place or "nowhere yet"))
        periodic = "".join("F" if not flag else "T" for flag in self.pbc)
        lines.append(("structure", f"{self.formula or 'no atoms'}, {self.n_atoms} atoms, {self.n_fixed} held, periodic {periodic}"))
        if self.energy_ev is not None:
            per_atom = "" if self.energy_per_atom_ev is None else f" ({self.energy_per_atom_ev:.6f} an atom)"
            lines.append(("energy", f"{self.energy_ev:.8f} eV{per_atom}"))
        if self.initial_energy_ev is not None:
            lines.append(("energy before", f"{self.initial_energy_ev:.8f} eV"))
        if self.n_steps is not None:
            lines.append(("steps", str(self.n_steps)))
        if self.fmax_ev_per_ang is not None:
            lines.append(("fmax", f"{self.fmax_ev_per_ang:.3g} eV/Å"))
        if self.smax_ev_per_ang3 is not None:
            lines.append(("smax", f"{self.smax_ev_per_ang3:.3g} eV/Å³ ({self.smax_ev_per_ang3 * GPA_PER_EV_PER_ANG3:.3g} GPa)"))
        if self.volume_ratio is not None:
            lines.append(("volume ratio", f"{self.volume_ratio:.5f}"))
        if self.shortest_distance_ratio is not None:
            lines.append(("shortest distance", f"{self.shortest_distance_ratio:.3f} of the covalent radii"))
        if self.n_fragments is not None:
            lines.append(("fragments", str(self.n_fragments)))
        lines += [(f"cell {axis} (Å)", _vector(row)) for axis, row in zip("abc", self.cell_ang, strict=False) if any(row)]
        if self.cell_before_ang != self.cell_ang:
            lines += [(f"  before, {axis}", _vector(row)) for axis, row in zip("abc", self.cell_before_ang, strict=False) if any(row)]
        lines += [(f"info {_printable(str(key))}", _printable(str(value))) for key, value in self.info.items()]
        return lines


def show_system(paths: CampaignPaths, system_id: int) -> SystemRecord:
    """Return everything about one input.

    Raises:
        SpecError: the campaign has no input of that id.
        StoreNotFoundError: the campaign has no inputs yet.
        StoreDamagedError: a store does not add up.

    >>> print(show_system(CampaignPaths.open("runs/cu-au"), 17))  # doctest: +SKIP
    """
    from campaign.analysis.composition import Compositions  # with zarr, what the rest of the command line does without
    from campaign.analysis.structure import parse_info
    from campaign.store import StoreReader

    inputs = StoreReader.open(paths.inputs)
    if not 0 <= system_id < inputs.n_systems:
        raise SpecError(f"system {system_id} was asked of {paths.root}, which has inputs 0 to {inputs.n_systems - 1}. Give one of these.")
    before = inputs.read([system_id], _CARRIED)
    outcome, error, cell = int(before["outcome"][0, 0]), before["error"][0], before["cell"][0]
    scalars: dict[str, Any] = {}
    place = paths.inputs.name if outcome != RUNNING else None
    if place is None and (found := _find_result(paths, system_id)) is not None:
        place, reader, row = found
        there = {field.name for field in reader.fields}
        after = reader.read([row], [name for name in (*_SCALARS, "outcome", "error", "cell") if name in there])
        outcome, error, cell = int(after["outcome"][0, 0]), after["error"][0], after["cell"][0]
        scalars = {name: _known(after[name][0, 0].item()) for name in _SCALARS if name in after}
    numbers = before["atomic_numbers"]
    energy = scalars.get("energy")
    return SystemRecord(
        system_id=system_id,
        source=str(before["source"][0]),
        frame=int(before["frame"][0, 0]),
        outcome=Outcome(outcome).label if outcome != RUNNING else "none yet",
        reason=decode_error(error.tobytes()),
        place=place,
        formula=Compositions.of_atoms(np.array([len(numbers)]), numbers).formulas[0] if len(numbers) else "",
        n_atoms=len(numbers),
        n_fixed=int(before["fixed"].any(axis=1).sum()),
        pbc=_flags(before["pbc"][0]),
        cell_ang=_rows(cell),
        cell_before_ang=_rows(before["cell"][0]),
        energy_ev=energy,
        energy_per_atom_ev=energy / len(numbers) if energy is not None and len(numbers) else None,
        initial_energy_ev=scalars.get("initial_energy"),
        n_steps=scalars.get("n_steps"),
        fmax_ev_per_ang=scalars.get("fmax"),
        smax_ev_per_ang3=scalars.get("smax"),
        volume_ratio=scalars.get("volume_ratio"),
        shortest_distance_ratio=scalars.get("shortest_distance_ratio"),
        n_fragments=scalars.get("n_fragments") or None,
        info=parse_info(before["info"][0], system_id),
    )


def _find_result(paths: CampaignPaths, system_id: int) -> tuple[str, StoreReader, int] | None:
    """The published store, else the first shard by name: the one whose row consolidation takes."""
    from campaign.store import StoreReader

    places = [paths.store] if paths.store.is_dir() else []
    for place in (*places, *(paths.shard(name) for name in paths.shard_names())):
        try:
            reader = StoreReader.open(place)
        except StoreNotFoundError:
            # Removed between listing and opening.
            continue
        rows = np.flatnonzero(reader.read_system("system_id").reshape(-1) == system_id)
        if len(rows):
            return str(place.relative_to(paths.root)), reader, int(rows[0])
    return None


def _known(value: float | int) -> float | int | None:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _flags(values: Any) -> tuple[bool, bool, bool]:
    first, second, third = np.asarray(values, dtype=bool).tolist()
    return first, second, third


def _rows(cell: Any) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in cell)


def _vector(row: tuple[float, float, float]) -> str:
    return "".join(f"{value:12.6f}" for value in row)


def _printable(text: str) -> str:
    """Text from files on one line: control characters, which could move the cursor of a terminal, are written out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
