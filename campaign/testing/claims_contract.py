"""What every implementation of `campaign.worker.claims.Claims` must do, as a class to subclass.

A subclass says how to start ranks, which is all that differs; each rank runs `claim_all` and returns its log. Ranks must be real
processes: the contract is about what they do to each other.

    class TestMyClaims(ClaimsContract):
        def run(self, case, folder):
            ...  # start case.n_ranks processes, each: claim_all(MyClaims(...), case, rank)
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path

from campaign.worker.claims import Claims, plan_blocks


@dataclass(frozen=True, slots=True)
class ClaimCase:
    """One run: `work_s[rank]` is what a rank spends on each block; `busy` says whether by computing or asleep."""

    n_positions: int
    n_ranks: int
    work_s: tuple[float, ...] = ()
    busy: bool = False

    def to_json(self) -> str:
        """The case as text, for a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ClaimCase:
        """Inverse of `to_json`."""
        values = json.loads(text)
        return cls(values["n_positions"], values["n_ranks"], tuple(values["work_s"]), values["busy"])


@dataclass(frozen=True, slots=True)
class RankLog:
    """What one rank saw."""

    rank: int
    blocks: list[list[int]]
    longest_claim_s: float
    close_wall_s: float
    close_cpu_s: float


def claim_all(claims: Claims, case: ClaimCase, rank: int) -> RankLog:
    """Claim until nothing is left, work on each block as the case says, and close."""
    work_s = case.work_s[rank] if case.work_s else 0.0
    blocks, longest = [], 0.0
    while True:
        start = time.perf_counter()
        block = claims.next()
        longest = max(longest, time.perf_counter() - start)
        if not block:
            break
        blocks.append(list(block))
        _work(work_s, case.busy)
    if claims.next():
        raise AssertionError("a claim after the last one was not empty")
    wall, cpu = time.perf_counter(), time.process_time()
    claims.close()
    return RankLog(rank, blocks, longest, time.perf_counter() - wall, time.process_time() - cpu)


def _work(seconds: float, busy: bool) -> None:
    if not busy:
        time.sleep(seconds)
        return
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(2_000_000))  # one C call that keeps the interpreter's lock for tens of milliseconds


class ClaimsContract(ABC):
    """The suite. Times are generous: machines that run tests are busy."""

    SLOW_S = 1.0
    PROMPT_S = 0.6

    @abstractmethod
    def run(self, case: ClaimCase, folder: Path) -> list[RankLog]:
        """Run the case in `case.n_ranks` processes at the same time and return their logs, sorted by rank. `folder` is empty."""

    def test_each_position_is_claimed_exactly_once(self, tmp_path: Path) -> None:
        cases = (
            (0, 2),  # nothing to do
            (1, 2),  # less than one each
            (5, 1),  # alone
            (97, 3),  # a prime, more ranks than cores here
            (1500, 4),  # blocks of the largest size
        )
        for index, (n_positions, n_ranks) in enumerate(cases):
            logs = self._run(ClaimCase(n_positions, n_ranks), tmp_path / str(index))
            claimed = sorted(position for log in logs for block in log.blocks for position in block)
            assert claimed == list(range(n_positions)), f"{n_positions} positions, {n_ranks} ranks"

    def test_claims_race(self, tmp_path: Path) -> None:
        """Work so short that ranks claim at the same time."""
        case = ClaimCase(400, 4, (0.001,) * 4)
        logs = self._run(case, tmp_path / "race")
        claimed = sorted(position for log in logs for block in log.blocks for position in block)
        assert claimed == list(range(400))
        assert sum(bool(log.blocks) for log in logs) > 1, "one rank took everything"

    def test_blocks_are_those_of_the_plan(self, tmp_path: Path) -> None:
        """Few claims at the start, single positions at the end, each rank's in order."""
        logs = self._run(ClaimCase(700, 2), tmp_path / "blocks")
        plan = plan_blocks(700, 2)
        blocks = sorted(block for log in logs for block in log.blocks)
        assert blocks == [list(plan.block(index)) for index in range(len(plan))]
        assert len(blocks[0]) == 64
        assert len(blocks[-1]) == 1
        for log in logs:
            assert log.blocks == sorted(log.blocks)

    def test_nobody_waits_for_a_rank_that_sleeps(self, tmp_path: Path) -> None:
        self._check_slow_first_rank(ClaimCase(24, 2, (self.SLOW_S, 0.001)), tmp_path / "sleeps")

    def test_nobody_waits_for_a_rank_that_computes(self, tmp_path: Path) -> None:
        self._check_slow_first_rank(ClaimCase(24, 2, (self.SLOW_S, 0.001), busy=True), tmp_path / "computes")

    def test_who_has_finished_leaves_the_processor_alone(self, tmp_path: Path) -> None:
        logs = self._run(ClaimCase(2, 2, (2 * self.SLOW_S, 0.0)), tmp_path / "idle")
        waited = max(logs, key=lambda log: log.close_wall_s)
        print(f"waited {waited.close_wall_s:.2f} s, of which {waited.close_cpu_s:.2f} s on the processor")
        assert waited.close_cpu_s < 0.25 * max(waited.close_wall_s, self.SLOW_S)

    def _check_slow_first_rank(self, case: ClaimCase, folder: Path) -> None:
        slow, quick = self._run(case, folder)
        print(f"rank 0 took {len(slow.blocks)} blocks, rank 1 {len(quick.blocks)}, longest claim {quick.longest_claim_s:.3f} s")
        assert len(quick.blocks) > len(slow.blocks)
        assert quick.longest_claim_s < self.PROMPT_S

    def _run(self, case: ClaimCase, folder: Path) -> list[RankLog]:
        folder.mkdir()
        logs = self.run(case, folder)
        assert [log.rank for log in logs] == list(range(case.n_ranks))
        return logs
