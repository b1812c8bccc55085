"""When a backend is checked next. No I/O; the time is an argument."""

from collections.abc import Callable
from typing import Final

from provider_agent.agent.backends.health_check import BackendState

LOADING_INTERVAL_S: Final = 2.0
"""Seconds between checks of a server that loads its model. Short, so that the server receives jobs
soon after loading. A native server that refuses connections also counts as loading, so a stopped
server is checked at the same interval."""

RECHECK_PAUSE_S: Final = 2.0
"""An unscheduled check starts at least this many seconds after the previous check ended, unless the
backend could not be reached since."""

MAX_RETRY_S: Final = 60.0
"""The longest wait in seconds between checks of a server that is down and not loading, or one of
whose models fails to generate a token; the first wait is 1 to 2."""


class CheckTimes:
    """Computes the waits between the checks of one backend.

    Args:
        interval_s: seconds between two checks while the backend is healthy.
        uniform: returns random numbers in [0, 1).

    Attributes:
        interval_s: as above.
    """

    def __init__(self, interval_s: float, uniform: Callable[[], float]) -> None:
        self.interval_s = interval_s
        self._uniform = uniform
        self._failures = 0

    def __repr__(self) -> str:
        return f"<CheckTimes interval_s={self.interval_s:g} failures={self._failures}>"

    def checked(self, state: BackendState) -> None:
        """Record the result of a check."""
        works = state.health.reachable and not state.failing
        self._failures = 0 if works or state.health.loading else self._failures + 1

    def next_check_s(self, state: BackendState) -> float:
        """Return the seconds until the next periodic check."""
        if state.health.reachable and not state.failing:
            return self.interval_s
        if state.health.loading:
            return LOADING_INTERVAL_S
        # Half of the wait is jitter, so that several agents beside one server do not check in step.
        full = min(MAX_RETRY_S, 2.0 ** min(self._failures, 10))
        return full * (0.5 + 0.5 * self._uniform())


def recheck_pause_s(since_check_s: float | None, *, unreachable: bool) -> float:
    """Return the seconds until an unscheduled check may start.

    Args:
        since_check_s: the seconds since the last check ended; None before the first.
        unreachable: whether the backend could not be reached since.
    """
    if unreachable:
        return 0.0
    return RECHECK_PAUSE_S if since_check_s is None else max(0.0, RECHECK_PAUSE_S - since_check_s)
