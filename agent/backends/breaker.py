"""Takes a backend that keeps failing out of service, and lets it back by one trial. Pure.

::

    closed ──failures──▶ open ──rest is over──▶ half open ──success──▶ closed
                          ▲                         │
                          └────────failure──────────┘   (the next rest is twice as long)
"""

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct


class BreakerState(StrEnum):
    """Whether a backend gets jobs."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerRule(Struct, frozen=True):
    """When a backend is taken out.

    Attributes:
        failures: so many provider-side failures ...
        within_s: ... in so many seconds, none of them followed by a success.
        rest_s: how long it rests the first time.
        max_rest_s: and at most, as the rests double.
    """

    failures: int = 5
    within_s: float = 60.0
    rest_s: float = 10.0
    max_rest_s: float = 300.0


DEFAULT_RULE: Final = BreakerRule()

VENICE_RULE: Final = BreakerRule(failures=12, within_s=30.0, rest_s=30.0)
"""Venice blocks a key for 30 s after more than 20 failed requests in 30 s: stop before that, with
room for the eight jobs that may be on their way by default."""


class Breaker:
    """The breaker of one backend.

    Args:
        rule: when it opens.
        clock: monotonic, in seconds.
    """

    def __init__(self, rule: BreakerRule, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=rule.failures)
        self._open_until: float | None = None
        self._rest_s = rule.rest_s
        self._trial_running = False
        self._openings = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.state} failures={len(self._failures)}>"

    @property
    def state(self) -> BreakerState:
        """Where it stands now."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._open_until else BreakerState.HALF_OPEN

    @property
    def retry_in_s(self) -> float:
        """How long it still rests; 0 when it does not."""
        return max(0.0, (self._open_until or 0.0) - self._clock())

    def admits(self) -> bool:
        """Whether a job may go to the backend now; half open admits one at a time."""
        state = self.state
        return state is BreakerState.CLOSED or (
            state is BreakerState.HALF_OPEN and not self._trial_running
        )

    def started(self) -> int:
        """A job goes to the backend; its end is told with the number that is returned.

        An end with an older number than the last opening's is of a job that ran already then, and
        says nothing new.
        """
        if self.state is BreakerState.HALF_OPEN:
            self._trial_running = True
        return self._openings

    def succeeded(self, number: int) -> None:
        """A job or a trial went well: closed again."""
        if number != self._openings:
            return
        self._failures.clear()
        self._open_until = None
        self._rest_s = self._rule.rest_s
        self._trial_running = False

    def dropped(self, number: int) -> None:
        """A job ended without a word about the backend: cancelled, or the client's fault."""
        if number == self._openings:
            self._trial_running = False

    def failed(self, number: int) -> None:
        """A job failed by the backend's fault."""
        if number != self._openings:
            return
        now = self._clock()
        if self._open_until is not None:  # it was the trial
            self._rest_s = min(self._rest_s * 2, self._rule.max_rest_s)
            self._open(now + self._rest_s)
            return
        self._failures.append(now)
        full = len(self._failures) == self._rule.failures
        if full and now - self._failures[0] <= self._rule.within_s:
            self._open(now + self._rest_s)

    def rest(self, seconds: float) -> None:
        """The server itself said when to come back."""
        self._open(self._clock() + min(seconds, self._rule.max_rest_s))

    def _open(self, until: float) -> None:
        self._open_until = max(until, self._open_until or 0.0)
        self._openings += 1
        self._trial_running = False
        self._failures.clear()
