"""Counts of events by key, in which an event counts less the older it is. No I/O."""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

MAX_KEYS: Final = 4096
"""The most keys; beyond it, the one whose last event is the oldest is dropped."""

KeyT = TypeVar("KeyT", bound=Hashable)


class DecayingCounts(Generic[KeyT]):
    """Counts the events of each key.

    Args:
        clock: monotonic, in seconds.
        decay_s: after this time, an event counts 1/e. For a steady rate of events, the count is
            the number of events in this time.
    """

    def __init__(self, clock: Callable[[], float], decay_s: float) -> None:
        self._clock = clock
        self._decay_s = decay_s
        self._counts: OrderedDict[KeyT, tuple[float, float]] = OrderedDict()
        """Key → the count and its time."""

    def __repr__(self) -> str:
        return f"<DecayingCounts keys={len(self._counts)}>"

    def add(self, key: KeyT) -> None:
        """Count an event that happens now."""
        self._counts[key] = (self.count(key) + 1.0, self._clock())
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_KEYS:
            self._counts.popitem(last=False)

    def count(self, key: KeyT) -> float:
        """Return the decayed number of events."""
        count, at = self._counts.get(key, (0.0, 0.0))
        return count * math.exp((at - self._clock()) / self._decay_s) if count else 0.0
