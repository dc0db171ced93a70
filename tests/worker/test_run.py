"""One rank in this process, on a real campaign."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from campaign.data import Batch
from campaign.errors import DeviceLostError, MissingDeviceError, SpecError
from campaign.fields import RESULT_FIELDS, decode_error
from campaign.models.base import ModelOutputs
from campaign.models.emt import EMTModel
from campaign.outcomes import Outcome
from campaign.paths import ShardName
from campaign.plan import RoundPlan, run_plan
from campaign.spec import CampaignSpec
from campaign.store.reader import StoreReader
from campaign.testing.real_campaign import create_campaign
from campaign.worker.claims import plan_blocks
from campaign.worker.claims.files import FileClaims
from campaign.worker.environment import read_environment
from campaign.worker.job import Place, RankJob
from campaign.worker.records import RankRecord, RunState, read_rank_records
from campaign.worker.run import choose_device, run_rank, systems_in_flight
from campaign.worker.stop import StopReason, StopRequests


def run(spec: CampaignSpec, attempt: int = 0, rank: int = 0, n_ranks: int = 1, stop: StopRequests | None = None) -> RunState:
    plan = run_plan(spec.paths, spec) if not spec.paths.rounds() else RoundPlan.read(spec.paths.plan(1))
    assert plan is not None
    place = Place(1, 0, attempt, rank, n_ranks, rank, n_ranks)
    claims = FileClaims(spec.paths.claims(1, 0, attempt), plan_blocks(len(plan.assignment(0)), n_ranks), rank)
    return run_rank(
        RankJob(str(spec.paths.root), 1, 0, n_ranks, "files"),
        claims,
        place,
        plan=plan,
        environment=read_environment({"SUBMITIT_LOCAL_JOB_ID": "815"}),
        stop=stop or StopRequests(),
        started_unix_s=time.time(),
    )


def stop_after(n_calls: int) -> StopRequests:
    class Soon(StopRequests):
        n = 0

        def __call__(self) -> bool:
            self.n += 1
            if self.n > n_calls:
                self.request(StopReason.SIGNAL)
            return super().__call__()

    return Soon()


def record_of(spec: CampaignSpec) -> RankRecord:
    (record,) = read_rank_records(spec.paths, 1)
    return record


def test_all_inputs_are_relaxed_and_the_shard_says_how(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path)
    assert run(spec) is RunState.DONE
    shard = StoreReader.open(spec.paths.shard(ShardName(1, 0, 0, 0)))
    assert sorted(shard.read_system("system_id").flatten().tolist()) == list(range(24))
    assert {field.name for field in shard.fields} == {field.name for field in RESULT_FIELDS}
    assert (shard.read_system("outcome") == 0).all()
    assert (shard.read_system("fmax") <= 0.01).all()
    attributes = shard.attributes
    assert len(attributes["model_fingerprint"]) == 64
    assert attributes["versions"]["torch"] == torch.__version__.partition("+")[0] or attributes["versions"]["torch"]
    assert attributes["job_id"] == "815"
    assert attributes["attempt"] == 0
    assert attributes["device_seconds"] > 0
    assert attributes["peak_memory_bytes"] > 10**7
    record = record_of(spec)
    assert (record.state, record.outcomes["converged"], record.job_id, record.device) == (RunState.DONE, 24, "815", "cpu")
    assert record.n_steps == int(shard.read_system("n_steps").sum())
    assert record.atom_steps == int((shard.read_system("n_steps").flatten() * shard.n_atoms()).sum())
    wall_s = (record.ended_unix_s or 0) - record.started_unix_s
    assert 0 < sum(record.seconds.values()) <= wall_s * 1.05
    assert {"startup", "model", "neighbours", "optimizer", "sink", "waiting for disk"} <= record.seconds.keys()


def test_a_rank_that_is_asked_to_leave_commits_what_is_finished_and_the_next_attempt_does_the_rest(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, execution="max_systems_in_batch = 2")
    assert run(spec, stop=stop_after(3)) is RunState.STOPPED
    first = StoreReader.open(spec.paths.shard(ShardName(1, 0, 0, 0))).read_system("system_id").flatten().tolist()
    assert 0 < len(first) < 24
    record = record_of(spec)
    assert (record.state, record.reason) == (RunState.STOPPED, StopReason.SIGNAL.value)
    assert sum(record.outcomes.values()) == len(first)
    assert run(spec, attempt=1) is RunState.DONE
    second = StoreReader.open(spec.paths.shard(ShardName(1, 0, 0, 1))).read_system("system_id").flatten().tolist()
    assert sorted(first + second) == list(range(24)), "nothing is done twice"


def test_a_shard_is_never_written_again(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=3)
    shards = [spec.paths.shard(ShardName(1, 0, 0, attempt)) for attempt in range(3)]
    shards[0].mkdir(parents=True)
    shards[1].mkdir()
    assert run(spec) is RunState.DONE
    assert list(shards[0].iterdir()) == list(shards[1].iterdir()) == []
    assert StoreReader.open(shards[2]).n_systems == 3


def test_an_error_is_on_record(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=3, extra="")
    text = spec.paths.spec.read_text(encoding="utf-8")
    spec.paths.spec.write_text(
        text.replace('name = "emt"', 'name = "lj"\noptions = { sigmaa = 1.0 }').replace("[model.options]", ""), encoding="utf-8"
    )
    with pytest.raises(SpecError, match="sigmaa"):
        run(spec)
    record = record_of(spec)
    assert record.state is RunState.FAILED
    assert record.error.startswith("SpecError: model 'lj' has no option 'sigmaa'")
    assert record.ended_unix_s is not None


def test_ranks_share_the_work(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, execution="ranks_per_task = 2\nmax_systems_in_batch = 2")
    run(spec, rank=0, n_ranks=2, stop=stop_after(3))
    run(spec, rank=1, n_ranks=2)
    ids = [StoreReader.open(spec.paths.shard(name)).read_system("system_id").flatten().tolist() for name in spec.paths.shard_names()]
    assert len(ids) == 2
    assert all(ids)
    assert not set(ids[0]) & set(ids[1])


def test_frames_on_the_way(tmp_path: Path) -> None:
    """Frames are at multiples of `every` of each system's own steps, and do not depend on the batch."""
    frames = []
    for index, in_batch in enumerate((100, 2)):
        spec = create_campaign(tmp_path / str(index), n=9, execution=f"max_systems_in_batch = {in_batch}", extra="[trajectory]\nevery = 4")
        assert run(spec) is RunState.DONE
        name = ShardName(1, 0, 0, 0)
        trajectory, results = StoreReader.open(spec.paths.trajectory_shard(name)), StoreReader.open(spec.paths.shard(name))
        ids, steps = trajectory.read_system("system_id").flatten(), trajectory.read_system("step").flatten()
        n_steps = dict(
            zip(results.read_system("system_id").flatten().tolist(), results.read_system("n_steps").flatten().tolist(), strict=True)
        )
        for system_id, last in n_steps.items():
            assert steps[ids == system_id].tolist() == list(range(0, last + 1, 4))
        order = np.lexsort((steps, ids))
        frames.append((trajectory.read_atoms("positions", order)[1].tobytes(), trajectory.read_system("energy", order).tobytes()))
    assert frames[0] == frames[1]


ASSERT = "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com/cuda/ for more information."


def test_a_structure_that_costs_the_gpu_is_found_by_later_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = create_campaign(tmp_path, n=12)
    forward = EMTModel.forward

    def asserting(model: EMTModel, data: Batch) -> ModelOutputs:
        if (data["system_id"] == 5).any():
            raise torch.AcceleratorError(ASSERT)
        return forward(model, data)

    monkeypatch.setattr(EMTModel, "forward", asserting)
    errors: list[str] = []
    for attempt in range(8):
        try:
            state = run(spec, attempt)
        except DeviceLostError as error:
            assert error.by_kernel
            errors.append(str(error))
        else:
            break
    print(errors)
    assert state is RunState.DONE
    said = r"the GPU is lost to this process since a call with \d+ systems in the batch \(AcceleratorError: CUDA error: device-side assert"
    assert re.match(said, errors[0])
    assert "the next attempts look for the culprit among them. Go on with `campaign resume`" in errors[0]
    found: dict[int, tuple[int, str]] = {}
    for attempt in range(len(errors) + 1):
        path = spec.paths.shard(ShardName(1, 0, 0, attempt))
        if not path.exists():
            continue
        shard = StoreReader.open(path)
        columns = shard.read_system("system_id").flatten(), shard.read_system("outcome").flatten(), shard.read_system("error")
        for system_id, outcome, error in zip(*columns, strict=True):
            assert int(system_id) not in found
            found[int(system_id)] = int(outcome), decode_error(error.tobytes())
    assert sorted(found) == list(range(12))
    assert found.pop(5) == (int(Outcome.FAILED), "the process died (its GPU was lost) while this system was relaxed alone, 2 times")
    assert {outcome for outcome, _ in found.values()} == {int(Outcome.CONVERGED)}


def test_a_gpu_that_is_demanded_and_missing(tmp_path: Path) -> None:
    spec = create_campaign(tmp_path, n=1)
    on_gpu = spec.model_copy(update={"model": spec.model.model_copy(update={"device": "cuda"})})
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(MissingDeviceError, match=r'device is "cuda" and this rank sees no GPU.*gpus_per_rank, or set device = "auto"'):
        choose_device(on_gpu, 0)
    auto = spec.model_copy(update={"model": spec.model.model_copy(update={"device": "auto"})})
    assert choose_device(auto, 3) == torch.device("cpu")


@pytest.mark.parametrize(
    ("n_positions", "n_ranks", "most", "in_flight"),
    [
        (1000, 2, 512, 250),  # half of a rank's share
        (10**6, 2, 512, 512),
        (3, 2, 512, 1),
        (0, 2, 512, 1),
    ],
)
def test_systems_in_flight(n_positions: int, n_ranks: int, most: int, in_flight: int) -> None:
    assert systems_in_flight(n_positions, n_ranks, most) == in_flight
