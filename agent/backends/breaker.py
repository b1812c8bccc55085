"""A circuit breaker: after repeated failures a backend receives no jobs for a while.

::

    closed ──failures──▶ open ──wait has passed──▶ half open ──trial has output──▶ closed
                          ▲                          │
                          └───────trial fails────────┘   (the next wait is twice as long)

Only failures of distinct requests count together: a client that repeats one request cannot open the
breaker for everyone.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum

from provider_agent.adapters.breaker_rule import BreakerRule
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)


class BreakerState(StrEnum):
    """The state of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The circuit breaker of one backend, or of one of its models.

    Each opening starts a new generation. A job's outcome is reported with the generation in which
    the job started; outcomes of earlier generations are ignored.

    Args:
        rule: when the breaker opens, and for how long.
        clock: returns monotonic seconds.
        backend_id: the id of the backend, for the log.
        on_change: called when the breaker has opened or closed.

    Attributes:
        closed: whether `state` is `CLOSED`. Each job needs it several times.
    """

    def __init__(
        self,
        rule: BreakerRule,
        clock: Callable[[], float],
        backend_id: str = "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.closed = True
        self._rule = rule
        self._clock = clock
        self._backend_id = backend_id
        self._on_change = on_change
        self._failures: OrderedDict[int, float] = OrderedDict()
        """The time of the last failure of each request, by its hash; the oldest first."""
        self._open_until: float | None = None
        self._wait_s = rule.open_s
        self._trial_running = False
        self._asked_to_wait = False
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.state} failures={len(self._failures)}>"

    @property
    def state(self) -> BreakerState:
        """The current state. An open breaker becomes half open when its wait has passed."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock() < self._open_until else BreakerState.HALF_OPEN

    @property
    def remaining_open_s(self) -> float:
        """Seconds until the breaker becomes half open; 0 if it is not open."""
        return max(0.0, (self._open_until or 0.0) - self._clock())

    def admits(self) -> bool:
        """Whether a job may start on the backend now; a half-open breaker admits one at a time."""
        return self.closed or (self.state is BreakerState.HALF_OPEN and not self._trial_running)

    def start(self) -> int:
        """Register a job that starts now; if the breaker is half open, the job is the trial.

        Returns:
            The current generation; the job's outcome is reported with it.
        """
        if not self.closed and self.state is BreakerState.HALF_OPEN:
            self._trial_running = True
            log.debug("breaker trial started", backend=self._backend_id)
        return self._generation

    def succeeded(self, generation: int) -> None:
        """Record output or success of a job: close the breaker and forget earlier failures."""
        if self._is_stale(generation):
            return
        self._failures.clear()
        if not self.closed:
            self._close()

    def ignored(self, generation: int) -> None:
        """Record that a job ended without information about the backend, as after a `Cancel`."""
        if not self._is_stale(generation):
            self._trial_running = False

    def failed(self, generation: int, request: int) -> None:
        """Record that a job failed by the backend's fault; this may open the breaker.

        Args:
            generation: the return value of `start`.
            request: the hash of the job's request.
        """
        if self._is_stale(generation):
            return
        now = self._clock()
        # Jobs from before the opening are stale, so that this job can only be the trial.
        if self._open_until is not None:
            self._wait_s = min(self._wait_s * 2, self._rule.max_open_s)
            self._open(now + self._wait_s, "the trial failed")
        elif self.count_failure(request):
            self._open(now + self._wait_s, "repeated failures")

    def count_failure(self, request: int) -> bool:
        """Count a failure; return whether `rule.failures` is reached."""
        now = self._clock()
        self._failures.pop(request, None)
        self._failures[request] = now
        if len(self._failures) > self._rule.failures:
            self._failures.popitem(last=False)
        first = next(iter(self._failures.values()))
        return len(self._failures) == self._rule.failures and now - first <= self._rule.window_s

    def reset(self) -> None:
        """Close the breaker and forget the failures; a wait that the server asked for remains."""
        self._failures.clear()
        if not self.closed and not self._asked_to_wait:
            self._close()

    def open_for(self, seconds: float) -> None:
        """Open for the time that the server asked for, at most `max_open_s`.

        If the breaker is already open until a later time, it stays open until then.
        """
        until = self._clock() + min(seconds, self._rule.max_open_s)
        self._open(until, "the server asked to wait")
        self._asked_to_wait = True

    def _close(self) -> None:
        log.debug("breaker closed", backend=self._backend_id)
        self.closed = True
        self._open_until = None
        self._asked_to_wait = False
        self._wait_s = self._rule.open_s
        self._trial_running = False
        self._on_change()

    def _is_stale(self, generation: int) -> bool:
        """Whether `generation` shows that a job started before the breaker last opened."""
        stale = generation != self._generation
        if stale:
            log.debug("outcome from before the breaker opened ignored", backend=self._backend_id)
        return stale

    def _open(self, until: float, cause: str) -> None:
        self.closed = False
        self._open_until = max(until, self._open_until or 0.0)
        self._generation += 1
        self._asked_to_wait = False
        self._trial_running = False
        self._failures.clear()
        if log.enabled_for(logging.DEBUG):
            wait_s = self.remaining_open_s
            log.debug("breaker opened", backend=self._backend_id, cause=cause, wait_s=wait_s)
        self._on_change()
