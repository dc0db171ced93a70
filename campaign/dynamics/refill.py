"""When systems that have ended should leave: often enough that a batch does little idle work, and no more often.

A system that has ended and is still in the batch costs its share of each step. Taking it out costs a fixed time, whatever is taken out.
Waiting until the idle work since the last exchange is worth one exchange costs at most twice the best possible, without knowing what comes
(the ski rental problem). Both costs are measured as the run goes.
"""

from __future__ import annotations

__all__ = ["RefillPolicy"]


class RefillPolicy:
    """Says after each step whether those that have ended should leave now.

    Args:
        every: if given, look every so many steps instead; then nothing depends on how fast the machine is.

    >>> policy = RefillPolicy()
    >>> policy.exchanged(seconds=1.0)
    >>> [policy.is_due(1, 10, 4, 40, seconds=1.0) for _ in range(4)]
    [False, False, False, True]
    """

    MOST_IDLE = 0.5
    """Share of atoms that may be idle, whatever an exchange costs."""
    MOST_WAIT_S = 2.0
    """How long a system that has ended may wait to leave where waiting costs nothing: until then it is not on disk."""
    MEMORY = 0.2
    """Weight of the last exchange in the mean of what one costs."""

    def __init__(self, every: int | None = None) -> None:
        self.every = every
        self._cost_s = 0.0
        self._idle_s = 0.0
        self._waited_s = 0.0
        self._steps = 0

    def is_due(self, ended_systems: int, ended_atoms: int, n_systems: int, n_atoms: int, seconds: float, idle_costs: bool = True) -> bool:
        """Count a step, or a burst, that took so many seconds; return whether systems should leave now.

        In a burst a system that has ended costs nothing; `idle_costs` is then false.
        """
        self._steps += 1
        if ended_systems == 0:
            return False
        if ended_systems >= n_systems:
            return True
        if self.every is not None:
            return not idle_costs or self._steps >= self.every
        idle = ended_atoms / max(n_atoms, 1)
        if idle_costs:
            self._idle_s += seconds * idle
            return idle > self.MOST_IDLE or self._idle_s >= self._cost_s
        self._waited_s += seconds
        return idle > self.MOST_IDLE or self._waited_s >= self.MOST_WAIT_S

    def exchanged(self, seconds: float) -> None:
        """Say what an exchange took."""
        self._cost_s = seconds if self._cost_s == 0.0 else (1 - self.MEMORY) * self._cost_s + self.MEMORY * seconds
        self._idle_s = 0.0
        self._waited_s = 0.0
        self._steps = 0
