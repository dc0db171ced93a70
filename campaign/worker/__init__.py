"""What one rank does. `start.start_rank` is a rank's whole life and `run.run_rank` its work; both load torch and are imported by name.

What others need to know of ranks, without that weight, is here: what they are told, what they leave behind, and whether they live.
"""

from campaign.worker.job import Place, RankJob
from campaign.worker.processes import Life, ProcessId
from campaign.worker.records import EXIT_FAILED, EXIT_STOPPED, RankRecord, RunState, read_rank_records
from campaign.worker.stop import StopReason, StopRequests

__all__ = [
    "EXIT_FAILED",
    "EXIT_STOPPED",
    "Life",
    "Place",
    "ProcessId",
    "RankJob",
    "RankRecord",
    "RunState",
    "StopReason",
    "StopRequests",
    "read_rank_records",
]
