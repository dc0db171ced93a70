"""What a job's state means for the campaign: one table, without gaps. Names are those of `sacct` and `squeue`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What the one who watches does about a job."""

    WAIT = "wait"
    """It runs, will run, or may come back: look again later."""
    DONE = "done"
    """It ended by itself; what it left undone, if anything, is planned again."""
    PLAN_REST = "plan_rest"
    """It was ended from outside; what it left undone is planned again."""
    EXAMINE = "examine"
    """It failed; plan the rest again unless the same would happen, which its record tells."""
    ASK = "ask"
    """Nobody can say; look again, and after a while go by the files alone."""


class JobState(StrEnum):
    """States of SLURM, and three of our own: `UNKNOWN`, and for local jobs the states that fit."""

    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    COMPLETING = "COMPLETING"
    CONFIGURING = "CONFIGURING"
    DEADLINE = "DEADLINE"
    EXPEDITING = "EXPEDITING"
    FAILED = "FAILED"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PENDING = "PENDING"
    POWER_UP_NODE = "POWER_UP_NODE"
    PREEMPTED = "PREEMPTED"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    REQUEUED = "REQUEUED"
    REQUEUE_FED = "REQUEUE_FED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    RESIZING = "RESIZING"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    REVOKED = "REVOKED"
    RUNNING = "RUNNING"
    SIGNALING = "SIGNALING"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    STAGE_OUT = "STAGE_OUT"
    STOPPED = "STOPPED"
    SUSPENDED = "SUSPENDED"
    TIMEOUT = "TIMEOUT"
    UPDATE_DB = "UPDATE_DB"
    UNKNOWN = "UNKNOWN"

    @classmethod
    def parse(cls, text: str) -> JobState:
        """Return the state in a column of sacct or squeue, which may add who cancelled, or a plus sign for cut text.

        >>> JobState.parse("CANCELLED by 1000")
        <JobState.CANCELLED: 'CANCELLED'>
        >>> JobState.parse("SOMETHING_NEW")
        <JobState.UNKNOWN: 'UNKNOWN'>
        """
        word = text.split()[0].rstrip("+") if text.split() else ""
        return cls.__members__.get(word, cls.UNKNOWN)

    @property
    def action(self) -> Action:
        """What to do."""
        return _TABLE[self][0]

    @property
    def sentence(self) -> str:
        """What the state means, for people."""
        return _TABLE[self][1]


_TABLE: Final[dict[JobState, tuple[Action, str]]] = {
    JobState.BOOT_FAIL: (Action.PLAN_REST, "Its node did not boot; the rest goes to another one."),
    JobState.CANCELLED: (Action.PLAN_REST, "Someone cancelled it; unless the campaign itself is cancelled, the rest is planned again."),
    JobState.COMPLETED: (Action.DONE, "It ended by itself."),
    JobState.COMPLETING: (Action.WAIT, "It is ending; its processes may still write."),
    JobState.CONFIGURING: (Action.WAIT, "Its nodes are being made ready."),
    JobState.DEADLINE: (Action.PLAN_REST, "Its deadline passed; the rest is planned again."),
    JobState.EXPEDITING: (Action.WAIT, "It was requeued and goes first."),
    JobState.FAILED: (Action.EXAMINE, "It ended with a code other than zero; the records of its ranks say why."),
    JobState.LAUNCH_FAILED: (Action.PLAN_REST, "A node could not start it; the rest goes to another one."),
    JobState.NODE_FAIL: (Action.PLAN_REST, "Its node failed; the rest goes to another one."),
    JobState.OUT_OF_MEMORY: (
        Action.EXAMINE,
        "It used more memory than it asked for; raise execution.slurm.mem_gb or make batches smaller.",
    ),
    JobState.PENDING: (Action.WAIT, "It waits in the queue."),
    JobState.POWER_UP_NODE: (Action.WAIT, "Its node is being switched on."),
    JobState.PREEMPTED: (Action.PLAN_REST, "Another job took its nodes; where SLURM requeues it, the queue shows it again."),
    JobState.RECONFIG_FAIL: (Action.PLAN_REST, "Its node could not be made ready; the rest goes to another one."),
    JobState.REQUEUED: (Action.WAIT, "It goes back to the queue."),
    JobState.REQUEUE_FED: (Action.WAIT, "Another cluster of the federation requeues it."),
    JobState.REQUEUE_HOLD: (Action.WAIT, "It is held after a requeue; `scontrol release` lets it go."),
    JobState.RESIZING: (Action.WAIT, "Its size changes."),
    JobState.RESV_DEL_HOLD: (Action.WAIT, "It is held because its reservation is gone; `scontrol release` lets it go."),
    JobState.REVOKED: (
        Action.PLAN_REST,
        "Another cluster of the federation took it and this one knows no more; the rest is planned again.",
    ),
    JobState.RUNNING: (Action.WAIT, "It runs."),
    JobState.SIGNALING: (Action.WAIT, "It is being signalled."),
    JobState.SPECIAL_EXIT: (Action.WAIT, "It is held after a special exit; `scontrol release` lets it go."),
    JobState.STAGE_OUT: (Action.WAIT, "Its files are being copied out."),
    JobState.STOPPED: (Action.WAIT, "It is stopped and keeps its nodes."),
    JobState.SUSPENDED: (Action.WAIT, "It is suspended and will go on."),
    JobState.TIMEOUT: (Action.PLAN_REST, "Its time was up; the rest is planned again."),
    JobState.UPDATE_DB: (Action.WAIT, "SLURM is writing its record."),
    JobState.UNKNOWN: (Action.ASK, "The scheduler does not answer for it; that never means that it has ended."),
}
