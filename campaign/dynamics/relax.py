"""A relaxation: what one rank does with its systems, from the sampler through the batch to a sink.

    sampler ─▶ admit ─▶ batch ─▶ step, step, step … ─▶ leave ─▶ sink
                          ▲                              │
                          └────────── exchange ◀─────────┘

The step loop is `loop.py`, the optimizer one of `optimizers/`, who ends and why is `exits.py`, when those who ended leave is `refill.py`,
and a model that raises is the business of `isolation.py`. How much fits into memory, `memory.py` learns; systems that leave the batch for
that wait in `set_aside.py`. What is left for here is admitting, leaving and counting. At any moment

    n_admitted = in flight + set aside + n_finished, summed over outcomes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from campaign.constraints import import_spglib
from campaign.data import Batch
from campaign.dynamics.burst import Burst
from campaign.dynamics.carried import carried_keys
from campaign.dynamics.distances import contacts
from campaign.dynamics.exit_kernels import Cause
from campaign.dynamics.exits import CAUSE, ENGINE_KEYS, Exits, describe, prepare, set_error
from campaign.dynamics.isolation import IsolatingModel
from campaign.dynamics.memory import MemoryLearner, meter_for
from campaign.dynamics.model_errors import Fault, fault_of
from campaign.dynamics.refill import RefillPolicy
from campaign.dynamics.relax_settings import OPTIMIZERS, RelaxSettings
from campaign.dynamics.run_statistics import RunStatistics
from campaign.dynamics.sampler import Sampler
from campaign.dynamics.set_aside import SetAside
from campaign.dynamics.sinks import DataSink
from campaign.dynamics.symmetry import follow_symmetry, keep_symmetry
from campaign.errors import ArgumentError, SamplerError
from campaign.fields import NEIGHBOR_KEYS
from campaign.hooks import DynamicsStage, Hook
from campaign.hooks.neighbor_list import NeighborListHook
from campaign.models.base import BaseModelMixin
from campaign.outcomes import RUNNING, Outcome

GROWS: Final = 1.5
"""How much more room in memory is worth an exchange by itself."""

__all__ = ["OPTIMIZERS", "RelaxSettings", "Relaxation", "RunStatistics"]


class Relaxation:
    """Relaxes everything that a sampler gives and writes each system to a sink when it has ended.

    Every system ends with an outcome, whatever becomes of it, and leaves the same way: fields `outcome`, `error`, `n_steps`, `fmax`,
    `smax`, `initial_energy` and the quality columns `energy_per_atom`, `volume_ratio`, `shortest_distance_ratio` and `n_fragments`, which
    flag and judge nothing, beside its structure, energy, forces and stress. What a system
    does depends on itself only: with a deterministic model its result has the same bits alone or among others, early or late, in one go or
    continued from what a `SnapshotHook` wrote, which the sampler then gives (`newest_of_each`).

    Args:
        model: what gives energy, forces and, where the cell relaxes, stress.
        settings: how.
        sampler: where systems come from.
        sinks: where they go; the first that has room.
        hooks: called in each step, as for `BaseDynamics`. Neighbour lists are made without them; a `NeighborListHook` among them replaces
            the model's own.
        max_systems: systems of the batch.
        max_atoms: atoms of the batch; a larger system runs alone.
        memory: learns how many atoms fit into memory; None makes one for the device.
        refused: systems by id that are not to be worked on, and why; they end failed.
        on_admission: told the ids in the batch whenever new ones came into it, before anything is done with them.

    Raises:
        ArgumentError: no sink, a limit below 1, or a setting out of range.
        MissingDependencyError: symmetry is to be kept and spglib is not installed.
    """

    def __init__(
        self,
        model: BaseModelMixin,
        settings: RelaxSettings,
        sampler: Sampler,
        sinks: Sequence[DataSink],
        hooks: Sequence[Hook] = (),
        max_systems: int = 512,
        max_atoms: int = 4096,
        device: torch.device | str = "cpu",
        memory: MemoryLearner | None = None,
        refused: Mapping[int, str] | None = None,
        on_admission: Callable[[list[int]], None] | None = None,
    ) -> None:
        if not sinks:
            raise ArgumentError("a relaxation was given no sink; results need a place. Pass at least one.")
        if max_systems < 1 or max_atoms < 1:
            raise ArgumentError(f"max_systems is {max_systems} and max_atoms {max_atoms}; both are at least 1. Correct them.")
        if settings.optimizer not in OPTIMIZERS:
            raise ArgumentError(f"optimizer is {settings.optimizer!r}; known are {', '.join(OPTIMIZERS)}. Choose one.")
        if settings.fix_symmetry:
            import_spglib()
            if not all(settings.strain_mask):
                raise ArgumentError("fix_symmetry is set and strain_mask fixes components; a cell may have to strain them. Choose one.")
        brings_neighbors = any(isinstance(hook, NeighborListHook) for hook in hooks)
        self.device = torch.device(device)
        self.memory = memory or MemoryLearner(meter_for(self.device))
        self.model = IsolatingModel(model, () if brings_neighbors else None, self.memory)
        self.settings = settings
        self.sampler = sampler
        self.max_systems = max_systems
        self.max_atoms = max_atoms
        self.exits = Exits(settings.exits())
        self.dynamics = OPTIMIZERS[settings.optimizer](
            self.model,
            maxstep=settings.maxstep_ang,
            cell_mode=settings.cell,
            strain_mask=settings.strain_mask,
            pressure_ev_per_ang3=settings.pressure_ev_per_ang3,
            hooks=hooks,
            convergence_hook=self.exits,
            exit_status=self.exits.exit_status,
            sinks=sinks,
        )
        self.exits.reports = any(_may_listen(hook) for hook in hooks)
        self.statistics = RunStatistics()
        self.batch: Batch | None = None
        """Systems in flight."""
        self.set_aside = SetAside(self.dynamics)
        """Systems that wait for memory."""
        self._refused = dict(refused or {})
        self._on_admission = on_admission
        self._most_atoms = max_atoms
        self._policy = RefillPolicy(settings.refill_every)
        self._burst = Burst.where_possible(self.dynamics, self.exits, self.model, self.device, settings.refill_every)

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> RunStatistics:
        """Relax until the sampler is exhausted and every system has ended, or `should_stop` says so after a step.

        Systems in flight when it stops stay in `batch`, and a further `run` goes on with them.

        Raises:
            SinkFullError: no sink has room for systems that leave.
            Exception: what the model raised, where it cannot be the fault of single systems; see `IsolatingModel`.
        """
        start, before = perf_counter(), self.statistics.total_s
        self.dynamics._open_hooks()
        try:
            if self.batch is None:
                self.batch = self._exchange(None)
            while self.batch is not None and not should_stop():
                step_s, is_burst = self._advance(self.batch)
                ended_systems, ended_atoms = self.exits.counts()
                if (
                    self.model.n_failed
                    or self._has_wrong_size(self.batch)
                    or self._policy.is_due(
                        ended_systems, ended_atoms, self.batch.num_graphs, self.batch.num_nodes, step_s, idle_costs=not is_burst
                    )
                ):
                    self.batch = self._exchange(self.batch)
            if self.batch is not None:
                # Asked to stop: what has ended and waited for the next exchange is finished work.
                self.batch = self._exchange(self.batch, admits=False)
        finally:
            self.dynamics._close_hooks()
            spent = self.statistics.total_s - before
            self.statistics.seconds["other"] += perf_counter() - start - spent
            self.statistics.book_waiting("sink", _waited_s(self.dynamics.sinks))
            self.statistics.book_waiting("optimizer", _waited_s(getattr(hook, "sink", None) for hook in self.dynamics.hooks))
        return self.statistics

    def _advance(self, batch: Batch) -> tuple[float, bool]:
        """Do a burst of steps, or one step; return how long it took, and which it was."""
        if self._burst is not None and self._burst.can_run(batch):
            start = perf_counter()
            try:
                self._burst.run(batch)
            except Exception as error:
                if fault_of(error) in (Fault.SETUP, Fault.DEVICE):
                    raise
                # Nothing was moved, and the step below finds out whose fault it is.
            else:
                seconds = perf_counter() - start
                self.statistics.seconds["steps"] += seconds
                self.statistics.n_batch_steps += 1
                return seconds, True
        return self._step(batch), False

    def _step(self, batch: Batch) -> float:
        model, seconds = self.model, self.statistics.seconds
        model_s, neighbor_s, start = model.model_s, model.neighbor_s, perf_counter()
        self.dynamics.step(batch)
        step_s = perf_counter() - start
        seconds["model"] += model.model_s - model_s
        seconds["neighbors"] += model.neighbor_s - neighbor_s
        seconds["optimizer"] += step_s - (model.model_s - model_s) - (model.neighbor_s - neighbor_s)
        self.statistics.n_batch_steps += 1
        return step_s

    # Systems that leave and come

    def _has_wrong_size(self, batch: Batch) -> bool:
        """Return whether the batch is larger than memory allows, or was kept small and need not be any more."""
        most = min(self.max_atoms, self.memory.most_atoms)
        return (batch.num_graphs > 1 and batch.num_nodes > most) or most >= GROWS * self._most_atoms

    def _exchange(self, batch: Batch | None, admits: bool = True) -> Batch | None:
        """Let those leave that have ended, and take as many new ones as there is room for; None if the batch would be empty."""
        start, sink_before = perf_counter(), self.statistics.seconds["sink"]
        self.model.n_failed = 0
        kept = batch
        remaining: ndarray[Any, Any] = np.arange(0)
        self._most_atoms = min(self.max_atoms, self.memory.most_atoms)
        if batch is not None:
            self.dynamics._tell_converged(batch, self.exits.unreported(batch))
            has_ended = batch["outcome"].view(-1).cpu().numpy() >= 0
            if has_ended.any():
                self._leave(batch, np.flatnonzero(has_ended))
            remaining = np.flatnonzero(~has_ended)
            n_fitting = max(1, int(np.searchsorted(np.cumsum(batch.atom_segments.lengths[remaining]), self._most_atoms, side="right")))
            if n_fitting < len(remaining):
                self.set_aside.put(batch, remaining[n_fitting:])
                remaining = remaining[:n_fitting]
            if len(remaining) < batch.num_graphs:
                # The neighbour hook has its own copy of what it put on the batch.
                kept = batch.index_select(remaining, exclude_keys=NEIGHBOR_KEYS) if len(remaining) else None
        if len(self.set_aside):
            if batch is not None:
                self.dynamics._sync_state_to_batch(torch.from_numpy(remaining), 0, batch if kept is None else kept)
            if admits:
                kept = self.set_aside.bring_back(kept, self.max_systems, self._most_atoms)
            remaining = np.arange(0 if kept is None else kept.num_graphs)
        n_new = 0
        while admits and not len(self.set_aside):
            newcomers = self._admit(kept)
            if newcomers is None:
                break
            n_new += newcomers.num_graphs
            if kept is None:
                kept = newcomers
            else:
                kept.append(newcomers)
        if self._on_admission is not None and kept is not None and (n_new or kept is not batch):
            self._on_admission(kept["system_id"].view(-1).tolist())
        template = batch if kept is None else kept
        if template is not None:
            self.dynamics._sync_state_to_batch(torch.from_numpy(remaining), n_new, template)
        if kept is not None:
            self.dynamics._ensure_state_initialized(kept)
            follow_symmetry(kept)
        self.exits.forget()
        self.statistics.n_exchanges += 1
        spent = perf_counter() - start
        if batch is not None:  # the first admission is no measure of what the later ones take
            self._policy.exchanged(spent)
        self.statistics.seconds["exchange"] += spent - (self.statistics.seconds["sink"] - sink_before)
        return kept

    def _admit(self, kept: Batch | None) -> Batch | None:
        """Return new systems, ready to run, for the room beside `kept`; None if there are none."""
        while True:
            n_systems, n_atoms = (0, 0) if kept is None else (kept.num_graphs, kept.num_nodes)
            if self.sampler.exhausted or n_systems >= self.max_systems or n_atoms >= self._most_atoms:
                return None
            batch = self.sampler.next_batch(self.max_systems - n_systems, self._most_atoms - n_atoms, self.device)
            if batch is None and kept is None and not self.sampler.exhausted:
                # What comes next is larger than the whole batch may be: it runs alone.
                batch = self.sampler.next_batch(1, sys.maxsize, self.device)
                if batch is None and not self.sampler.exhausted:
                    raise SamplerError("the sampler gives no system, without any limit, and says it is not exhausted. Mend its next_batch.")
            if batch is None:
                return None
            prepare(batch, self.statistics.n_admitted)
            self.statistics.n_admitted += batch.num_graphs
            wrong = ~_finite_systems(batch).cpu().numpy()
            if wrong.any():
                # Never in one batch with others: what is not finite has no place in a neighbour search.
                self._refuse(batch.index_select(wrong), Outcome.DIVERGED)
            if reasons := self._reasons(batch):
                known = np.isin(batch["system_id"].view(-1).cpu().numpy(), list(reasons)) & ~wrong
                if known.any():
                    self._refuse(batch.index_select(known), Outcome.FAILED, reasons)
                wrong |= known
            if wrong.all():
                continue
            if wrong.any():
                batch = batch.index_select(~wrong)
            keep_symmetry(batch, self.settings.fix_symmetry)
            return batch

    def _reasons(self, batch: Batch) -> Mapping[int, str]:
        """Return systems by id that are not to be worked on, and why."""
        if all(self.settings.strain_mask) or "symprec" not in batch:
            return self._refused
        text = "its FixSymmetry and strain_mask exclude each other: a cell may have to strain what is masked"
        ids = batch["system_id"][batch["symprec"].view(-1) > 0].view(-1).tolist()
        return {**dict.fromkeys(ids, text), **self._refused}

    def _refuse(self, batch: Batch, outcome: Outcome, reasons: Mapping[int, str] | None = None) -> None:
        """Let systems leave at once: diverged, whose positions or cells are not finite, or failed, for these reasons."""
        for key, value in (("outcome", outcome), (CAUSE, Cause.INPUT_NOT_FINITE)):
            batch[key].fill_(int(value))
        if reasons is not None:
            for row, system_id in enumerate(batch["system_id"].view(-1).tolist()):
                set_error(batch, row, reasons[system_id])
        for key in ("energy", "forces", "stress", "volume_ratio"):
            batch[key].fill_(torch.nan)
        self._record(batch)

    def _leave(self, batch: Batch, ended: ndarray[Any, Any]) -> None:
        """Write systems of the batch that have ended."""
        leaving = batch.index_select(ended, exclude_keys=NEIGHBOR_KEYS)
        outcome = leaving["outcome"].view(-1)
        went_wrong = (outcome == int(Outcome.DIVERGED)) | (outcome == int(Outcome.FAILED))
        moved = went_wrong & (leaving["n_steps"].view(-1) > 0)
        rows = np.flatnonzero(moved.cpu().numpy())
        if len(rows):
            self._go_back(leaving, rows, ended[rows])
        leaving["shortest_distance_ratio"], leaving["n_fragments"] = contacts(leaving)
        leaving["energy_per_atom"] = leaving["energy"] / leaving.num_nodes_per_graph.view(-1, 1)
        self._record(leaving)

    def _go_back(self, leaving: Batch, rows: ndarray[Any, Any], positions_in_batch: ndarray[Any, Any]) -> None:
        """Put systems back to their last good positions, and evaluate them there so that all that is stored belongs together."""
        state = self.dynamics._state.index_select(positions_in_batch)
        back = leaving.index_select(rows)
        back["positions"], back["cell"] = state["last_positions"], state["last_cell"]
        before = back["outcome"].clone(), back["error"].clone()
        back["outcome"].fill_(RUNNING)
        outputs = IsolatingModel(self.model.model)(back)
        for key in ("energy", "forces", "stress"):
            value = outputs.get(key)
            if value is not None:
                back[key] = value.detach().to(back["positions"].dtype).view(back[key].shape)
        back["outcome"], back["error"] = before
        self.exits.measure(back)
        atom_rows = torch.as_tensor(
            np.isin(np.repeat(np.arange(leaving.num_graphs), leaving.atom_segments.lengths), rows), device=self.device
        )
        system_rows = torch.as_tensor(rows, device=self.device)
        for key in ("positions", "forces"):
            leaving[key][atom_rows] = back[key]
        for key in ("cell", "energy", "stress", "fmax", "smax", "volume_ratio"):
            leaving[key][system_rows] = back[key]

    def _record(self, leaving: Batch) -> None:
        """Say in words why systems ended, write them, and count them."""
        host = {key: leaving[key].view(-1).cpu().numpy() for key in ("outcome", "n_steps", "fmax", "smax", CAUSE)}
        has_text = leaving["error"][:, 0].cpu().numpy() != 0
        for row in np.flatnonzero((host["outcome"] != int(Outcome.CONVERGED)) & ~has_text):
            text = describe(
                Outcome(host["outcome"][row]),
                Cause(host[CAUSE][row]),
                int(host["n_steps"][row]),
                float(host["fmax"][row]),
                float(host["smax"][row]),
                self.exits.settings,
            )
            set_error(leaving, row, text)
        for key in (*ENGINE_KEYS, *carried_keys(leaving)):
            if key in leaving:
                del leaving[key]
        start = perf_counter()
        self.dynamics._write_to_sink(leaving)
        self.statistics.seconds["sink"] += perf_counter() - start
        for outcome, count in zip(*np.unique(host["outcome"], return_counts=True), strict=True):
            known = self.statistics.n_finished.get(Outcome(outcome), 0)
            self.statistics.n_finished[Outcome(outcome)] = known + int(count)
        self.statistics.n_steps_total += int(host["n_steps"].sum())
        self.statistics.atom_steps += int((host["n_steps"] * leaving.atom_segments.lengths).sum())


def _finite_systems(batch: Batch) -> Tensor:
    """Return which systems have finite positions and cell."""
    bad_atoms = ~torch.isfinite(batch["positions"]).all(1)
    bad = torch.zeros(batch.num_graphs, dtype=torch.int32, device=batch.device)
    bad.index_add_(0, batch.batch_idx, bad_atoms.to(torch.int32))
    return (bad == 0) & torch.isfinite(batch["cell"]).flatten(1).all(1)


def _waited_s(sinks: Iterable[DataSink | None]) -> float:
    # A sink that was written against the contract alone need not have it.
    return sum(getattr(sink, "waited_s", 0.0) for sink in sinks)


def _may_listen(hook: Hook) -> bool:
    """Return whether a hook may want to know who has just converged."""
    runs_on_stage = getattr(hook, "_runs_on_stage", None)
    return bool(runs_on_stage(DynamicsStage.ON_CONVERGE)) if runs_on_stage is not None else hook.stage is DynamicsStage.ON_CONVERGE
