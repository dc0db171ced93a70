"""What one rank does: claim, admit, relax, write, until nothing is left or it is asked to leave. One function.

Everything that decides anything is elsewhere: who works on what in `claims/`, how systems end in `campaign.dynamics`, when to leave in
`stop.py`. A rank writes into one new shard of its own and never into an existing one; what is committed there is what it has done.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import replace

import torch

from campaign.dynamics.relax import Relaxation, RelaxSettings
from campaign.dynamics.run_statistics import WAITING
from campaign.errors import FileWriteError, MissingDeviceError
from campaign.models.registry import create_model
from campaign.paths import ShardName
from campaign.plan import RoundPlan
from campaign.spec import CampaignSpec, read_spec
from campaign.store.reader import StoreReader
from campaign.worker.claims import Claims
from campaign.worker.environment import RankEnvironment, prepare_for_determinism
from campaign.worker.in_flight import InFlight, read_deaths
from campaign.worker.inputs import InputSampler
from campaign.worker.job import Place, RankJob
from campaign.worker.processes import ProcessId
from campaign.worker.provenance import peak_memory_bytes, shard_attributes
from campaign.worker.records import RankRecord, RunState
from campaign.worker.shards import committed_mask, create_shard, with_trajectory
from campaign.worker.stop import StopRequests
from campaign.worker.suspects import suspicion

_log = logging.getLogger("campaign.worker")


def run_rank(
    job: RankJob,
    claims: Claims,
    place: Place,
    *,
    plan: RoundPlan,
    environment: RankEnvironment,
    stop: StopRequests,
    started_unix_s: float,
) -> RunState:
    """Relax what this rank claims and return whether all of it is done. Results are on disk when this returns.

    Raises:
        CampaignError: the model, the inputs or the shard cannot be used. What was committed stays; the record has the error.
    """
    paths = job.paths
    name = ShardName(place.round, place.array_task, place.rank, place.attempt)
    record = RankRecord(name, RunState.RUNNING, ProcessId.this(), environment.job_id, started_unix_s, threads=torch.get_num_threads())
    record.write(paths)
    try:
        spec = read_spec(paths.spec)
        if spec.model.deterministic:
            prepare_for_determinism()
        device = choose_device(spec, place.local_rank)
        model = create_model(spec.model.name, getattr(torch, spec.model.dtype), device, spec.model.options, spec.model.deterministic)
        attributes = shard_attributes(spec, model, device, environment, torch.get_num_threads())
        with ExitStack() as closing:
            name, results = create_shard(paths, name, spec, attributes)
            closing.enter_context(results)
            record = replace(record, name=name, device=str(attributes["hardware"].get("gpu", device.type)))
            record.write(paths)
            sink, hooks = with_trajectory(paths, name, spec, results, closing)
            assignment = plan.assignment(place.array_task)
            done_mask = committed_mask(paths, name, assignment)
            max_atoms = spec.execution.max_atoms_in_batch
            left = assignment[~done_mask].tolist()
            suspects = suspicion(read_deaths(paths, name, left), left)
            sampler = InputSampler(StoreReader.open(paths.inputs), assignment, done_mask, claims, max_atoms, apart=suspects.parts)
            in_flight = closing.enter_context(InFlight(paths, name))
            max_systems = systems_in_flight(len(assignment), place.n_ranks, spec.execution.max_systems_in_batch)
            relaxation = Relaxation(
                model,
                relax_settings(spec),
                sampler,
                [sink],
                hooks,
                max_systems,
                max_atoms,
                device,
                refused=suspects.condemned,
                on_admission=in_flight.write,
            )
            startup_s = time.time() - started_unix_s
            statistics = relaxation.run(stop)
            while stop.reason is None and sampler.next_part():
                results.flush()  # what comes may kill this process, and others' results with it
                statistics = relaxation.run(stop)
            costs = {"device_seconds": time.time() - started_unix_s, "peak_memory_bytes": peak_memory_bytes(device)}
            results.annotate(costs)
    except Exception as error:
        try:
            replace(record, state=RunState.FAILED, ended_unix_s=time.time(), error=f"{type(error).__name__}: {error}").write(paths)
        except FileWriteError as another:
            # On a disk that is full there is no room for the record either; what came first is what to tell.
            error.add_note(f"the rank's record could not be written either: {another}")
        raise
    is_done = sampler.all_given and sum(statistics.n_finished.values()) == sampler.n_given
    record = replace(
        record,
        state=RunState.DONE if is_done else RunState.STOPPED,
        reason="" if is_done else str(stop.reason),
        ended_unix_s=time.time(),
        outcomes={outcome.label: count for outcome, count in statistics.n_finished.items()},
        n_claims=sampler.n_claims,
        n_steps=statistics.n_steps_total,
        atom_steps=statistics.atom_steps,
        seconds={"startup": startup_s, **{_PARTS.get(part, part): seconds for part, seconds in statistics.seconds.items()}},
        device_seconds=costs["device_seconds"],
        peak_memory_bytes=int(costs["peak_memory_bytes"]),
    )
    record.write(paths)
    _log.info("rank %d of %d %s: %s, %.1f structures/s", place.rank, place.n_ranks, record.state, record.outcomes, record.structures_per_s)
    return record.state


def choose_device(spec: CampaignSpec, local_rank: int) -> torch.device:
    """Return what this rank computes on; ranks of a node take its GPUs in turn.

    Raises:
        MissingDeviceError: the spec demands a GPU and there is none.
    """
    n_gpus = torch.cuda.device_count() if spec.model.device != "cpu" and torch.cuda.is_available() else 0
    if n_gpus:
        device = torch.device("cuda", local_rank % n_gpus)
        torch.cuda.set_device(device)
        return device
    if spec.model.device == "cuda":
        raise MissingDeviceError(
            'model.device is "cuda" and this rank sees no GPU. Ask for one with execution.slurm.gpus_per_rank, or set device = "auto".'
        )
    return torch.device("cpu")


def relax_settings(spec: CampaignSpec) -> RelaxSettings:
    """Return the engine's settings for a spec."""
    relax = spec.relax
    return RelaxSettings(
        optimizer=relax.optimizer,
        fmax_ev_per_ang=relax.fmax_ev_per_ang,
        smax_ev_per_ang3=relax.smax_ev_per_ang3,
        max_steps=relax.max_steps,
        cell=relax.cell,
        maxstep_ang=relax.maxstep_ang,
        strain_mask=relax.strain_mask,
        pressure_gpa=relax.pressure_gpa,
        fix_symmetry=relax.fix_symmetry,
    )


def systems_in_flight(n_positions: int, n_ranks: int, most: int) -> int:
    """Return how many systems a rank works on at a time: no more than half its share, or the first to come would take all.

    >>> systems_in_flight(100, n_ranks=4, most=512), systems_in_flight(10_000, 4, 512), systems_in_flight(1, 4, 512)
    (13, 512, 1)
    """
    return max(1, min(most, -(-n_positions // (2 * n_ranks))))


_PARTS = {"neighbors": "neighbours", WAITING: "waiting for disk"}
"""Parts of the time whose names in records differ from those of the engine."""

__all__ = ["choose_device", "relax_settings", "run_rank", "systems_in_flight"]
