"""A system that kills the process that works on it: it is found, ends failed, and everything else is as if it had never been there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from campaign.consolidate import run_consolidate
from campaign.fields import decode_error
from campaign.ingest import run_ingest
from campaign.outcomes import Outcome
from campaign.progress import CampaignState
from campaign.spec import CampaignSpec, parse_spec
from campaign.store.reader import StoreReader
from campaign.testing.real_campaign import structures
from campaign.worker.in_flight import died_by_itself
from slurm.drive import relax_until_done

CALCULATOR = """\
import ctypes
import os
import time

from ase.calculators.emt import EMT


class Deadly(EMT):
    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        if len(atoms) == 5:
            {deed}
        super().calculate(atoms, list(properties), list(system_changes))
"""

SPEC = """\
[campaign]
name = "deadly"
directory = {directory}
[inputs]
paths = [{inputs}]
[model]
name = "ase"
device = "cpu"
[model.options]
calculator = "{module}:Deadly"
[relax]
fmax_ev_per_ang = 0.05
max_steps = 60
[execution]
flush_s = 0.2
{execution}
"""


def create(folder: Path, module: str, made: list[Atoms], execution: str) -> CampaignSpec:
    folder.mkdir()
    file = folder / "inputs.extxyz"
    write(file, made, format="extxyz")
    text = SPEC.format(directory=json.dumps(str(folder / "run")), inputs=json.dumps(str(file)), module=module, execution=execution)
    spec = parse_spec(text, folder)
    run_ingest(spec)
    return spec


def results(spec: CampaignSpec) -> tuple[StoreReader, list[Outcome], list[str]]:
    run_consolidate(spec.paths)
    store = StoreReader.open(spec.paths.store)
    outcomes = [Outcome(int(code)) for code in store.read_system("outcome").reshape(-1)]
    return store, outcomes, [decode_error(row.tobytes()) for row in store.read_system("error")]


WAYS = [
    pytest.param(
        'launcher = "none"\nranks_per_task = 2', "ctypes.string_at(0)", "signal 11, SIGSEGV", 2, id="claim files", marks=pytest.mark.long
    ),
    pytest.param('launcher = "mpirun"\nranks_per_task = 2', "os.abort()", "signal 6, SIGABRT", 2, id="mpi", marks=pytest.mark.long),
    pytest.param(
        'launcher = "none"\nmax_rounds = 12', "os.kill(os.getpid(), 9)", "ended from outside", 3, id="killed", marks=pytest.mark.long
    ),
]


@pytest.mark.parametrize(("execution", "deed", "cause", "n_alone"), WAYS)
def test_a_system_that_kills_its_process_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, execution: str, deed: str, cause: str, n_alone: int
) -> None:
    module = "deadly_" + "".join(letter for letter in request.node.name if letter.isalpha())
    (tmp_path / f"{module}.py").write_text(CALCULATOR.format(deed=deed), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    made = structures(12)
    culprit = Atoms("Cu5", [[0.0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [2.5, 2.5, 0], [1.2, 1.2, 1.7]])
    with_it = create(tmp_path / "with", module, [*made, culprit], execution)
    progress = relax_until_done(with_it.paths, with_it)
    print(f"{len(with_it.paths.rounds())} rounds, {progress.outcomes}")
    assert progress.state is CampaignState.COMPLETE
    without = create(tmp_path / "without", module, made, 'executor = "debug"')
    assert relax_until_done(without.paths, without).state is CampaignState.COMPLETE
    assert without.paths.rounds() == [1]
    assert not died_by_itself(without.paths, 1)

    store, outcomes, errors = results(with_it)
    clean, clean_outcomes, _ = results(without)
    assert store.read_system("system_id").reshape(-1).tolist() == list(range(13))
    assert outcomes[-1] is Outcome.FAILED
    assert errors[-1] == f"the process died ({cause}) while this system was relaxed alone, {n_alone} times"
    assert outcomes[:-1] == clean_outcomes
    assert Outcome.FAILED not in clean_outcomes
    ids = np.arange(12)
    for name in ("energy", "fmax", "n_steps", "cell"):
        assert store.read_system(name, ids).tobytes() == clean.read_system(name, ids).tobytes(), name
    for name in ("positions", "forces"):
        assert store.read_atoms(name, ids)[1].tobytes() == clean.read_atoms(name, ids)[1].tobytes(), name
