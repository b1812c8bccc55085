"""The timeouts of one job on one backend: first byte, silence and total.

The HTTP client enforces the connect timeout. A read only stores its time; a timer later computes
the deadline from that time. The silence timeout is suspended while a full window pauses reading.
"""

import asyncio
from functools import partial
from types import TracebackType
from typing import Final, Self

from provider_agent.adapters.base import BackendError, BackendTimeout, BackendTimeouts

LATE_S: Final = 0.1
"""If a timer runs this long after its deadline, the process was suspended, or the event loop was
blocked."""

UNREAD_S: Final = 0.1
"""After such a delay, how long the job may read what arrived meanwhile, before it fails with
`backend_timeout`."""


class JobTimeouts:
    """An async context manager that cancels its body when a timeout expires.

    Args:
        timeouts: the duration of each timeout.

    Attributes:
        last_read_at: the loop time of the last read; set it to restart the silence timeout.

    Raises:
        BackendTimeout: on exit, if a timeout expired; the message names it.
        BackendError: on exit, the error passed to `fail`.
    """

    def __init__(self, timeouts: BackendTimeouts) -> None:
        self._timeouts = timeouts
        self._canceller = asyncio.timeout(None)
        self._error: BackendError | None = None
        self._has_output = False
        self._paused = False
        self._paused_at = 0.0
        """The latest time at which reading is known to have been paused."""

    def __repr__(self) -> str:
        phase = "paused" if self._paused else "output" if self._has_output else "first byte"
        return f"<JobTimeouts {phase}>"

    async def __aenter__(self) -> Self:
        await self._canceller.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._started_at = self.last_read_at = self._loop.time()
        self._timer = self._loop.call_at(self._deadline(), self._check)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        try:
            await self._canceller.__aexit__(exc_type, exc, traceback)
        except TimeoutError as error:
            if self._error is None:
                raise
            raise self._error from error

    @property
    def last_output_at(self) -> float | None:
        """The loop time of the last read of output; None before any output."""
        return self.last_read_at if self._has_output else None

    @property
    def waiting_since(self) -> float | None:
        """The loop time of the start, or of the end of the last pause; None during a pause."""
        return None if self._paused else max(self._started_at, self._paused_at)

    def output_started(self) -> None:
        """Replace the first-byte timeout by the silence timeout."""
        self._has_output = True
        self.last_read_at = self._loop.time()
        if self._deadline() < self._timer.when():
            self._restart_timer()

    def pause(self) -> None:
        """Suspend the silence timeout until `resume`, because the agent does not read."""
        self._paused = True

    def resume(self) -> None:
        """Restart the silence timeout after `pause`."""
        self._paused = False
        self._paused_at = self._loop.time()

    def fail(self, error: BackendError) -> None:
        """Fail the job with `error`, unless it fails already."""
        if self._error is None:
            self._error = error
            self._canceller.reschedule(self._loop.time())

    def _deadline(self) -> float:
        if self._has_output:
            deadline = max(self.last_read_at, self._paused_at) + self._timeouts.silence_s
        else:
            deadline = self._started_at + self._timeouts.first_byte_s
        return min(deadline, self._started_at + self._timeouts.total_s)

    def _check(self, *, late: bool = False) -> None:
        now = self._loop.time()
        if self._paused:
            self._paused_at = now
        if now >= self._started_at + self._timeouts.total_s:
            self.fail(_timeout_error("total", "the attempt ran", self._timeouts.total_s))
        elif now >= self._deadline() + LATE_S and not late:
            # Timers run before sockets are read: the server's bytes may still wait in the socket.
            self._timer = self._loop.call_later(UNREAD_S, partial(self._check, late=True))
        elif now >= self._deadline():
            self.fail(self._expired_error())
        else:
            self._restart_timer()

    def _restart_timer(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline(), self._check)

    def _expired_error(self) -> BackendTimeout:
        if self._has_output:
            return _timeout_error("silence", "the server sent nothing", self._timeouts.silence_s)
        return _timeout_error(
            "first byte", "the server sent no output", self._timeouts.first_byte_s
        )


def _timeout_error(name: str, condition: str, seconds: float) -> BackendTimeout:
    return BackendTimeout(f"{condition} for {seconds:g} s ({name} timeout)")
