"""Which inputs a round works on, in which order, and which array task gets which: `plans/NNNN.json`.

    order        id of input, largest first      17  4  9  2  30 …
    assignment 0 of 2 array tasks                17     9     30 …
    assignment 1                                     4     2     …

Strides give every array task large systems first and about the same work. A plan is written once and never changed; its token is in the
name of the SLURM job, so that after a crash between submission and record the job is found again instead of submitted twice.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from campaign.errors import ArgumentError, StoreDamagedError, StoreExistsError
from campaign.files import create_whole, json_checksum, make_folder
from campaign.paths import CampaignPaths
from campaign.progress import read_outcomes
from campaign.spec import CampaignSpec

FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class RoundPlan:
    """The plan of a round. `order` has the ids of all its inputs; `n_atoms` says, per array task, how many atoms it gets."""

    round: int
    token: str
    array_tasks: int
    order: Int64[ndarray, " M"]
    n_atoms: tuple[int, ...]

    @property
    def n_systems(self) -> int:
        """Inputs of the round."""
        return len(self.order)

    def assignment(self, array_task: int) -> Int64[ndarray, " K"]:
        """Return the ids that one array task works on, largest system first; none if there are more array tasks than inputs.

        Raises:
            ArgumentError: there is no such array task.
        """
        if not 0 <= array_task < self.array_tasks:
            raise ArgumentError(
                f"array task {array_task} was asked of a plan with {self.array_tasks}; they count from 0. Ask for one of these."
            )
        return self.order[array_task :: self.array_tasks]

    def to_json(self) -> dict[str, Any]:
        """The plan as its file holds it."""
        values = {
            "format_version": FORMAT_VERSION,
            "round": self.round,
            "token": self.token,
            "array_tasks": self.array_tasks,
            "n_systems": self.n_systems,
            "n_atoms": list(self.n_atoms),
            "order": self.order.tolist(),
        }
        return {**values, "checksum": json_checksum(values)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the plan in a file.

        Raises:
            StoreDamagedError: the file is no plan, or cannot be read.
        """
        try:
            values = json.loads(path.read_bytes())
            noted = values.pop("checksum", None)  # plans of the first releases have none
            if noted is not None and values["format_version"] == FORMAT_VERSION and noted != json_checksum(values):
                raise ValueError(f"its checksum is not {noted!r}: it was changed")
            order = np.array(values["order"], dtype=np.int64)
            plan = cls(int(values["round"]), str(values["token"]), int(values["array_tasks"]), order, tuple(values["n_atoms"]))
            if values["format_version"] != FORMAT_VERSION or order.ndim != 1 or values["n_systems"] != len(order):
                raise ValueError(f"format_version {values['format_version']}, {values['n_systems']} systems, {order.size} ids")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreDamagedError(
                f"{path} is no plan that can be read ({type(error).__name__}: {error}). Plans are written once, whole. "
                "Move the file away; `campaign resume` plans what is left anew."
            ) from error
        order.flags.writeable = False
        return plan


def plan_round(round_: int, token: str, system_ids: Int64[ndarray, " M"], n_atoms: Int64[ndarray, " M"], array_tasks: int) -> RoundPlan:
    """Return the plan for `system_ids` with their numbers of atoms: largest first, equal sizes by id, dealt out by strides.

    Raises:
        ArgumentError: lengths differ, an id is there twice, or there are no array tasks.

    >>> plan = plan_round(1, "0" * 32, np.array([0, 1, 2, 3]), np.array([4, 8, 8, 1]), array_tasks=2)
    >>> plan.order.tolist(), plan.assignment(1).tolist(), plan.n_atoms
    ([1, 2, 0, 3], [2, 3], (12, 9))
    """
    ids, sizes = np.asarray(system_ids, dtype=np.int64), np.asarray(n_atoms, dtype=np.int64)
    if ids.ndim != 1 or ids.shape != sizes.shape or array_tasks < 1 or len(np.unique(ids)) != len(ids):
        raise ArgumentError(
            f"a plan was asked for {ids.size} ids ({len(np.unique(ids))} different) with {sizes.size} sizes on {array_tasks} array tasks. "
            "Ids are different, each has a size, and there is at least one array task. Correct the call."
        )
    largest_first = np.lexsort((ids, -sizes))
    order, sizes = ids[largest_first], sizes[largest_first]
    order.flags.writeable = False
    return RoundPlan(round_, token, array_tasks, order, tuple(int(sizes[task::array_tasks].sum()) for task in range(array_tasks)))


def run_plan(paths: CampaignPaths, spec: CampaignSpec) -> RoundPlan | None:
    """Plan what has no committed outcome as the next round and write the plan; None if nothing is left.

    A plan that was written and never submitted is returned again, with its token: whoever wrote it died before the submission was on
    record, and its job, if there is one, must be found and not submitted twice.

    Raises:
        StoreNotFoundError: the campaign has no inputs.
        StoreDamagedError: a shard or a plan does not add up.
        StoreExistsError: another process planned the same round in this moment.
        FileWriteError: the plan cannot be written.
    """
    outcomes = read_outcomes(paths)
    left = np.flatnonzero(~outcomes.done_mask)
    if not len(left):
        return None
    rounds = paths.rounds()
    if rounds and not paths.submission(rounds[-1]).exists():
        return RoundPlan.read(paths.plan(rounds[-1]))
    round_ = rounds[-1] + 1 if rounds else 1
    plan = plan_round(round_, uuid.uuid4().hex, left, outcomes.n_atoms[left], spec.execution.array_tasks)
    make_folder(paths.plans)
    try:
        create_whole(paths.plan(round_), (json.dumps(plan.to_json()) + "\n").encode())
    except FileExistsError as error:
        raise StoreExistsError(
            f"{paths.plan(round_)} was written by another process in this moment. One process at a time drives a campaign. "
            "Let the other one go on, or end it and run `campaign resume`."
        ) from error
    return plan
