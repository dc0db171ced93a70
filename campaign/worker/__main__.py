"""`python -m campaign.worker JSON`: one rank. What mpiexec, srun or a job entry starts."""

from __future__ import annotations

import sys

from campaign.errors import CampaignError
from campaign.worker.job import RankJob
from campaign.worker.start import log_to_stderr, start_rank


def main(arguments: list[str]) -> int:
    """Run the rank that the one argument describes and return its exit code."""
    if len(arguments) != 1:
        print("usage: python -m campaign.worker JSON; `campaign script` prints a whole command", file=sys.stderr)
        return 2
    log_to_stderr()
    try:
        return start_rank(RankJob.from_json(arguments[0])).exit_code
    except CampaignError as error:
        print(f"campaign.worker: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
