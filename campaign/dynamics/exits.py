"""Honest endings: each system of a relaxation ends converged, at the step limit, diverged or failed, and says so in numbers and words.

    converged   fmax and, where the cell relaxes, smax are at or below their thresholds
    max_steps   the step limit is reached and it has not converged
    diverged    something is not finite, or out of bounds: the last good positions are kept
    failed      the model raised for this very system: the error's text is kept, and the last good positions

`Exits` measures and decides, in one launch per step (`exit_kernels.py`); where more than one outcome applies, `campaign.outcomes.worse`
says which stands. It is the `convergence_hook` of a relaxation. `describe` is the sentence for the `error` field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from campaign.data import Batch
from campaign.data.tally import LaggedTally, runs_behind
from campaign.data.warp_interop import BoundLaunch, precision_of
from campaign.dynamics.carried import carries_state, evaluate_first
from campaign.dynamics.convergence import ConvergenceHook
from campaign.dynamics.exit_kernels import N_TALLIES, Cause, Tally, exit_kernel
from campaign.dynamics.optimizers.strain import ALL_FREE, CellMode, StrainMask, cell_code
from campaign.dynamics.symmetry import SYMMETRY_KEYS, followed_keys, symmetrise
from campaign.errors import ArgumentError
from campaign.fields import ERROR_BYTES, Level, encode_error
from campaign.hooks.neighbor_list import UNLISTED
from campaign.outcomes import RUNNING, Outcome

__all__ = ["ENGINE_KEYS", "ExitSettings", "Exits", "describe", "prepare", "set_error"]

CAUSE: Final = "cause"
FLOAT32_FORCE_BOUND: Final = 1e15
INITIAL_VOLUME: Final = "initial_volume"
ENGINE_KEYS: Final = frozenset({CAUSE, INITIAL_VOLUME, "status", "velocities"}) | SYMMETRY_KEYS
"""Keys, where they are there, that the engine needs while a system runs and that say nothing about it once it has ended."""


@dataclass(frozen=True, slots=True)
class ExitSettings:
    """When a system has ended.

    Raises:
        ArgumentError: a threshold, a bound, the step limit, the mask or the pressure is out of range.

    >>> ExitSettings(fmax_ev_per_ang=0.02, smax_ev_per_ang3=0.002, max_steps=500).volume_ratio_bound
    20.0
    """

    fmax_ev_per_ang: float
    """Converged at or below, together with smax."""
    smax_ev_per_ang3: float
    """Converged at or below; means nothing while the cell is fixed."""
    max_steps: int
    """Optimizer steps."""
    cell_mode: CellMode = CellMode.FIXED
    """Which stress components count."""
    strain_mask: StrainMask = ALL_FREE
    """Which Cartesian components of the strain are free; the stress on the others does not count."""
    pressure_ev_per_ang3: float = 0.0
    """Converged is where the stress is minus this."""
    energy_bound_ev_per_atom: float = 1e7
    """Diverged when so far below zero: atoms fall into each other. None above: bounded steps calm any start."""
    force_bound_ev_per_ang: float = 1e100
    """Diverged beyond: squares of forces come to the end of double precision. In single precision it is at most `FLOAT32_FORCE_BOUND`."""
    volume_ratio_bound: float = 20.0
    """Diverged when the volume has grown, or shrunk, by more than this factor."""

    def __post_init__(self) -> None:
        for name in ("fmax_ev_per_ang", "smax_ev_per_ang3", "energy_bound_ev_per_atom", "force_bound_ev_per_ang", "volume_ratio_bound"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name} is {getattr(self, name)}; it must be above 0. Correct it.")
        cell_code(self.cell_mode, self.strain_mask)
        if not math.isfinite(self.pressure_ev_per_ang3):
            raise ArgumentError(f"pressure_ev_per_ang3 is {self.pressure_ev_per_ang3}; it must be finite. Correct it.")
        if self.max_steps < 0:
            raise ArgumentError(f"max_steps is {self.max_steps}; it must be 0 or more. Correct it.")


def prepare(batch: Batch, first_id: int = 0) -> None:
    """Give a batch every key that a relaxation keeps per system, for systems that have not begun; positions must be there.

    Systems without `system_id` get the numbers from `first_id` on. Those that carry the state of a dynamics are in the middle of theirs:
    they keep what they bring, and are evaluated and judged before they move.

    >>> batch = Batch.from_arrays([1], {"positions": torch.zeros(1, 3)}, {})
    >>> prepare(batch)
    >>> batch.outcome.tolist(), batch.n_steps.tolist()
    ([[-1]], [[0]])
    """
    n, positions, device = batch.num_graphs, batch["positions"], batch.device
    real = {"dtype": positions.dtype, "device": device}
    starts = {key: torch.zeros_like(positions) for key in ("forces", "velocities")}
    starts |= {
        key: torch.full((n, 1), torch.nan, **real)
        for key in ("fmax", "smax", "initial_energy", "energy_per_atom", "shortest_distance_ratio")
    }
    starts |= {"energy": torch.zeros(n, 1, **real), "stress": torch.zeros(n, 3, 3, **real)}
    starts |= {"volume_ratio": torch.ones(n, 1, **real), INITIAL_VOLUME: torch.zeros(n, 1, **real)}
    for key, code in (("status", 0), ("outcome", RUNNING), ("n_steps", 0), ("n_fragments", 0), (CAUSE, Cause.NONE)):
        starts[key] = torch.full((n, 1), int(code), dtype=torch.int64, device=device)
    starts["error"] = torch.zeros(n, ERROR_BYTES, dtype=torch.uint8, device=device)
    resumed = carries_state(batch)
    for key, start in starts.items():
        if resumed is not None and key in batch:
            rows = resumed[batch.batch_idx] if batch.level_of(key) is Level.ATOM else resumed
            start[rows] = batch[key][rows]
        batch[key] = start
    evaluate_first(batch)
    if "cell" not in batch or "pbc" not in batch:
        batch["cell"] = torch.zeros(n, 3, 3, **real)
        batch["pbc"] = torch.zeros(n, 3, dtype=torch.bool, device=device)
    if "fixed" not in batch:
        batch["fixed"] = torch.zeros(batch.num_nodes, 3, dtype=torch.bool, device=device)
    if "system_id" not in batch:
        batch["system_id"] = torch.arange(first_id, first_id + n, device=device).view(n, 1)


class Exits(ConvergenceHook):
    """Measures fmax, smax and volume ratio of every running system and gives those that end their outcome and `exit_status`.

    The batch has the keys of `prepare`. Where somebody in it keeps symmetry (`follow_symmetry`), it is the averaged forces and stress that
    are measured, and that an optimizer follows in the next step. `counts` says how much of it has ended; on a GPU it is a
    step or two behind.

    Args:
        settings: when a system has ended.
        exit_status: status of a system that has.
        reports: whether `evaluate` returns who has converged, for those who listen. On a GPU it does so when it hears of it, a step or two
            later, and `unreported` returns those of whom it has not heard: they lie frozen on the device, as they were when they ended.
    """

    def __init__(self, settings: ExitSettings, exit_status: int = 1, reports: bool = True) -> None:
        super().__init__({"key": "fmax", "threshold": settings.fmax_ev_per_ang})
        self.settings = settings
        self.exit_status = exit_status
        self.reports = reports
        self._tally: LaggedTally | None = None
        self._newly: Tensor | None = None
        self._reported: Tensor | None = None
        self._n_ended_reported = 0
        self._nobody: Tensor | None = None
        self._bound: tuple[tuple[torch.dtype, torch.device], BoundLaunch] | None = None

    def evaluate(self, batch: Batch) -> Int64[Tensor, " M"] | None:
        """Measure, decide, and return the positions of systems that have converged and were not returned before, or None."""
        tally = self._tally_for(batch.device)
        self._judge(batch, tally.start(), decide=True)
        tally.post()
        if not self.reports or self._newly is None:
            return None
        latest = tally.read()
        if not runs_behind(batch.device):
            return self._newly.nonzero().view(-1) if latest[Tally.NEWLY_CONVERGED] else None
        n_ended = int(latest[Tally.ENDED_SYSTEMS])
        if n_ended <= self._n_ended_reported:
            return None
        self._n_ended_reported = n_ended
        return self.unreported(batch)

    def unreported(self, batch: Batch) -> Int64[Tensor, " M"] | None:
        """Return the positions of systems that have converged and were not returned before, or None; on a GPU this waits for it."""
        if not self.reports or not runs_behind(batch.device):
            return None  # whoever has converged was returned at once
        converged = batch["outcome"].view(-1) == int(Outcome.CONVERGED)
        if self._reported is None:
            self._reported = torch.zeros_like(converged)
        positions = (converged & ~self._reported).nonzero().view(-1)
        self._reported |= converged
        return positions if len(positions) else None

    def measure(self, batch: Batch) -> None:
        """Only measure, whatever the outcomes are."""
        self._judge(batch, torch.zeros(N_TALLIES, dtype=torch.int32, device=batch.device), decide=False)

    def counts(self) -> tuple[int, int]:
        """Return systems and atoms that have ended and are still in the batch."""
        if self._tally is None:
            return 0, 0
        latest = self._tally.read()
        return int(latest[Tally.ENDED_SYSTEMS]), int(latest[Tally.ENDED_ATOMS])

    def forget(self) -> None:
        """Forget what was counted, since the systems of the batch have changed."""
        self._reported, self._n_ended_reported = None, 0
        if self._tally is not None:
            self._tally.forget()

    def __call__(self, ctx: Any, stage: Enum) -> None:
        """Do nothing: this one decides in `evaluate`."""

    # What a launch of the judging needs, here and in `burst.py`

    def start_tally(self, device: torch.device) -> Tensor:
        """Return a tally of zeros, to be counted into by one launch; then call `post_tally`."""
        return self._tally_for(device).start()

    def post_tally(self) -> None:
        """Say that what was launched counts into the tally."""
        if self._tally is not None:
            self._tally.post()

    def judge_arguments(self, batch: Batch, tally: Tensor) -> list[Tensor | int | float]:
        """Return the arguments of the judging from `n_steps` on, without `decide`, cell mode and pressure."""
        settings, n = self.settings, batch.num_graphs
        if self._newly is None or len(self._newly) != n:
            self._newly = torch.zeros(n, dtype=torch.bool, device=batch.device)
        return [
            *(batch[key] for key in _KEPT),
            self._newly,
            tally,
            self.exit_status,
            settings.max_steps,
            settings.fmax_ev_per_ang,
            settings.smax_ev_per_ang3,
            settings.energy_bound_ev_per_atom,
            min(settings.force_bound_ev_per_ang, FLOAT32_FORCE_BOUND if batch["forces"].dtype == torch.float32 else math.inf),
            settings.volume_ratio_bound,
        ]

    def _tally_for(self, device: torch.device) -> LaggedTally:
        if self._tally is None:
            self._tally = LaggedTally(N_TALLIES, device)
        return self._tally

    def _judge(self, batch: Batch, tally: Tensor, decide: bool) -> None:
        arguments = self.judge_arguments(batch, tally)
        key = batch["positions"].dtype, batch.device
        if self._bound is None or self._bound[0] != key:
            self._bound = key, BoundLaunch(exit_kernel(precision_of(key[0])), batch.device)
        symmetrise(batch)
        forces, stress = followed_keys(batch)
        read = [batch[key] for key in ("energy", forces, stress, "cell", "pbc")]
        after = len(_KEPT) + 2
        settings = self.settings
        how = [int(decide), cell_code(settings.cell_mode, settings.strain_mask), settings.pressure_ev_per_ang3]
        if self._nobody is None or self._nobody.device != batch.device:
            self._nobody = torch.zeros((0, 1), dtype=torch.bool, device=batch.device)
        waits = batch[UNLISTED] if UNLISTED in batch else self._nobody  # noqa: SIM401 - a batch is no dictionary
        first = [waits, batch.batch_ptr, batch["fixed"], 1]
        self._bound[1].run(batch.num_graphs, [*first, *read, *arguments[:after], *how, *arguments[after:]])


_KEPT: Final = ("n_steps", "status", "outcome", CAUSE, "fmax", "smax", "initial_energy", INITIAL_VOLUME, "volume_ratio")


def set_error(batch: Batch, row: int, text: str) -> None:
    """Put a sentence into the `error` field of one system."""
    batch["error"][row] = torch.from_numpy(np.frombuffer(encode_error(text), dtype=np.uint8).copy())


def describe(outcome: Outcome, cause: Cause, n_steps: int, fmax: float, smax: float, settings: ExitSettings) -> str:
    """Return the sentence for a system that ended by itself; the empty string if it converged.

    >>> settings = ExitSettings(fmax_ev_per_ang=0.02, smax_ev_per_ang3=0.002, max_steps=9)
    >>> describe(Outcome.MAX_STEPS, Cause.NONE, 9, 0.5, 0.0, settings)
    'not converged after 9 steps: fmax 0.5 > 0.02 eV/Å'
    """
    if outcome is Outcome.CONVERGED:
        return ""
    if outcome is Outcome.MAX_STEPS:
        lacking = [f"fmax {fmax:.4g} > {settings.fmax_ev_per_ang:g} eV/Å"] if fmax > settings.fmax_ev_per_ang else []
        if smax > settings.smax_ev_per_ang3:
            lacking.append(f"smax {smax:.4g} > {settings.smax_ev_per_ang3:g} eV/Å³")
        return f"not converged after {n_steps} steps: {', '.join(lacking)}"
    if cause is Cause.INPUT_NOT_FINITE:
        return "positions or cell of the input are not finite"
    place = "at the positions of the input" if n_steps == 0 else f"in step {n_steps}; the last good positions are kept"
    return f"{_CAUSES[cause].format(settings)} {place}"


_CAUSES: Final[dict[Cause, str]] = {
    Cause.NONE: "the model gave nothing usable",
    Cause.ENERGY_NOT_FINITE: "the energy is not finite",
    Cause.FORCES_NOT_FINITE: "a force is not finite",
    Cause.STRESS_NOT_FINITE: "the stress is not finite",
    Cause.ENERGY_OUT_OF_BOUNDS: "the energy is below -{0.energy_bound_ev_per_atom:g} eV per atom",
    Cause.FORCES_OUT_OF_BOUNDS: "a force is beyond {0.force_bound_ev_per_ang:g} eV/Å",
    Cause.VOLUME_OUT_OF_BOUNDS: "the volume has changed by more than a factor of {0.volume_ratio_bound:g}",
}
