"""What we ask SLURM: one question for many jobs, with a time limit, whose answer may be that there is none.

Commands are run here and their output is parsed by pure functions. None means that SLURM did not answer, which is never taken for
"nothing runs". `sacct` is always asked by job id, since without ids its answer lags by seconds.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from slurm.states import JobState

COMMAND_TIMEOUT_S: Final = 60.0
"""A controller that is restarting lets its clients hang; they are asked again later."""

_log = logging.getLogger("slurm.scheduler")

_JOB_ID: Final = re.compile(r"(\d+)(?:_(?:(\d+)|\[([\d,\-]+)(?:%\d+)?\]))?")


def read_states(job_ids: Sequence[str]) -> dict[str, JobState]:
    """Return the state of each job: what the queue says, else what accounting says, else unknown.

    The queue comes first because accounting still shows how the previous run of a requeued job ended.
    """
    queue = _ask(["squeue", "--noheader", "--array", "--format=%i|%T", f"--user={os.getuid()}"])
    if queue is None:
        return dict.fromkeys(job_ids, JobState.UNKNOWN)
    states = parse_states(queue)
    if missing := [job_id for job_id in job_ids if job_id not in states]:
        whole = sorted({job_id.partition("_")[0] for job_id in missing})
        answer = _ask(["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", f"--jobs={','.join(whole)}"])
        states = {**parse_states(answer or ""), **states}
    return {job_id: states.get(job_id, JobState.UNKNOWN) for job_id in job_ids}


def find_jobs(name: str, since_unix_s: float) -> list[str] | None:
    """Return the numbers of the jobs or arrays of that name, without array indices; None if SLURM does not answer."""
    since = datetime.fromtimestamp(since_unix_s).strftime("%Y-%m-%dT%H:%M:%S")
    queue = _ask(["squeue", "--noheader", f"--name={name}", "--format=%i|%T", f"--user={os.getuid()}"])
    past = _ask(["sacct", "--noheader", "--allocations", "--parsable2", f"--name={name}", f"--starttime={since}", "--format=JobID,State"])
    if queue is None or (past is None and not queue.strip()):
        return None
    ids = {*parse_states(queue), *parse_states(past or "")}
    return sorted({job_id.partition("_")[0] for job_id in ids}, key=int)


def cancel_jobs(job_ids: Iterable[str], only_pending: bool) -> bool:
    """Ask SLURM to cancel jobs, or those that have not begun; say whether it took the request."""
    return _ask(["scancel", *(["--state=PENDING"] if only_pending else []), *job_ids]) is not None


def parse_states(text: str) -> dict[str, JobState]:
    """Return the states in lines `JOBID|STATE`, where an array's pending part may stand as one line.

    >>> {job: state.name for job, state in parse_states("7_0|RUNNING\\n7_[1-2,4%2]|PENDING\\n8|CANCELLED by 0").items()}
    {'7_0': 'RUNNING', '7_1': 'PENDING', '7_2': 'PENDING', '7_4': 'PENDING', '8': 'CANCELLED'}
    """
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        job_id, _, state = line.strip().partition("|")
        for expanded in _expand(job_id):
            states[expanded] = JobState.parse(state)
    return states


def _expand(job_id: str) -> list[str]:
    """Return the ids that one id of squeue or sacct stands for; none for steps and for what is no id."""
    match = _JOB_ID.fullmatch(job_id)
    if match is None:
        return []
    number, index, indices = match.groups()
    if indices is None:
        return [job_id if index is None else f"{number}_{index}"]
    expanded = []
    for part in indices.split(","):
        first, _, last = part.partition("-")
        expanded += [f"{number}_{index}" for index in range(int(first), int(last or first) + 1)]
    return expanded


def _ask(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("%s gave no answer: %s", command[0], error)
        return None
    if done.returncode:
        _log.warning("%s ended with %d: %s", command[0], done.returncode, done.stderr.strip()[-300:])
        return None
    return done.stdout
