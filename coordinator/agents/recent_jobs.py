"""Counts the jobs that each agent received lately. Pure."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

DECAY_S: Final = 600.0
"""After this time, a job counts 1/e: a claim of speed must not win every job even when there is one
job per minute, and an agent that was away must not be owed the jobs of a day."""

MAX_AGENTS: Final = 4096
"""Agents that are remembered; the least recently used is dropped."""


class RecentJobs:
    """The number of jobs of each agent, each counting less the older it is.

    Args:
        clock: monotonic seconds.
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
