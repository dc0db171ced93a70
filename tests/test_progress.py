"""Progress from files alone: each input once, whatever the shards hold, and a state that does not guess."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_campaign import make_campaign, write_shard

from campaign.consolidate import run_consolidate
from campaign.errors import StoreDamagedError
from campaign.files import write_json
from campaign.outcomes import Outcome
from campaign.paths import CampaignPaths, ShardName
from campaign.plan import run_plan
from campaign.progress import STALE_S, read_outcomes, read_progress
from campaign.store import StoreReader
from campaign.worker.processes import ProcessId
from campaign.worker.records import RankRecord, RunState

NONE = {"converged": 0, "max_steps": 0, "diverged": 0, "invalid": 0, "failed": 0}


def submitted(paths: CampaignPaths, state: str = "submitted") -> None:
    paths.submission(1).parent.mkdir(parents=True, exist_ok=True)
    write_json(paths.submission(1), {"state": state})


def record(paths: CampaignPaths, name: ShardName, state: RunState, **changes: Any) -> None:
    started = time.time() - 10
    values: dict[str, Any] = {"process": ProcessId.this(), "job_id": None, "started_unix_s": started, "ended_unix_s": None} | changes
    RankRecord(name=name, state=state, **values).write(paths)


def test_a_campaign_without_inputs(tmp_path: Path) -> None:
    progress = read_progress(CampaignPaths(tmp_path))
    assert progress.to_json() == {
        "n_inputs": 0,
        "outcomes": NONE,
        "structures_per_s": 0.0,
        "state": "new",
        "n_done": 0,
        "n_left": 0,
        "eta_s": None,
        "rounds": [],
    }


def test_the_json_is_a_promise(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    run_plan(paths, spec)
    submitted(paths)
    name = ShardName(1, 0, 0, 0)
    write_shard(paths, name, [5, 4], [Outcome.CONVERGED, Outcome.MAX_STEPS])
    record(paths, name, RunState.RUNNING)
    values = json.loads(json.dumps(read_progress(paths).to_json()))
    assert {key: values[key] for key in ("n_inputs", "outcomes", "state", "n_done", "n_left")} == {
        "n_inputs": 7,
        "outcomes": {**NONE, "converged": 1, "max_steps": 1, "invalid": 1},
        "state": "running",
        "n_done": 3,
        "n_left": 4,
    }
    assert values["structures_per_s"] == pytest.approx(0.2, rel=0.2), "2 structures in about 10 s; the reject was free"
    assert values["eta_s"] == pytest.approx(4 / values["structures_per_s"])
    (part,) = values["rounds"]
    assert (part["round"], part["n_done"], part["n_shards"]) == (1, 2, 1)
    assert part["ended_unix_s"] >= part["began_unix_s"] > 0


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2), st.lists(st.integers(0, 5), max_size=6)), max_size=4))
def test_each_input_counts_once_and_the_first_shard_by_name_counts(
    tmp_path_factory: pytest.TempPathFactory, shards: list[tuple[int, int, list[int]]]
) -> None:
    paths, _ = make_campaign(tmp_path_factory.mktemp("run"))
    expected = {6: Outcome.INVALID}
    written: dict[ShardName, list[tuple[int, Outcome]]] = {}
    for at, (round_, task, ids) in enumerate(shards):
        name = ShardName(round_, task, 0, at)
        outcomes = [(Outcome.CONVERGED, Outcome.MAX_STEPS, Outcome.FAILED)[(at + system_id) % 3] for system_id in ids]
        write_shard(paths, name, ids, outcomes)
        written[name] = list(zip(ids, outcomes, strict=True))
    for name in sorted(written):
        for system_id, outcome in written[name]:
            expected.setdefault(system_id, outcome)
    found = read_outcomes(paths)
    assert {int(at): Outcome(int(found.outcome[at])) for at in np.flatnonzero(found.done_mask)} == expected
    progress = read_progress(paths)
    assert progress.n_done == len(expected) and progress.n_left == 7 - len(expected)
    assert sum(part.n_done for part in progress.rounds) == len(expected) - 1
    # Consolidation takes the same rows.
    if progress.n_left == 0:
        run_consolidate(paths)
        assert StoreReader.open(paths.store).read_system("outcome").ravel().tolist() == [expected[at] for at in range(7)]


def test_shards_that_were_removed_after_consolidation(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    name = ShardName(1, 0, 0, 0)
    write_shard(paths, name, range(6))
    run_consolidate(paths)
    before = read_progress(paths)
    paths.shard(name).rename(tmp_path / "away")
    after = read_progress(paths)
    assert after.state == before.state == "complete" and dict(after.outcomes) == dict(before.outcomes)


def test_a_shard_of_another_campaign_is_named(tmp_path: Path) -> None:
    paths, _ = make_campaign(tmp_path)
    write_shard(paths, ShardName(1, 0, 0, 0), range(6))
    (tmp_path / "other").mkdir()
    other, _ = make_campaign(tmp_path / "other", 2)
    other.shards.mkdir()
    paths.shard(ShardName(1, 0, 0, 0)).rename(other.shard(ShardName(1, 0, 0, 0)))
    with pytest.raises(StoreDamagedError, match=r"row 3 has system_id 3, but there are 3 inputs.*belongs to another campaign: remove it"):
        read_progress(other)


def test_shards_may_be_written_meanwhile(tmp_path: Path) -> None:
    """A reader sees more and more, never less, and never an error."""
    paths, _ = make_campaign(tmp_path, 8)
    writer = threading.Thread(target=lambda: [write_shard(paths, ShardName(1, 0, 0, at), [at]) for at in range(8)])
    writer.start()
    seen = [0]
    while writer.is_alive():
        seen.append(read_progress(paths).n_done)
    writer.join()
    assert seen == sorted(seen) and read_progress(paths).n_left == 0


def test_state_by_files(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    name = ShardName(1, 0, 0, 0)
    assert read_progress(paths).state == "new"
    run_plan(paths, spec)
    assert read_progress(paths).state == "new"
    submitted(paths)
    assert read_progress(paths).state == "waiting"
    submitted(paths, "ended")
    assert read_progress(paths).state == "stopped", "its job died before a rank could say anything"
    record(paths, name, RunState.RUNNING)
    assert read_progress(paths).state == "running"
    paths.cancel.touch()
    assert read_progress(paths).state == "running", "it was asked to stop and has not stopped yet"
    record(paths, name, RunState.STOPPED, ended_unix_s=time.time())
    assert read_progress(paths).state == "cancelled"
    paths.cancel.unlink()
    assert read_progress(paths).state == "stopped"
    write_shard(paths, name, range(6))
    assert read_progress(paths).state == "complete"


def test_a_rank_that_was_killed_does_not_run(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    run_plan(paths, spec)
    submitted(paths)
    gone = ProcessId(ProcessId.this().pid, 1.0, ProcessId.this().host)
    record(paths, ShardName(1, 0, 0, 0), RunState.RUNNING, process=gone)
    assert read_progress(paths).state == "stopped"


def test_a_rank_on_another_host_runs_until_it_is_silent_for_long(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    run_plan(paths, spec)
    submitted(paths)
    elsewhere = ProcessId(1, 1.0, "another-host")
    record(paths, ShardName(1, 0, 0, 0), RunState.RUNNING, process=elsewhere)
    assert read_progress(paths).state == "running"
    record(paths, ShardName(1, 0, 0, 0), RunState.RUNNING, process=elsewhere, started_unix_s=time.time() - 2 * STALE_S)
    assert read_progress(paths).state == "stopped"
    write_shard(paths, ShardName(1, 0, 0, 0), [0])
    assert read_progress(paths).state == "running", "it has just committed something"


def test_records_that_cannot_be_read_do_not_matter(tmp_path: Path) -> None:
    paths, spec = make_campaign(tmp_path)
    run_plan(paths, spec)
    submitted(paths)
    paths.rank_records(1).mkdir(parents=True)
    paths.rank_record(ShardName(1, 0, 0, 0)).write_text("{")
    write_shard(paths, ShardName(1, 0, 0, 0), [0])
    assert read_progress(paths).n_done == 2
