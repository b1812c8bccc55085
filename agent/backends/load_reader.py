"""Reads a server's load, and detects that it stalls."""

from collections.abc import Callable
from typing import Final

from provider_agent.adapters.base import Backend, BackendError, ServerLoad
from provider_agent.agent.backends.adapter_calls import call_within, validated
from provider_agent.agent.backends.stall_detector import StallDetector
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

LOAD_INTERVAL_S: Final = 10.0
"""The most seconds between two reads of a server's load, about one heartbeat; also the timeout of a
read. A server that may stall is read more often."""


class LoadReader:
    """Reads the load of one server.

    Args:
        backend: the server.
        clock: returns monotonic seconds, as the event loop's clock does.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._stall_detector = StallDetector(backend.timeouts.stall_s, clock)
        self._fails = False

    def __repr__(self) -> str:
        return f"<LoadReader {self._backend.id} {self._stall_detector!r}>"

    @property
    def stall_s(self) -> float | None:
        """How long nothing may change before the server counts as stalled; None: never."""
        return self._stall_detector.stall_s

    def restart(self) -> None:
        """Measure a stall from now on. Called when a job starts on an idle server."""
        self._stall_detector.restart()

    async def read(self) -> ServerLoad | None:
        """Return the load; None if the server reports none, or fails to."""
        try:
            reported = await call_within(LOAD_INTERVAL_S, self._backend, self._backend.load)
            load = None if reported is None else validated(reported, ServerLoad)
            self._stall_detector.progress_reported(load.progress if load else None)
            self._fails = False
        except (BackendError, TimeoutError):
            return None
        except Exception:
            # Logged once, not every few seconds.
            if not self._fails:
                log.exception("adapter failed", backend=self._backend.id)
            self._fails = True
            return None
        return load

    def is_stalled(self, *, jobs_run: bool) -> bool:
        """Whether the server has reported no progress, and no job output, for `stall_s`."""
        if not jobs_run:
            self._stall_detector.restart()
            return False
        return self._stall_detector.is_stalled(self._backend.waiting_since)
