"""A circuit breaker: after repeated failures a backend receives no jobs for a while.

::

    closed ──failures──▶ open ──wait has passed──▶ half open ──trial succeeds──▶ closed
                          ▲                          │
                          └───────trial fails────────┘   (the next wait is twice as long)
"""

import logging
from collections import deque
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
    """The circuit breaker of one backend.

    Each opening starts a new generation. A job's outcome is reported with the generation in which
    the job started; outcomes of earlier generations are ignored.

    Args:
        rule: when the breaker opens, and for how long.
        clock: returns monotonic seconds.
        backend_id: the id of the backend, for the log.
    """

    def __init__(self, rule: BreakerRule, clock: Callable[[], float], backend_id: str = "") -> None:
        self._rule = rule
        self._clock = clock
        self._backend_id = backend_id
        self._failures: deque[float] = deque(maxlen=rule.failures)
        self._open_until: float | None = None
        self._wait_s = rule.open_s
        self._trial_running = False
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
        state = self.state
        return state is BreakerState.CLOSED or (
            state is BreakerState.HALF_OPEN and not self._trial_running
        )

    def start(self) -> int:
        """Register a job that starts now; if the breaker is half open, the job is the trial.

        Returns:
            The current generation; the job's outcome is reported with it.
        """
        if self.state is BreakerState.HALF_OPEN:
            self._trial_running = True
            log.debug("breaker trial started", backend=self._backend_id)
        return self._generation

    def succeeded(self, generation: int) -> None:
        """Record that a job succeeded: close the breaker and forget earlier failures."""
        if self._is_stale(generation):
            return
        if self._open_until is not None:
            log.debug("breaker closed", backend=self._backend_id)
        self._failures.clear()
        self._open_until = None
        self._wait_s = self._rule.open_s
        self._trial_running = False

    def ignored(self, generation: int) -> None:
        """Record that a job ended without information about the backend, as after a `Cancel`."""
        if not self._is_stale(generation):
            self._trial_running = False

    def failed(self, generation: int) -> None:
        """Record that a job failed by the backend's fault; this may open the breaker."""
        if self._is_stale(generation):
            return
        now = self._clock()
        if self._open_until is not None:  # the failed job was the trial
            self._wait_s = min(self._wait_s * 2, self._rule.max_open_s)
            self._open(now + self._wait_s, "the trial failed")
            return
        self._failures.append(now)
        full = len(self._failures) == self._rule.failures
        if full and now - self._failures[0] <= self._rule.window_s:
            self._open(now + self._wait_s, "repeated failures")

    def open_for(self, seconds: float) -> None:
        """Open for the time that the server asked for, at most `max_open_s`.

        If the breaker is already open until a later time, it stays open until then.
        """
        until = self._clock() + min(seconds, self._rule.max_open_s)
        self._open(until, "the server asked to wait")

    def _is_stale(self, generation: int) -> bool:
        """Whether `generation` shows that a job started before the breaker last opened."""
        stale = generation != self._generation
        if stale:
            log.debug("outcome from before the breaker opened ignored", backend=self._backend_id)
        return stale

    def _open(self, until: float, cause: str) -> None:
        self._open_until = max(until, self._open_until or 0.0)
        self._generation += 1
        self._trial_running = False
        self._failures.clear()
        if log.enabled_for(logging.DEBUG):
            wait_s = self.remaining_open_s
            log.debug("breaker opened", backend=self._backend_id, cause=cause, wait_s=wait_s)
