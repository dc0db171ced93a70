"""What can become of an input, a sentence each, and which outcome wins when two apply."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

RUNNING: Final = -1
"""Value of a batch's `outcome` field while the system is still being worked on; never stored."""


class Outcome(IntEnum):
    """What became of an input. The integer is what stores hold, so a number is never given a new meaning."""

    CONVERGED = 0
    MAX_STEPS = 1
    DIVERGED = 2
    INVALID = 3
    FAILED = 4

    @property
    def label(self) -> str:
        """Name as people and `--json` output see it."""
        return self.name.lower()

    @property
    def sentence(self) -> str:
        """What the outcome means and what to try."""
        return _SENTENCES[self]


_SENTENCES: Final[dict[Outcome, str]] = {
    Outcome.CONVERGED: "Forces, and stress where the cell relaxes, are below their thresholds.",
    Outcome.MAX_STEPS: "The step limit was reached first; raise relax.max_steps or loosen the thresholds.",
    Outcome.DIVERGED: "Energy, forces or cell left all bounds; look at the starting structure.",
    Outcome.INVALID: "The input was refused at ingest; mend the structure.",
    Outcome.FAILED: "The model raised an error for this system; the error field has its text.",
}

_PRECEDENCE: Final = (Outcome.INVALID, Outcome.FAILED, Outcome.DIVERGED, Outcome.CONVERGED, Outcome.MAX_STEPS)


def worse(first: Outcome, second: Outcome) -> Outcome:
    """Return the outcome that stands when both apply to one system.

    Earlier in this list wins: invalid, failed, diverged, converged, max_steps. So a system with NaN forces is diverged even if its
    step limit is reached in the same step, and one that converges in its very last step has converged.

    >>> worse(Outcome.MAX_STEPS, Outcome.CONVERGED).label
    'converged'
    """
    return min(first, second, key=_PRECEDENCE.index)
