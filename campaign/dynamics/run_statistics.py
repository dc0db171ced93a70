"""What a relaxation has done so far, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass, field

from campaign.outcomes import Outcome

__all__ = ["RunStatistics"]


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
        default_factory=lambda: dict.fromkeys(("steps", "model", "neighbors", "optimizer", "sink", "exchange", "other"), 0.0)
    )
    """Wall time by part: `steps` of bursts; of single steps `model`, `neighbors` and, hooks included, `optimizer` for the rest."""

    @property
    def n_left(self) -> int:
        """Systems that left, whatever their outcome."""
        return sum(self.n_finished.values())

    @property
    def total_s(self) -> float:
        """Wall time."""
        return sum(self.seconds.values())
