"""A dynamics whose batch is refilled, beside the reference's: who is admitted in which step, who leaves, and where to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from specimens import Recorder, Structures, below, statuses, trap, with_ids
from two_packages import Package, differs, same, same_error

SIZES = (5, 1, 3, 3, 8, 2, 1, 5)


def sampler(p: Package, sizes: Sequence[int] = SIZES, **limits: Any) -> Any:
    return p.SizeAwareSampler(Structures(p, sizes), **limits)


def in_flight(p: Package, sizes: Sequence[int] = SIZES, refill_frequency: int = 1, **limits: Any) -> Any:
    """Admissions and departures of a run in which each system takes as many steps as its own energy decides."""
    log: list[list[Any]] = []
    model, sink, source = trap(p), p.HostMemory(100), sampler(p, sizes, **limits)
    relax = p.DemoDynamics(model, n_steps=1, dt=0.4, convergence_hook=below(1.0))
    relax.n_steps = None

    def seen(ctx: Any) -> Any:
        return [ctx.batch.system_id.flatten().tolist(), ctx.batch.num_nodes_list, statuses(ctx)]

    recorder = Recorder(p, log, {"BEFORE_STEP"}, what=seen)
    fused = p.FusedStage([(0, relax)], sinks=[sink], sampler=source, refill_frequency=refill_frequency, hooks=[recorder])
    last = fused.run()
    gone = sink.read()
    return log, last is None, fused.done, fused.step_count, source.exhausted, gone.system_id, gone.num_nodes_list, gone.status


@pytest.mark.parametrize(
    ("refill_frequency", "limits"), [(1, {"max_atoms": 9}), (1, {"max_batch_size": 3}), (3, {"max_atoms": 10}), (1, {"max_atoms": 100})]
)
def test_admissions(refill_frequency: int, limits: dict[str, int]) -> None:
    result = same(lambda p: in_flight(p, refill_frequency=refill_frequency, **limits))
    assert result[1:3] == [True, True]
    assert sorted(result[5]["numbers"]) == [float(i) for i in range(len(SIZES))]


def checked(p: Package, status: Sequence[int], sizes: Sequence[int] = (2, 3)) -> Any:
    """One look for systems that can leave a batch of three."""
    sink = p.HostMemory(9)
    dynamics = p.BaseDynamics(trap(p), sampler=sampler(p, sizes, max_atoms=9), sinks=[sink])
    made = with_ids(p, 10)
    made["status"] = torch.tensor(status).unsqueeze(1)
    after = dynamics.refill_check(made, 1)
    return after, after is made, dynamics.done, len(sink)


@pytest.mark.parametrize(
    ("status", "sizes", "n_gone"),
    [([0, 0, 0], (2, 3), 0), ([0, 1, 0], (1, 1), 1), ([1, 1, 1], (2, 3), 3), ([1, 1, 1], (), 3), ([0, 5, 1], (), 2)],
)
def test_refill_check(status: list[int], sizes: tuple[int, ...], n_gone: int) -> None:
    after, is_same, is_done, n_written = same(lambda p: checked(p, status, sizes))
    assert (is_same, n_written, is_done) == (n_gone == 0, n_gone, after is None)


def test_refill_check_without_a_sampler() -> None:
    same_error(lambda p: p.BaseDynamics(trap(p)).refill_check(with_ids(p), 1), RuntimeError)


def leaving(p: Package, *capacities: int, **options: Any) -> Any:
    """A run in which systems leave two by two, to these sinks."""
    sinks = [p.HostMemory(capacity) for capacity in capacities]
    model = trap(p)
    fused = p.FusedStage(
        [(0, p.DemoDynamics(model, n_steps=1))], sinks=sinks, sampler=sampler(p, (2, 3, 4, 5), max_batch_size=2), **options
    )
    return fused.run() is None, fused.done, [len(sink) for sink in sinks]


def test_sinks_of_those_that_leave() -> None:
    assert same(lambda p: leaving(p)) == [True, True, []]
    assert same(lambda p: leaving(p, 4)) == [True, True, [4]]
    assert same(lambda p: leaving(p, 2, 9)) == [True, True, [2, 2]]
    same_error(lambda p: leaving(p, 1), RuntimeError)
    same_error(lambda p: leaving(p, 2), RuntimeError)
    differs("sink choice", lambda p: leaving(p, 3, 9)[2], RuntimeError, [2, 2])


def test_init_fn() -> None:
    seen: dict[str, list[int]] = {"nvalchemi": [], "campaign": []}
    assert same(lambda p: [leaving(p, 9, init_fn=lambda made: seen[p.root].append(made.num_graphs)), seen[p.root]])[1] == [2]


def test_entry_status() -> None:
    def script(p: Package) -> Any:
        log: list[list[Any]] = []
        model = trap(p)
        stages = [(0, p.DemoDynamics(model, n_steps=1)), (1, p.DemoDynamics(model, n_steps=9))]
        fused = p.FusedStage(stages, entry_status=1, sampler=sampler(p, (2, 3), max_batch_size=2))
        fused.register_hook(Recorder(p, log, {"BEFORE_STEP"}, what=statuses))
        fused.run(n_steps=1)
        return log[0][-1]

    differs("entry_status", script, [0, 0], [1, 1])


def test_bookkeeping_keys() -> None:
    def script(p: Package) -> Any:
        class Mine(p.BaseDynamics):
            pass

        Mine.register_bookkeeping_key("mine", lambda n, device: torch.full((n, 1), 7.0, device=device))
        dynamics = Mine(trap(p), sampler=sampler(p, (2, 3), max_atoms=9))
        made = with_ids(p)
        made["mine"] = torch.arange(3.0).unsqueeze(1)
        made["status"] = torch.tensor([[0], [1], [0]])
        after = dynamics.refill_check(made, 1)
        return after.mine, set(Mine._bookkeeping_keys), set(p.BaseDynamics._bookkeeping_keys)

    mine, own, everybody = same(script)
    assert mine["numbers"] == [0.0, 2.0, 7.0]
    assert set(own) - set(everybody) == {"mine"}
