"""Between two exchanges no step stops the host for a device, and that the host looks late changes no bit.

There is no GPU here: the CPU is taken for a device that the host runs ahead of, potentials are made as for a GPU (whole neighbour lists,
one thread an atom), and what would wait there is recorded by `waits.py`. On a GPU torch itself is asked, in `test_gpu.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from relax_structures import assert_same_bits, lj_clusters, one_of_each, to_batch
from torch import Tensor, nn
from waits import Recorder, run_behind, watch

from campaign.data import Batch
from campaign.dynamics import HostMemory, Relaxation, RelaxSettings
from campaign.dynamics.hooks import ConvergedSnapshotHook, NaNDetectorHook
from campaign.dynamics.sampler import BatchSampler
from campaign.hooks.neighbor_list import UNLISTED
from campaign.models.base import BaseModelMixin, ModelConfig, ModelOutputs
from campaign.models.emt import EMTModel
from campaign.models.lennard_jones import LennardJonesModel
from campaign.neighbors import search, verlet
from campaign.outcomes import Outcome

GPU = torch.device("cuda")


class Network(nn.Module, BaseModelMixin):
    """A small network of distances to the middle of the system, with forces by autograd."""

    name = "network"

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 1)).double()
        self.model_config = ModelConfig(outputs=frozenset({"energy", "forces"}))

    def forward(self, data: Batch) -> ModelOutputs:
        owner = data.batch_idx.long()
        with torch.enable_grad():
            positions = data["positions"].detach().clone().requires_grad_(True)
            square = positions.square()
            per_atom = self.layers(torch.cat([square, square.sum(1, keepdim=True)], 1)) + 0.5 * square.sum(1, keepdim=True)
            energy = positions.new_zeros(data.num_graphs, 1).index_add(0, owner, per_atom)
            (gradient,) = torch.autograd.grad(energy.sum(), [positions])
        return self.adapt_output({"energy": energy.detach(), "forces": -gradient}, data)


def clusters() -> list[Atoms]:
    return lj_clusters([13, 3, 7, 13, 2, 5, 9, 4, 13, 6], seed=2)


def swollen() -> list[Atoms]:
    """Crystals that shrink by a third, so that their atoms get neighbours that they did not have."""
    rng = np.random.default_rng(5)
    crystals = [bulk(name, cubic=True) for name in ("Cu", "Ag", "Pt", "Al", "Ni", "Cu")]
    for number, atoms in enumerate(crystals):
        atoms.set_cell(atoms.cell * (1.0 + 0.05 * number), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
    return [*crystals, *one_of_each()]


def relaxation_of(model: BaseModelMixin, structures: list[Atoms], hooks: Any = (), **settings: Any) -> tuple[Relaxation, HostMemory]:
    sink = HostMemory(capacity=1000)
    how = RelaxSettings(**{"fmax_ev_per_ang": 0.02, "max_steps": 120, "refill_every": 12, **settings})
    return Relaxation(model, how, BatchSampler(to_batch(structures)), [sink], hooks, max_systems=5), sink


def results(sink: HostMemory) -> list[dict[str, Tensor]]:
    batch = sink.read()
    order = np.argsort(batch["system_id"].view(-1).numpy(), kind="stable")
    return [dict(iter(batch.index_select([row]))) for row in order]


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "lj fire": (lambda: LennardJonesModel(device=GPU), clusters, {"max_steps": 80}),
    "lj lbfgs": (lambda: LennardJonesModel(device=GPU), clusters, {"optimizer": "lbfgs"}),
    "emt fire, cells": (lambda: EMTModel(device=GPU), swollen, {"cell": "full"}),
    "emt fire2, cells": (lambda: EMTModel(device=GPU), swollen, {"optimizer": "fire2", "cell": "isotropic"}),
    "network": (Network, clusters, {"max_steps": 25}),
}


@pytest.mark.parametrize("name", CASES)
def test_no_step_waits_and_no_bit_depends_on_when_the_host_looks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, structures, settings = CASES[name]
    told: list[HostMemory] = []

    def hooks() -> list[ConvergedSnapshotHook]:
        told.append(HostMemory(capacity=1000))
        return [ConvergedSnapshotHook(told[-1])]

    relaxation, sink = relaxation_of(make(), structures(), hooks(), **settings)
    relaxation.run()
    expected = results(sink)

    run_behind(monkeypatch)
    for module in (search, verlet):  # no room for more neighbours than the first
        monkeypatch.setattr(module, "roomy_width", lambda longest: max(longest, 1))
    relaxation, sink = relaxation_of(make(), structures(), hooks(), **settings)
    recorder = Recorder()
    steps = watch(relaxation, recorder, monkeypatch)
    with recorder.watching():
        relaxation.run()
    print(dict(steps), dict(recorder.exempted.most_common(12)))
    assert not recorder.seen
    assert steps["further"] > 40
    assert bool(steps["rows that did not fit"]) is (name.startswith("emt"))
    found = results(sink)
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        if name == "network":  # its sums depend on who else is there, and who leaves when differs
            torch.testing.assert_close(own["positions"], other["positions"], atol=1e-9, rtol=0)
        else:
            assert_same_bits(own, other)
    # Who listens to convergence hears of each system once, and sees it as it ended.
    converged = [system for system in found if int(system["outcome"]) == int(Outcome.CONVERGED)]
    heard = results(told[1])
    assert [int(system["system_id"]) for system in heard] == [int(system["system_id"]) for system in converged]
    for own, other in zip(heard, converged, strict=True):
        assert torch.equal(own["positions"], other["positions"]) and torch.equal(own["n_steps"], other["n_steps"])


def test_a_recorder_sees_what_waits() -> None:
    recorder, mask = Recorder(), torch.tensor([True, False])
    with recorder.watching():
        numbers = torch.arange(2.0)
        bool(mask.any())
        numbers[mask]
        numbers[mask] = 3.0
        mask.nonzero()
        numbers.tolist()
        torch.tensor([1.0])
        numbers.repeat_interleave(torch.ones(2, dtype=torch.int64, device="cpu"))
        with recorder.named("a place"):
            numbers.cpu()
    assert recorder.exempted == {"a place: Tensor.cpu": 1}
    wanted = {"Tensor.__bool__", "aten._local_scalar_dense", "aten.index with a mask", "aten.nonzero", "Tensor.tolist", "torch.tensor"}
    assert wanted | {"aten.repeat_interleave"} <= recorder.seen.keys()
    assert "aten.index_put_ with a mask" not in recorder.seen


def test_a_system_whose_rows_do_not_fit_waits_and_says_nothing_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    run_behind(monkeypatch)
    for module in (search, verlet):
        monkeypatch.setattr(module, "roomy_width", lambda longest: max(longest, 1))
    relaxation, _ = relaxation_of(LennardJonesModel(device=GPU, rc=1.3), lj_clusters([40, 3, 7, 13]), [NaNDetectorHook()])
    batch = relaxation._exchange(None)
    assert batch is not None
    for _ in range(2):
        relaxation.dynamics.step(batch)
    assert not batch[UNLISTED].any()
    before = batch.clone()
    # System 0 collapses: its atoms get more neighbours than there is room for.
    middle = batch["positions"][:40].mean(0)
    batch["positions"][:40] = middle + 0.3 * (batch["positions"][:40] - middle)
    moved = batch["positions"][:40].clone()
    n_steps = []
    for _ in range(6):
        relaxation.dynamics.step(batch)
        waits = bool(batch[UNLISTED][0])
        assert waits == bool(torch.isnan(batch["energy"][0]))
        assert not batch[UNLISTED][1:].any()
        n_steps.append((waits, int(batch["n_steps"][0]), int(batch["n_steps"][1])))
    print(n_steps)
    waited = [own for waits, own, _ in n_steps if waits]
    assert 1 <= len(waited) <= 4
    assert len(set(waited)) == 1
    assert n_steps[-1][2] == int(before["n_steps"][1]) + 6
    assert int(batch["outcome"][0]) == -1
    assert not torch.equal(batch["positions"][:40], moved)
