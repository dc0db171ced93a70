"""Files of what ranks are working on, with processes that really die."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from campaign.paths import CampaignPaths, ShardName
from campaign.worker.in_flight import Death, InFlight, died_by_itself, read_deaths
from campaign.worker.processes import ProcessId
from campaign.worker.records import RankRecord, RunState
from campaign.worker.suspects import suspicion

RANK = """
import ctypes, os, signal, sys
from pathlib import Path
from campaign.paths import CampaignPaths, ShardName
from campaign.worker.in_flight import InFlight
paths = CampaignPaths(Path(sys.argv[1]))
name = ShardName.parse(sys.argv[2])
with InFlight(paths, name) as in_flight:
    in_flight.write([1, 2])
    in_flight.write([int(system_id) for system_id in sys.argv[3].split(",")])
    exec(sys.argv[4])
"""


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    paths = CampaignPaths(tmp_path)
    paths.plans.mkdir()
    for round_ in (1, 2):
        paths.plan(round_).touch()
    return paths


def run(paths: CampaignPaths, name: ShardName, system_ids: str, deed: str) -> None:
    subprocess.run([sys.executable, "-c", RANK, str(paths.root), str(name), system_ids, deed], check=False, capture_output=True)


NEXT = ShardName(2, 0, 0, 0)


@pytest.mark.parametrize(
    ("deed", "number"),
    [
        ("ctypes.string_at(0)", signal.SIGSEGV),
        ("os.abort()", signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGFPE)", signal.SIGFPE),
        ("os.kill(os.getpid(), signal.SIGBUS)", signal.SIGBUS),
        ("os.kill(os.getpid(), signal.SIGILL)", signal.SIGILL),
        ("os.kill(os.getpid(), signal.SIGKILL)", None),
    ],
)
def test_a_death_leaves_word(paths: CampaignPaths, deed: str, number: int | None) -> None:
    name = ShardName(1, 0, 3, 0)
    run(paths, name, "7,4,8", deed)
    assert read_deaths(paths, NEXT, [8]) == [Death(name, frozenset({4, 7, 8}), number)]
    assert died_by_itself(paths, 1) is (number is not None)
    assert read_deaths(paths, NEXT, [9]) == []


@pytest.mark.parametrize("deed", ["pass", "raise ValueError('told')", "sys.exit(3)"])
def test_whoever_says_goodbye_leaves_nothing(paths: CampaignPaths, deed: str) -> None:
    run(paths, ShardName(1, 0, 0, 0), "7", deed)
    assert list(paths.in_flight_folder(1).iterdir()) == []


LOST = "from campaign.errors import DeviceLostError; raise DeviceLostError('the GPU is lost', by_kernel={by_kernel})"


def test_who_loses_its_gpu_to_what_ran_there_leaves_word_too(paths: CampaignPaths) -> None:
    name = ShardName(1, 0, 3, 0)
    run(paths, name, "7,4", LOST.format(by_kernel=True))
    RankRecord(name, RunState.FAILED, ProcessId.this(), None, time.time()).write(paths)
    death = Death(name, frozenset({4, 7}), None, lost_device=True)
    assert read_deaths(paths, NEXT, [7]) == [death] and death.is_own_doing
    assert died_by_itself(paths, 1)
    assert suspicion([replace(death, system_ids=frozenset({7}))] * 2, [4, 7]).condemned == {
        7: "the process died (its GPU was lost) while this system was relaxed alone, 2 times"
    }


def test_a_gpu_that_breaks_by_itself_accuses_nobody(paths: CampaignPaths) -> None:
    run(paths, ShardName(1, 0, 0, 0), "7", LOST.format(by_kernel=False))
    assert list(paths.in_flight_folder(1).iterdir()) == []


def test_those_taken_down_with_others_are_innocent(paths: CampaignPaths) -> None:
    run(paths, ShardName(1, 0, 0, 0), "1", "ctypes.string_at(0)")
    run(paths, ShardName(1, 0, 1, 0), "2", "os.kill(os.getpid(), 9)")
    run(paths, ShardName(1, 1, 0, 0), "3", "os.kill(os.getpid(), 9)")
    found = read_deaths(paths, NEXT, [1, 2, 3])
    assert [sorted(death.system_ids) for death in found] == [[1], [3]], "array task 1 had nobody else to blame"


def test_those_taken_down_by_an_error_are_innocent(paths: CampaignPaths) -> None:
    run(paths, ShardName(1, 0, 1, 0), "2", "os.kill(os.getpid(), 9)")
    RankRecord(ShardName(1, 0, 0, 0), RunState.FAILED, ProcessId.this(), None, time.time()).write(paths)
    assert read_deaths(paths, NEXT, [2]) == []


def test_only_what_is_over_counts(paths: CampaignPaths) -> None:
    run(paths, ShardName(2, 0, 1, 0), "5", "os.abort()")
    assert read_deaths(paths, ShardName(2, 0, 0, 0), [5]) == [], "another rank of this attempt"
    assert len(read_deaths(paths, ShardName(2, 0, 0, 1), [5])) == 1, "an earlier attempt"
    assert read_deaths(paths, ShardName(2, 1, 0, 1), [5]) == [], "another array task that may be at work"


def test_a_file_that_a_power_cut_emptied_says_nothing(paths: CampaignPaths) -> None:
    name = ShardName(1, 0, 0, 0)
    with InFlight(paths, name) as in_flight:
        in_flight.write([1])
        assert [sorted(death.system_ids) for death in read_deaths(paths, NEXT, [1])] == [[1]]
        paths.in_flight(name).write_bytes(b"")
        assert read_deaths(paths, NEXT, [1]) == []
