"""One rank of a claims test: `python claims_rank.py KIND CASE FOLDER RANK`; its log is a JSON file in FOLDER."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from campaign.testing.claims_contract import ClaimCase, claim_all
from campaign.worker.claims import Claims, plan_blocks


def main(kind: str, case_text: str, folder: Path, rank: int) -> None:
    case = ClaimCase.from_json(case_text)
    blocks = plan_blocks(case.n_positions, case.n_ranks)
    claims: Claims
    if kind == "files":
        from campaign.worker.claims.files import FileClaims

        claims = FileClaims(folder / "claims", blocks, rank)
        (folder / f"ready-{rank}").touch()
        while len(list(folder.glob("ready-*"))) < case.n_ranks:
            time.sleep(0.005)
    else:
        from mpi4py import MPI

        from campaign.worker.claims.mpi import MpiClaims

        claims = MpiClaims(MPI.COMM_WORLD, blocks, progress_thread=True if kind == "mpi-thread" else None)
        rank = MPI.COMM_WORLD.rank
    log = claim_all(claims, case, rank)
    (folder / f"log-{rank}.json").write_text(json.dumps(asdict(log)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
