"""A model that raises for one system: that system fails with the error's words, and nobody else notices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from relax_structures import assert_same_bits, lj_clusters, relax, to_batch

from campaign.data import Batch
from campaign.dynamics.exits import prepare
from campaign.dynamics.isolation import IsolatingModel
from campaign.errors import MissingDependencyError, ModelOutputError, NeighborListError
from campaign.fields import decode_error
from campaign.models.lennard_jones import LennardJonesModel
from campaign.outcomes import Outcome

SIZES = [7, 9, 13, 9, 20, 8]


class Picky(LennardJonesModel):
    """Raises when a system of nine atoms has an energy below `deepest`."""

    def __init__(self, deepest: float = float("inf"), error: Exception | None = None) -> None:
        super().__init__(rc=4.0)
        self.deepest = deepest
        self.error = error or RuntimeError("nine atoms\nare too many")
        self.n_calls = 0

    def forward(self, data: Batch) -> Any:
        self.n_calls += 1
        outputs = super().forward(data)
        if bool(((data.num_nodes_per_graph == 9) & (outputs["energy"].view(-1) < self.deepest)).any()):
            raise self.error
        return outputs


@pytest.mark.parametrize("deepest", [float("inf"), -23.0])
@pytest.mark.parametrize("max_systems", [2, 100])
def test_only_the_culprit_fails(deepest: float, max_systems: int) -> None:
    batch = to_batch(lj_clusters(SIZES))
    limits = {"max_systems": max_systems}
    clean = relax(LennardJonesModel(rc=4.0), batch, limits=limits)
    picky = relax(Picky(deepest), batch, limits=limits)
    for system_id, size in enumerate(SIZES):
        if size != 9:
            assert_same_bits(clean.system(system_id), picky.system(system_id))
            continue
        system = picky.system(system_id)
        assert picky.outcomes[system_id] is Outcome.FAILED
        assert picky.errors[system_id] == "RuntimeError: nine atoms are too many"
        n_steps = int(system["n_steps"])
        if deepest > 0:
            assert n_steps == 0
            assert torch.isnan(system["energy"]).all()
            assert torch.equal(system["positions"], batch.index_select([system_id])["positions"])
        else:
            # One step back, with what the model said there.
            before = relax(LennardJonesModel(rc=4.0), batch.index_select([system_id]), max_steps=n_steps - 1).system(system_id)
            for key in ("positions", "energy", "forces", "stress", "fmax", "initial_energy"):
                assert torch.equal(system[key], before[key]), key
            assert float(system["energy"]) >= deepest
    assert picky.statistics.n_left == picky.statistics.n_admitted == len(SIZES)


def test_after_a_failure_the_batch_goes_on_as_one() -> None:
    model = Picky(-23.0)
    relaxed = relax(model, to_batch(lj_clusters(SIZES)))
    # One call per step, and a few when two systems of six are searched for by halves.
    assert model.n_calls <= relaxed.statistics.n_batch_steps + 20


@pytest.mark.parametrize("error", [ModelOutputError("no forces"), MissingDependencyError("pip install it")])
def test_what_is_no_fault_of_a_system_is_raised(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        relax(Picky(error=error), to_batch(lj_clusters(SIZES)))


class Broken(LennardJonesModel):
    def forward(self, data: Batch) -> Any:
        raise RuntimeError("the device is gone")


def test_a_model_that_fails_for_everything_is_raised() -> None:
    few = relax(Broken(rc=4.0), to_batch(lj_clusters([7, 8, 9])))
    assert few.outcomes == [Outcome.FAILED] * 3
    assert few.errors == ["RuntimeError: the device is gone"] * 3
    many = to_batch(lj_clusters([7] * IsolatingModel.MOST_FAILURES))
    with pytest.raises(RuntimeError, match="the device is gone") as caught:
        relax(Broken(rc=4.0), many)
    assert caught.value.__context__ is None, "errors of halves do not pile up"


class Small(LennardJonesModel):
    """Has memory for so many atoms."""

    def __init__(self, most: int) -> None:
        super().__init__(rc=4.0)
        self.most = most
        self.sizes: list[int] = []

    def forward(self, data: Batch) -> Any:
        self.sizes.append(data.num_nodes)
        if data.num_nodes > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(data)


def test_out_of_memory_splits_calls_and_remembers() -> None:
    batch = to_batch(lj_clusters(SIZES))
    clean = relax(LennardJonesModel(rc=4.0), batch)
    model = Small(25)
    split = relax(model, batch)
    for system_id in range(len(SIZES)):
        assert_same_bits(clean.system(system_id), split.system(system_id))
    assert sum(size > 25 for size in model.sizes) <= 3, "what did not fit once is not tried in every step"
    alone = relax(Small(15), batch)
    assert [outcome is Outcome.FAILED for outcome in alone.outcomes] == [size > 15 for size in SIZES]
    assert "OutOfMemoryError: CUDA out of memory" in alone.errors


class NoNeighbors:
    """A neighbour hook that cannot make the list of a system of nine atoms."""

    stage, frequency = None, 1

    def __call__(self, ctx: Any, stage: Any) -> None:
        if 9 in ctx.batch.num_nodes_list:
            raise NeighborListError("the cell has collapsed")


class Collapsing(LennardJonesModel):
    def make_neighbor_hooks(self, max_neighbors: int | None = None) -> list[Any]:
        return [NoNeighbors(), *super().make_neighbor_hooks(max_neighbors)]


def test_a_neighbour_list_that_cannot_be_made_is_the_systems_own() -> None:
    relaxed = relax(Collapsing(rc=4.0), to_batch(lj_clusters(SIZES)))
    assert [outcome is Outcome.FAILED for outcome in relaxed.outcomes] == [size == 9 for size in SIZES]
    assert relaxed.errors[1] == "NeighborListError: the cell has collapsed"


class Flickering(LennardJonesModel):
    """A model whose last bits change from call to call, as those of neural potentials on a GPU do."""

    deterministic = False

    def __init__(self) -> None:
        super().__init__(rc=4.0)
        self.n_calls = 0

    def forward(self, data: Batch) -> Any:
        self.n_calls += 1
        outputs = super().forward(data)
        outputs["energy"] = outputs["energy"] * (1 + 1e-12 * self.n_calls)
        outputs["forces"] = outputs["forces"] * (1 + 1e-3 * self.n_calls)
        return outputs


def test_what_was_judged_is_what_is_stored() -> None:
    relaxed = relax(Flickering(), to_batch(lj_clusters(SIZES)), refill_every=50)
    for system_id in range(len(SIZES)):
        system = relaxed.system(system_id)
        assert float(system["fmax"]) == pytest.approx(float(system["forces"].norm(dim=1).max()), rel=1e-14)


def test_the_wrapped_model_shows_through() -> None:
    model = LennardJonesModel(epsilon=0.5, rc=4.0)
    wrapped = IsolatingModel(model)
    assert wrapped.fingerprint() == model.fingerprint()
    assert (wrapped.name, wrapped.deterministic, wrapped.epsilon) == ("lj", True, 0.5)
    batch = to_batch(lj_clusters([7]))
    prepare(batch)
    assert torch.equal(wrapped(batch)["energy"], model(batch)["energy"])
    assert decode_error(batch["error"][0].numpy().tobytes()) == ""
    assert wrapped.model_s > 0
    assert wrapped.neighbor_s > 0
