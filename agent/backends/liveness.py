"""Notices within seconds that an idle server is lost, or has returned.

While jobs run, their own traffic shows that the server is alive. An idle server would otherwise be
noticed as lost only at its next health check, or by the job that fails. The liveness check is the
smallest request that a server answers, over a connection of its own; services that the operator
pays for have none.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.adapters.base import Backend, BackendError, BackendHealth
from provider_agent.adapters.responses.http_errors import failed_health
from provider_agent.agent.backends.adapter_calls import call_within
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

LIVENESS_INTERVAL_S: Final = 5.0
"""Seconds between two liveness checks of an idle backend, unless the operator sets others."""

LIVENESS_TIMEOUT_S: Final = 5.0
"""The longest timeout of a liveness check; a shorter interval shortens it. A lost server is noticed
within an interval and this timeout."""

JITTER: Final = 0.2
"""The share of each wait that is random, so that several agents beside one server do not check it
in step."""


class LivenessMonitor:
    """Checks one backend's liveness periodically.

    Args:
        backend: the backend.
        is_idle: returns whether no job runs on the backend.
        on_lost: called with the reason when the backend does not answer.
        on_answer: called when the backend answers for the first time since `on_lost`.
        interval_s: the longest time between two checks; 0: no checks.
        uniform: returns random numbers in [0, 1).
    """

    def __init__(
        self,
        backend: Backend,
        is_idle: Callable[[], bool],
        on_lost: Callable[[BackendHealth], None],
        on_answer: Callable[[], None],
        *,
        interval_s: float,
        uniform: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._is_idle = is_idle
        self._on_lost = on_lost
        self._on_answer = on_answer
        self._interval_s = interval_s
        self._uniform = uniform
        self._changed = asyncio.Event()
        self._lost = False
        self._defective = False

    def __repr__(self) -> str:
        return f"<LivenessMonitor {self._backend.id} lost={self._lost}>"

    def set_interval(self, interval_s: float) -> None:
        """Change the time between two checks; 0: no checks."""
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._changed.set()

    async def run(self) -> None:
        """Check the backend until cancelled, or until its adapter fails."""
        if not self._backend.checks_liveness:
            return
        while not self._defective:
            await self._wait()
            if self._interval_s and self._is_idle():
                await self._check()

    async def _wait(self) -> None:
        self._changed.clear()
        share = 1 - JITTER * self._uniform()
        try:
            async with asyncio.timeout(self._interval_s * share if self._interval_s else None):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _check(self) -> None:
        problem = await self._problem()
        if problem is None:
            if self._lost:
                self._lost = False
                self._on_answer()
        elif self._is_idle():  # a job that started meanwhile shows by itself whether it is lost
            self._lost = True
            self._on_lost(problem)

    async def _problem(self) -> BackendHealth | None:
        """Check once; None if the backend answers."""
        limit_s = min(self._interval_s, LIVENESS_TIMEOUT_S)
        try:
            await call_within(limit_s, self._backend, self._backend.check_liveness)
        except BackendError as error:
            return failed_health(error, native=self._backend.native)
        except TimeoutError:
            text = f"the idle server did not answer within {limit_s:g} s"
            return BackendHealth(False, None, text, timed_out=True)
        except Exception:
            # Its health checks still show whether the backend works.
            log.exception("adapter failed", backend=self._backend.id)
            self._defective = True
        return None
