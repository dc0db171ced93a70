"""Who ends, why, and in which words; what is measured is what ASE would measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from campaign.data import Batch
from campaign.data.tally import LaggedTally
from campaign.dynamics.exit_kernels import Cause
from campaign.dynamics.exits import CAUSE, Exits, ExitSettings, describe, prepare
from campaign.dynamics.optimizers import CellMode
from campaign.errors import ArgumentError
from campaign.hooks import DynamicsContext, DynamicsStage
from campaign.outcomes import Outcome, worse
from campaign.testing.harmonic import random_cloud

NAN, INF = float("nan"), float("inf")


def running(n: int = 1, **values: Any) -> Batch:
    """Return systems of two atoms after some steps, all at rest except for what is given."""
    batch = random_cloud([2] * n)
    prepare(batch)
    batch["n_steps"].fill_(3)
    for key, value in values.items():
        batch[key].copy_(torch.as_tensor(value, dtype=batch[key].dtype).expand_as(batch[key]))
    return batch


def settings_of(**changes: Any) -> ExitSettings:
    return ExitSettings(**{"fmax_ev_per_ang": 0.1, "smax_ev_per_ang3": 0.01, "max_steps": 10, **changes})


def end_of(batch: Batch, **changes: Any) -> Outcome | None:
    Exits(settings_of(**changes)).evaluate(batch)
    code = int(batch["outcome"][0])
    assert (int(batch["status"][0]) == 1) == (code >= 0)
    return Outcome(code) if code >= 0 else None


FORCE = torch.tensor([[0.0, 0.0, 0.1], [0.06, 0.08, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "changes", "outcome", "cause"),
    [
        ({"forces": FORCE}, {}, Outcome.CONVERGED, Cause.NONE),  # the threshold itself is enough
        ({"forces": 1.01 * FORCE}, {}, None, Cause.NONE),
        ({"forces": 1.01 * FORCE}, {"max_steps": 3}, Outcome.MAX_STEPS, Cause.NONE),
        ({"forces": FORCE}, {"max_steps": 3}, Outcome.CONVERGED, Cause.NONE),  # in its last step
        ({"energy": NAN}, {"max_steps": 3}, Outcome.DIVERGED, Cause.ENERGY_NOT_FINITE),  # worse than the limit, and than convergence
        ({"energy": -INF}, {}, Outcome.DIVERGED, Cause.ENERGY_NOT_FINITE),
        ({"forces": NAN}, {}, Outcome.DIVERGED, Cause.FORCES_NOT_FINITE),
        ({"forces": INF}, {}, Outcome.DIVERGED, Cause.FORCES_NOT_FINITE),
        ({"energy": 1e30}, {}, Outcome.CONVERGED, Cause.NONE),  # bounded steps calm what is high
        ({"energy": -2.1e7}, {}, Outcome.DIVERGED, Cause.ENERGY_OUT_OF_BOUNDS),
        ({"energy": -1.9e7}, {}, Outcome.CONVERGED, Cause.NONE),  # two atoms
        ({"forces": 1e90}, {}, None, Cause.NONE),
        ({"forces": 1e101}, {}, Outcome.DIVERGED, Cause.FORCES_OUT_OF_BOUNDS),
        ({"stress": NAN}, {}, Outcome.CONVERGED, Cause.NONE),  # nobody follows the stress of a fixed cell
    ],
)
def test_outcomes(values: dict[str, Any], changes: dict[str, Any], outcome: Outcome | None, cause: Cause) -> None:
    batch = running(**values)
    assert end_of(batch, **changes) is outcome
    assert Cause(int(batch[CAUSE][0])) is cause


def test_stress_counts_where_the_cell_relaxes() -> None:
    cell, pbc = 4.0 * torch.eye(3), [[True, True, False]]
    stress = torch.diag(torch.tensor([0.01, -0.02, 9.0], dtype=torch.float64))
    measured = {}
    for mode in CellMode:
        batch = running(cell=cell, pbc=torch.tensor(pbc), stress=stress, initial_volume=64.0)
        end_of(batch, cell_mode=mode)
        measured[mode] = float(batch["smax"])
    # Across the slab nothing counts; the mean is over the two directions that do.
    assert measured == pytest.approx({CellMode.FIXED: 0.0, CellMode.ISOTROPIC: 0.005, CellMode.FULL: 0.02, CellMode.FIXED_VOLUME: 0.015})
    bad = running(cell=cell, pbc=torch.tensor(pbc), stress=torch.full((3, 3), NAN), initial_volume=64.0)
    assert end_of(bad, cell_mode=CellMode.FULL) is Outcome.DIVERGED
    assert Cause(int(bad[CAUSE][0])) is Cause.STRESS_NOT_FINITE
    assert torch.isnan(bad["smax"]).all()


@pytest.mark.parametrize(
    ("edge", "outcome"), [(2.7, Outcome.CONVERGED), (2.72, Outcome.DIVERGED), (0.369, Outcome.CONVERGED), (0.368, Outcome.DIVERGED)]
)
def test_volume_bounds(edge: float, outcome: Outcome) -> None:
    batch = running(cell=edge * torch.eye(3), pbc=torch.tensor([True, True, True]), initial_volume=1.0)
    assert end_of(batch, cell_mode=CellMode.FULL) is outcome
    assert float(batch["volume_ratio"]) == pytest.approx(edge**3)


def test_fixed_components_do_not_count_but_must_be_finite() -> None:
    forces = torch.tensor([[5.0, 0.0, 0.02], [0.0, 0.0, 0.03]], dtype=torch.float64)
    fixed = torch.tensor([[True, False, False], [False, False, False]])
    batch = running(forces=forces, fixed=fixed)
    assert end_of(batch) is Outcome.CONVERGED
    assert float(batch["fmax"]) == 0.03
    assert torch.equal(batch["forces"], forces)
    forces[0, 0] = NAN
    assert end_of(running(forces=forces, fixed=fixed)) is Outcome.DIVERGED


def test_the_first_evaluation_is_remembered() -> None:
    batch = running(energy=-3.0, forces=1.0, cell=2.0 * torch.eye(3))
    batch["n_steps"].zero_()
    exits = Exits(settings_of())
    exits.evaluate(batch)
    batch["n_steps"] += 1
    batch["energy"].fill_(-4.0)
    batch["cell"] *= 1.1
    exits.evaluate(batch)
    assert float(batch["initial_energy"]) == -3.0
    assert float(batch["volume_ratio"]) == pytest.approx(1.331)


def test_what_has_an_outcome_keeps_it_and_only_new_ones_are_reported() -> None:
    batch = running(4)
    batch["forces"][:2] = 1.0  # the first system still runs
    batch["outcome"][1] = int(Outcome.FAILED)
    exits = Exits(settings_of())
    first = exits.evaluate(batch)
    assert first is not None
    assert first.tolist() == [2, 3]
    assert batch["outcome"].view(-1).tolist() == [-1, 4, 0, 0]
    assert batch["status"].view(-1).tolist() == [0, 1, 1, 1]
    assert exits.counts() == (3, 6)
    batch["energy"][2] = NAN
    assert exits.evaluate(batch) is None
    assert batch["outcome"].view(-1).tolist() == [-1, 4, 0, 0]
    exits.forget()
    assert exits.counts() == (0, 0)
    quiet = Exits(settings_of(), reports=False)
    assert quiet.evaluate(running()) is None


def test_measure_decides_nothing() -> None:
    batch = running(2, forces=0.001)
    exits = Exits(settings_of())
    exits.measure(batch)
    assert batch["outcome"].view(-1).tolist() == [-1, -1]
    assert float(batch["fmax"][0]) == pytest.approx(0.001 * 3**0.5)
    exits(DynamicsContext(batch=batch), DynamicsStage.AFTER_STEP)  # as a hook it does nothing either
    assert batch["status"].view(-1).tolist() == [0, 0]


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_precedence_is_that_of_the_table(has_failed: bool, is_bad: bool, is_converged: bool, is_late: bool) -> None:
    batch = running(forces=0.0 if is_converged else 1.0, energy=NAN if is_bad else 0.0)
    expected: list[Outcome] = []
    if has_failed:
        batch["outcome"].fill_(int(Outcome.FAILED))
        expected.append(Outcome.FAILED)
    expected += [Outcome.DIVERGED] * is_bad + [Outcome.CONVERGED] * is_converged + [Outcome.MAX_STEPS] * is_late
    stands = None
    for outcome in expected:
        stands = outcome if stands is None else worse(stands, outcome)
    assert end_of(batch, max_steps=3 if is_late else 10) is stands


def test_sentences() -> None:
    settings_ = settings_of()
    assert describe(Outcome.CONVERGED, Cause.NONE, 4, 0.0, 0.0, settings_) == ""
    assert describe(Outcome.MAX_STEPS, Cause.NONE, 10, 0.05, 0.5, settings_) == "not converged after 10 steps: smax 0.5 > 0.01 eV/Å³"
    assert describe(Outcome.DIVERGED, Cause.VOLUME_OUT_OF_BOUNDS, 7, 0.0, 0.0, settings_) == (
        "the volume has changed by more than a factor of 20 in step 7; the last good positions are kept"
    )
    for cause in Cause:
        for n_steps in (0, 5):
            text = describe(Outcome.DIVERGED, cause, n_steps, NAN, NAN, settings_)
            assert text
            assert len(text.encode()) <= 192


def test_settings_are_checked() -> None:
    with pytest.raises(ArgumentError, match="smax_ev_per_ang3 is -1; it must be above 0"):
        settings_of(smax_ev_per_ang3=-1)
    with pytest.raises(ArgumentError, match="volume_ratio_bound is nan"):
        settings_of(volume_ratio_bound=NAN)


def test_tally_counts_anew_each_time() -> None:
    tally = LaggedTally(2, torch.device("cpu"))
    tally.start()[1] = 3
    tally.post()
    assert tally.read().tolist() == [0, 3]
    tally.start()
    assert tally.read().tolist() == [0, 0]
