"""What a relaxation has done so far, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from campaign.outcomes import Outcome

__all__ = ["WAITING", "RunStatistics"]

WAITING: Final = "waiting"
"""The part of the time in which a write waited for those before it."""


@dataclass(slots=True)
class RunStatistics:
    """What a run did. Seconds are of the host; on a GPU, work is booked where the host waited for it."""

    n_admitted: int = 0
    """Systems taken from the sampler."""
    n_finished: dict[Outcome, int] = field(default_factory=dict)
    """Systems that left, by outcome."""
    n_steps_total: int = 0
    """Optimizer steps of those that left."""
    atom_steps: int = 0
    """Sum over those that left of atoms times optimizer steps."""
    n_batch_steps: int = 0
    """Steps of the batch, a burst of many counting as one."""
    n_exchanges: int = 0
    """Times that systems left or came."""
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("steps", "model", "neighbors", "optimizer", "sink", WAITING, "exchange", "other"), 0.0)
    )
    """Wall time by part: `steps` of bursts; of single steps `model`, `neighbors` and, hooks included, `optimizer` for the rest.
    `waiting` is for sinks that had no room, since what was written before was not on disk yet; it is in no other part."""
    _waited_in: dict[str, float] = field(default_factory=dict)

    @property
    def n_left(self) -> int:
        """Systems that left, whatever their outcome."""
        return sum(self.n_finished.values())

    @property
    def total_s(self) -> float:
        """Wall time."""
        return sum(self.seconds.values())

    def book_waiting(self, part: str, waited_s: float) -> None:
        """Take out of a part what writes within it have waited since the run began, and count it as waiting.

        >>> statistics = RunStatistics()
        >>> statistics.seconds["sink"] = 5.0
        >>> statistics.book_waiting("sink", waited_s=2.0)
        >>> statistics.book_waiting("sink", waited_s=2.5)
        >>> statistics.seconds["sink"], statistics.seconds["waiting"], statistics.total_s
        (2.5, 2.5, 5.0)
        """
        new_s = waited_s - self._waited_in.get(part, 0.0)
        self._waited_in[part] = waited_s
        self.seconds[part] -= new_s
        self.seconds[WAITING] += new_s
