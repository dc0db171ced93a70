"""A relaxation: results that depend on nothing but the system, and an honest ending for every system that came in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relax_structures import Relaxed, assert_same_bits, lj_clusters, one_of_each, relax, to_batch

from campaign.data import Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.hooks import ConvergedSnapshotHook, SnapshotHook
from campaign.dynamics.sampler import BatchSampler
from campaign.errors import ArgumentError, SamplerError, SinkFullError
from campaign.fields import RESULT_FIELDS, decode_error
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome
from campaign.testing.harmonic import HarmonicTrap, random_cloud

CELL: dict[str, Any] = {"cell": "full", "fmax": 0.01, "smax_ev_per_ang3": 1e-3}


@pytest.fixture(scope="module")
def crowd() -> Batch:
    """Twenty-one systems of seven kinds."""
    return to_batch([atoms for seed in range(3) for atoms in one_of_each(seed)])


@pytest.fixture(scope="module")
def together(crowd: Batch) -> Relaxed:
    return relax(EMTModel(), crowd, **CELL)


def test_everything_that_came_in_left_with_an_outcome(crowd: Batch, together: Relaxed) -> None:
    assert together.batch["system_id"].view(-1).tolist() == list(range(crowd.num_graphs))
    assert set(together.outcomes) == {Outcome.CONVERGED}
    assert together.statistics.n_admitted == together.statistics.n_left == crowd.num_graphs
    assert together.statistics.n_steps_total == int(together.batch["n_steps"].sum())
    assert together.statistics.atom_steps == int((together.batch["n_steps"].view(-1) * together.batch.num_nodes_per_graph).sum())
    assert {field.name for field in RESULT_FIELDS} <= {key for key, _ in together.batch}
    per_atom = together.batch["energy"].view(-1) / torch.tensor(together.batch.num_nodes_list)
    assert torch.equal(together.batch["energy_per_atom"].view(-1), per_atom)
    assert together.batch["n_fragments"].view(-1).tolist() == [1] * crowd.num_graphs


def test_converged_means_converged_when_ase_asks(crowd: Batch, together: Relaxed) -> None:
    for row, data in enumerate(together.batch.to_data_list()):
        atoms = data.to_atoms()
        atoms.calc = EMT()
        atoms.set_constraint()
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.01 + 1e-9
        assert float(together.batch["fmax"][row]) == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-9)
        assert float(together.batch["energy"][row]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        if atoms.pbc.all():
            assert np.abs(atoms.get_stress()).max() <= 1e-3 + 1e-9
            assert float(together.batch["smax"][row]) == pytest.approx(np.abs(atoms.get_stress()).max(), abs=1e-9)
            volume = crowd.get_data(row).to_atoms().get_volume()
            assert float(together.batch["volume_ratio"][row]) == pytest.approx(atoms.get_volume() / volume, rel=1e-12)
        start = crowd.get_data(row).to_atoms()
        start.calc = EMT()
        assert float(together.batch["initial_energy"][row]) == pytest.approx(start.get_potential_energy(), abs=1e-8)


@pytest.mark.parametrize(
    ("optimizer", "limits"),
    [
        ("fire", {"max_systems": 1}),  # alone, one after the other
        ("fire", {"max_systems": 3}),  # refilled all the time, others come and go
        ("fire", {"max_systems": 8, "max_atoms": 60}),
        ("fire", {"max_atoms": 20}),  # the larger ones run alone
        ("fire", {"refill_every": 1}),
        ("fire", {"refill_every": 17}),
        ("fire", {"reversed": True}),  # other neighbours in the batch
        ("fire2", {"max_systems": 3}),
        ("lbfgs", {"max_systems": 1}),
        ("lbfgs", {"max_systems": 3}),
    ],
)
def test_bits_do_not_depend_on_company(crowd: Batch, together: Relaxed, optimizer: str, limits: dict[str, int]) -> None:
    reference = together if optimizer == "fire" else relax(EMTModel(), crowd, optimizer=optimizer, **CELL)
    limits = dict(limits)
    chosen = {"refill_every": limits.pop("refill_every", None)}
    batch = crowd.index_select(range(crowd.num_graphs - 1, -1, -1)) if limits.pop("reversed", False) else crowd
    other = relax(EMTModel(), batch, optimizer=optimizer, limits=limits, **CELL, **chosen)
    assert other.statistics.n_batch_steps >= reference.statistics.n_batch_steps
    for system_id in range(crowd.num_graphs):
        assert_same_bits(reference.system(system_id), other.system(system_id))


@pytest.mark.parametrize("kind", ["position", "cell", "on one spot"])
def test_a_poisoned_system_diverges_alone(kind: str) -> None:
    structures = lj_clusters([7, 13, 20, 4])
    clean = relax(LennardJonesModel(rc=4.0), to_batch(structures))
    batch = to_batch(structures)
    if kind == "position":
        batch["positions"][-1, 2] = torch.nan
    elif kind == "cell":
        batch["cell"][-1, 0, 0] = torch.inf
    else:
        batch["positions"][-1] = batch["positions"][-2]
    poisoned = relax(LennardJonesModel(rc=4.0), batch)
    for system_id in range(3):
        assert_same_bits(clean.system(system_id), poisoned.system(system_id))
    assert poisoned.outcomes[3] is Outcome.DIVERGED
    assert poisoned.system(3)["n_steps"].item() == 0
    assert not np.isfinite(float(poisoned.system(3)["energy"]))
    assert torch.equal(poisoned.system(3)["positions"].nan_to_num(), batch.index_select([3])["positions"].nan_to_num())
    said = "the energy is not finite at the positions of the input"
    assert poisoned.errors[3] == (said if kind == "on one spot" else "positions or cell of the input are not finite")
    assert poisoned.statistics.n_admitted == poisoned.statistics.n_left == 4


class Cliff(HarmonicTrap):
    """A trap that gives NaN to systems of three atoms once all of them are close to the origin."""

    def forward(self, data: Batch) -> Any:
        outputs = super().forward(data)
        reach = torch.zeros(data.num_graphs, dtype=torch.float64).scatter_reduce_(
            0, data.batch_idx.long(), data["positions"].norm(dim=1), "amax", include_self=False
        )
        falls = (reach < 0.1) & (data.num_nodes_per_graph == 3)
        outputs["energy"][falls] = torch.nan
        outputs["forces"][falls[data.batch_idx]] = torch.nan
        return outputs


def test_what_diverges_on_its_way_keeps_its_last_good_positions() -> None:
    batch = random_cloud([3, 2, 3, 5])
    trap = relax(HarmonicTrap(), batch, fmax=1e-3, limits={"max_systems": 3})
    cliff = relax(Cliff(), batch, fmax=1e-3, limits={"max_systems": 3})
    assert cliff.outcomes == [Outcome.DIVERGED, Outcome.CONVERGED, Outcome.DIVERGED, Outcome.CONVERGED]
    for system_id in (1, 3):
        assert_same_bits(trap.system(system_id), cliff.system(system_id))
    for system_id in (0, 2):
        system = cliff.system(system_id)
        n_steps = int(system["n_steps"])
        assert 0 < n_steps < int(trap.system(system_id)["n_steps"])
        assert cliff.errors[system_id] == f"the energy is not finite in step {n_steps}; the last good positions are kept"
        # Where it was one step earlier, with the energy, forces and fmax of that place.
        before = relax(HarmonicTrap(), batch.index_select([system_id]), fmax=1e-3, max_steps=n_steps - 1).system(system_id)
        for key in ("positions", "energy", "forces", "fmax", "initial_energy"):
            assert torch.equal(system[key], before[key]), key
        assert system["positions"].norm(dim=1).max() >= 0.1


def test_max_steps_is_no_convergence() -> None:
    batch = to_batch(lj_clusters([13, 20]))
    free = relax(LennardJonesModel(rc=100.0), batch, fmax=1e-3, max_steps=1000)
    n_needed = free.batch["n_steps"].view(-1).tolist()
    assert n_needed[0] != n_needed[1]
    for max_steps in (0, 1, min(n_needed) - 1, min(n_needed), max(n_needed) - 1, max(n_needed)):
        limited = relax(LennardJonesModel(rc=100.0), batch, fmax=1e-3, max_steps=max_steps)
        for row in range(2):
            enough = n_needed[row] <= max_steps  # converging in the very last step is converging
            assert limited.outcomes[row] is (Outcome.CONVERGED if enough else Outcome.MAX_STEPS)
            assert int(limited.batch["n_steps"][row]) == min(max_steps, n_needed[row])
            fmax = float(limited.batch["fmax"][row])
            assert (fmax <= 1e-3) == enough
            assert limited.errors[row] == ("" if enough else f"not converged after {max_steps} steps: fmax {fmax:.4g} > 0.001 eV/Å")
            atoms = limited.batch.get_data(row).to_atoms()
            assert float(limited.batch["fmax"][row]) == pytest.approx(
                float(torch.linalg.vector_norm(limited.system(row)["forces"], dim=1).max()), rel=1e-12
            )
            assert len(atoms) in (13, 20)


def test_stress_is_part_of_convergence() -> None:
    atoms = bulk("Cu", a=3.5)  # no forces, by symmetry
    fixed = relax(EMTModel(), to_batch([atoms]))
    assert fixed.outcomes == [Outcome.CONVERGED]
    assert fixed.system(0)["n_steps"].item() == 0
    limited = relax(EMTModel(), to_batch([atoms]), cell="full", smax_ev_per_ang3=1e-4, max_steps=2)
    assert limited.outcomes == [Outcome.MAX_STEPS]
    assert limited.errors[0].startswith("not converged after 2 steps: smax ")
    assert relax(EMTModel(), to_batch([atoms]), cell="full", smax_ev_per_ang3=1e-4).outcomes == [Outcome.CONVERGED]


def dilute() -> Atoms:
    return Atoms("Ar4", np.random.default_rng(0).uniform(0, 15, (4, 3)), cell=np.eye(3) * 15.0, pbc=True)


@pytest.mark.parametrize(
    ("pressure_gpa", "optimizer"), [(0.0, "fire"), (0.0, "fire2"), (0.0, "lbfgs"), (-3.0, "fire"), (-3.0, "fire2"), (-3.0, "lbfgs")]
)
def test_a_cell_that_collapses_or_explodes_diverges_where_it_was_last_good(pressure_gpa: float, optimizer: str) -> None:
    model, batch = LennardJonesModel(sigma=3.0, rc=14.0), to_batch([dilute()])
    how: dict[str, Any] = {"cell": "full", "fmax": 1e-6, "smax_ev_per_ang3": 1e-9, "pressure_gpa": pressure_gpa, "optimizer": optimizer}
    relaxed = relax(model, batch, max_steps=3000, **how)
    assert relaxed.outcomes == [Outcome.DIVERGED]
    system, n_steps = relaxed.system(0), int(relaxed.batch["n_steps"])
    assert relaxed.errors[0] == f"the volume has changed by more than a factor of 20 in step {n_steps}; the last good positions are kept"
    before = relax(model, batch, max_steps=n_steps - 1, **how).system(0)
    for key in ("positions", "cell", "energy", "forces", "stress", "fmax", "smax", "volume_ratio"):
        assert torch.equal(system[key], before[key]) and torch.isfinite(system[key]).all(), key
    ratio = float(system["volume_ratio"])
    print(f"{optimizer} at {pressure_gpa} GPa: volume ratio {ratio:.3g} after {n_steps} steps")
    assert 1 / 20 <= ratio < 1 if pressure_gpa == 0.0 else 1 < ratio <= 20


class Asks(LennardJonesModel):
    """Counts evaluations, and what they cost in atoms."""

    n_atoms = 0

    def forward(self, data: Batch) -> Any:
        self.n_atoms += data.num_nodes
        return super().forward(data)


def test_those_that_ended_leave() -> None:
    batch = to_batch(lj_clusters([7] * 30 + [38] * 2, rattle=0.12))
    model = Asks(rc=100.0)
    relaxed = relax(model, batch, fmax=1e-3, max_steps=1000, refill_every=1)
    needed = int(((relaxed.batch["n_steps"].view(-1) + 1) * relaxed.batch.num_nodes_per_graph).sum())
    assert model.n_atoms == needed, "with an exchange in each step, nothing is evaluated once more than needed"


def test_oversize_systems_run_alone() -> None:
    seen: list[list[int]] = []

    class Watch:
        stage, frequency = DynamicsStage.BEFORE_STEP, 1

        def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
            assert ctx.batch is not None
            seen.append(ctx.batch.num_nodes_list)

    batch = to_batch(lj_clusters([7, 38, 9, 20, 8]))
    relaxed = relax(LennardJonesModel(rc=100.0), batch, limits={"max_atoms": 20}, hooks=[Watch()], max_steps=500)
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}
    assert {38} == {n for sizes in seen if 38 in sizes for n in sizes}
    assert all(sum(sizes) <= 20 or sizes == [38] for sizes in seen)


def test_stop_and_go_on() -> None:
    batch = to_batch(lj_clusters([13, 7, 20, 9, 30]))
    whole = relax(LennardJonesModel(rc=100.0), batch, fmax=1e-3, max_steps=500, limits={"max_systems": 3})
    sink = HostMemory(10)
    relaxation = Relaxation(
        LennardJonesModel(rc=100.0), RelaxSettings(fmax_ev_per_ang=1e-3, max_steps=500), BatchSampler(batch), [sink], max_systems=3
    )
    n_asked = 0

    def every_seventh() -> bool:
        nonlocal n_asked
        n_asked += 1
        return n_asked % 7 == 0

    for _ in range(1000):
        statistics = relaxation.run(every_seventh)
        in_flight = 0 if relaxation.batch is None else relaxation.batch.num_graphs
        assert statistics.n_admitted == in_flight + statistics.n_left
        if relaxation.batch is None:
            break
    result = Relaxed(sink.read(), statistics, relaxation)
    for system_id in range(5):
        assert_same_bits(whole.system(system_id), result.system(system_id))
    assert all(spent >= 0.0 for spent in statistics.seconds.values())
    assert {"model", "neighbors", "optimizer", "sink"} <= statistics.seconds.keys()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 30), st.sampled_from([None, 1, 4]))
def test_accounts_balance(n_atoms: list[int], max_systems: int, max_atoms: int, refill_every: int | None) -> None:
    batch = random_cloud(n_atoms)
    most: list[tuple[int, int]] = []

    class Watch:
        stage, frequency = DynamicsStage.AFTER_STEP, 1

        def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
            assert ctx.batch is not None
            most.append((ctx.batch.num_graphs, ctx.batch.num_nodes))
            statistics = relaxation.statistics
            assert statistics.n_admitted == ctx.batch.num_graphs + statistics.n_left

    sink = HostMemory(100)
    settings_ = RelaxSettings(fmax_ev_per_ang=0.05, max_steps=60, refill_every=refill_every)
    limits = {"max_systems": max_systems, "max_atoms": max_atoms}
    relaxation = Relaxation(HarmonicTrap(), settings_, BatchSampler(batch), [sink], [Watch()], **limits)  # type: ignore[arg-type]
    statistics = relaxation.run()
    assert sorted(sink.read()["system_id"].view(-1).tolist()) == list(range(len(n_atoms)))
    assert statistics.n_admitted == statistics.n_left == len(n_atoms)
    assert all(systems <= max_systems and (atoms <= max_atoms or systems == 1) for systems, atoms in most)
    assert sum(statistics.n_finished.values()) == len(n_atoms)


class Minefield(Cliff):
    """A cliff that also raises for systems of four atoms once one of them is close to the origin."""

    def forward(self, data: Batch) -> Any:
        near = (data["positions"].norm(dim=1) < 0.3) & (data.num_nodes_per_graph == 4)[data.batch_idx]
        if bool(near.any()):
            raise ValueError("stepped on a mine")
        return super().forward(data)


class Books:
    """Checks at each step that every system admitted is either in flight or has been written, and is only one of them."""

    stage, frequency = DynamicsStage.AFTER_STEP, 1

    def __init__(self, sink: HostMemory) -> None:
        self.sink = sink
        self.relaxation: Relaxation | None = None
        self.n_steps = 0

    def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
        assert ctx.batch is not None and self.relaxation is not None
        statistics = self.relaxation.statistics
        left = self.sink.read()["system_id"].view(-1).tolist() if len(self.sink) else []
        assert statistics.n_admitted == ctx.batch.num_graphs + statistics.n_left
        assert statistics.n_left == len(left)
        assert sorted(ctx.batch["system_id"].view(-1).tolist() + left) == list(range(statistics.n_admitted))
        self.n_steps += 1


@pytest.mark.parametrize("refill_every", [None, 1, 5])
def test_accounts_balance_at_each_step_through_every_kind_of_ending(refill_every: int | None) -> None:
    batch = random_cloud([1 + i % 6 for i in range(40)])
    batch["positions"][batch.batch_idx % 5 == 0] *= 30.0  # too far to converge in time
    for rejected in (2, 17, 18, 39):
        batch["positions"][int(batch.batch_ptr[rejected])] = torch.nan
    sink = HostMemory(100)
    books = Books(sink)
    how = RelaxSettings(fmax_ev_per_ang=1e-3, max_steps=70, refill_every=refill_every)
    relaxation = Relaxation(Minefield(), how, BatchSampler(batch), [sink], [books], max_systems=6, max_atoms=17)
    books.relaxation = relaxation
    statistics = relaxation.run()
    print(f"{books.n_steps} steps, {statistics.n_exchanges} exchanges, {statistics.n_finished}")
    assert books.n_steps > 70 and statistics.n_exchanges > 6
    assert statistics.n_admitted == statistics.n_left == len(sink) == 40
    assert set(statistics.n_finished) == {Outcome.CONVERGED, Outcome.MAX_STEPS, Outcome.DIVERGED, Outcome.FAILED}
    by_outcome = np.bincount(sink.read()["outcome"].view(-1).numpy(), minlength=5)
    assert {outcome: int(by_outcome[outcome]) for outcome in statistics.n_finished} == statistics.n_finished


def test_systems_without_an_id_are_numbered() -> None:
    batch = to_batch(lj_clusters([7, 8, 9, 10]))
    del batch["system_id"]
    relaxed = relax(LennardJonesModel(rc=4.0), batch, limits={"max_systems": 2})
    assert relaxed.batch["system_id"].view(-1).tolist() == [0, 1, 2, 3]
    assert relaxed.batch.num_nodes_list == [7, 8, 9, 10]


def test_hooks_see_each_convergence_once() -> None:
    batch = to_batch(lj_clusters([7, 8, 9, 10, 12]))
    just_converged, frames = HostMemory(100), HostMemory(100_000)
    hooks = [ConvergedSnapshotHook(just_converged), SnapshotHook(frames, frequency=10)]
    relaxed = relax(LennardJonesModel(rc=4.0), batch, limits={"max_systems": 3}, hooks=hooks, max_steps=400, refill_every=5)
    assert set(relaxed.outcomes) == {Outcome.CONVERGED}
    snapshots = just_converged.read()
    assert sorted(snapshots["system_id"].view(-1).tolist()) == list(range(5))
    for row, system_id in enumerate(snapshots["system_id"].view(-1).tolist()):
        assert torch.equal(snapshots.index_select([row])["positions"], relaxed.system(system_id)["positions"])
    assert len(frames) > 0


def test_a_hook_may_end_a_system_by_its_status() -> None:
    class Impatient:
        stage, frequency = DynamicsStage.AFTER_COMPUTE, 1

        def __call__(self, ctx: DynamicsContext, stage: Any) -> None:
            assert ctx.batch is not None
            ctx.batch["status"][(ctx.batch["n_steps"] >= 3) & (ctx.batch["system_id"] == 1)] = 1

    relaxed = relax(LennardJonesModel(rc=4.0), to_batch(lj_clusters([7, 13])), hooks=[Impatient()])
    assert relaxed.outcomes == [Outcome.CONVERGED, Outcome.MAX_STEPS]
    assert relaxed.system(1)["n_steps"].item() in (3, 4)


def test_full_sinks_and_a_second_sink() -> None:
    batch = to_batch(lj_clusters([7, 8, 9]))
    settings_ = RelaxSettings(fmax_ev_per_ang=0.01, max_steps=300)
    with pytest.raises(SinkFullError, match=r"no sink has room for . systems that leave the batch; one must\. Add a sink"):
        Relaxation(LennardJonesModel(rc=4.0), settings_, BatchSampler(batch), [HostMemory(1)]).run()
    first, second = HostMemory(1), HostMemory(10)
    Relaxation(LennardJonesModel(rc=4.0), settings_, BatchSampler(batch), [first, second]).run()
    assert len(first) + len(second) == 3


def test_a_sampler_that_lies_is_found_out() -> None:
    class Liar:
        exhausted = False

        def next_batch(self, max_systems: int, max_atoms: int, device: torch.device) -> Batch | None:
            return None

    with pytest.raises(SamplerError, match=r"gives no system, without any limit, and says it is not exhausted\. Mend"):
        Relaxation(HarmonicTrap(), RelaxSettings(0.1, 5), Liar(), [HostMemory(1)]).run()


def test_nothing_to_do() -> None:
    class Empty:
        exhausted = True

        def next_batch(self, max_systems: int, max_atoms: int, device: torch.device) -> Batch | None:
            return None

    statistics = Relaxation(HarmonicTrap(), RelaxSettings(0.1, 5), Empty(), [HostMemory(1)]).run()
    assert (statistics.n_admitted, statistics.n_left, statistics.n_batch_steps) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sinks": []}, "was given no sink"),
        ({"max_systems": 0}, "max_systems is 0 and max_atoms 4096"),
        ({"settings": RelaxSettings(0.1, 5, optimizer="bfgs")}, "optimizer is 'bfgs'; known are fire, fire2, lbfgs"),  # type: ignore[arg-type]
        ({"settings": RelaxSettings(0.0, 5)}, "fmax_ev_per_ang is 0.0; it must be above 0"),
        ({"settings": RelaxSettings(0.1, -1)}, "max_steps is -1; it must be 0 or more"),
    ],
)
def test_arguments_are_checked(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"settings": RelaxSettings(0.1, 5), "sampler": BatchSampler(random_cloud([1])), "sinks": [HostMemory(1)]}
    with pytest.raises(ArgumentError, match=message):
        Relaxation(HarmonicTrap(), **{**arguments, **change})


def test_error_text_is_what_stores_hold() -> None:
    relaxed = relax(LennardJonesModel(rc=4.0), to_batch(lj_clusters([13])), max_steps=1)
    assert relaxed.batch["error"].shape == (1, 192)
    assert decode_error(relaxed.batch["error"][0].numpy().tobytes()).startswith("not converged after 1 steps: fmax")
