"""Both implementations of claims against the one contract."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from campaign.testing.claims_contract import ClaimCase, ClaimsContract, RankLog

PROGRAM = str(Path(__file__).with_name("claims_rank.py"))
MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
TIMEOUT_S = 60


def read_logs(folder: Path) -> list[RankLog]:
    return sorted((RankLog(**json.loads(file.read_text())) for file in folder.glob("log-*.json")), key=lambda log: log.rank)


class TestFileClaims(ClaimsContract):
    def run(self, case: ClaimCase, folder: Path) -> list[RankLog]:
        ranks = [subprocess.Popen([sys.executable, PROGRAM, "files", case.to_json(), folder, str(rank)]) for rank in range(case.n_ranks)]
        assert [rank.wait(TIMEOUT_S) for rank in ranks] == [0] * case.n_ranks
        return read_logs(folder)


class TestMpiClaims(ClaimsContract):
    kind = "mpi"

    def run(self, case: ClaimCase, folder: Path) -> list[RankLog]:
        command = [MPIEXEC, "-n", str(case.n_ranks), sys.executable, PROGRAM, self.kind, case.to_json(), folder, "0"]
        subprocess.run(command, check=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        return read_logs(folder)


class TestMpiClaimsAcrossNodes(TestMpiClaims):
    """With the thread that several nodes need; here on one, so that it is tested at all."""

    kind = "mpi-thread"
