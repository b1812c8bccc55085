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

    def started(self) -> None:
        """A job goes to the backend."""
        if self.state is BreakerState.HALF_OPEN:
            self._trial_running = True

    def succeeded(self) -> None:
        """A job or a trial went well: closed again."""
        self._failures.clear()
        self._open_until = None
        self._rest_s = self._rule.rest_s
        self._trial_running = False

    def dropped(self) -> None:
        """A job ended without a word about the backend: cancelled, or the buyer's fault."""
        self._trial_running = False

    def failed(self) -> None:
        """A job failed by the backend's fault."""
        now = self._clock()
        self._failures.append(now)
        trial_failed = self._trial_running
        self._trial_running = False
        oldest = self._failures[0]
        full = len(self._failures) == self._rule.failures
        if trial_failed:
            self._rest_s = min(self._rest_s * 2, self._rule.max_rest_s)
            self._open(now + self._rest_s)
        elif self._open_until is None and full and now - oldest <= self._rule.within_s:
            self._open(now + self._rest_s)

    def rest(self, seconds: float) -> None:
        """The server itself said when to come back."""
        until = self._clock() + min(seconds, self._rule.max_rest_s)
        self._open(max(until, self._open_until or 0.0))

    def _open(self, until: float) -> None:
        self._open_until = until
        self._failures.clear()
