"""Counts the jobs that each agent received lately. No I/O; the clock is an argument."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

DECAY_S: Final = 600.0
"""After this time, a job counts 1/e. Longer than a minute: if the counts decayed between two jobs
of an idle fleet, the agent that claims the highest speed would receive every job. Shorter than a
day: otherwise an agent that was disconnected for a day would receive every job for a long time."""

MAX_AGENTS: Final = 4096
"""The most agents that are counted; beyond it, the one whose last job is the oldest is dropped."""


class RecentJobs:
    """Counts the jobs of each agent; a job counts less the older it is.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """Public key → the count and its time."""

    def __repr__(self) -> str:
        return f"<RecentJobs agents={len(self._counts)}>"

    def add(self, public_key: bytes) -> None:
        """Count a job that this agent receives now."""
        self._counts[public_key] = (self.count(public_key) + 1.0, self._clock())
        self._counts.move_to_end(public_key)
        if len(self._counts) > MAX_AGENTS:
            self._counts.popitem(last=False)

    def count(self, public_key: bytes) -> float:
        """Return the decayed number of jobs."""
        count, at = self._counts.get(public_key, (0.0, 0.0))
        return count * math.exp((at - self._clock()) / DECAY_S) if count else 0.0
