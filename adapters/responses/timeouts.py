"""The clocks of one job on one backend: first byte, silence, total.

Connecting has aiohttp's own. A read costs one look at the time; a timer looks every now and then
whether the last read is too long ago. While a full window pauses the reading, the silence is not
the server's.
"""

import asyncio
from types import TracebackType
from typing import Self

from provider_agent.adapters.base import BackendError, BackendTimeout, BackendTimeouts, Transport


class JobTimeouts:
    """An async context manager: what runs inside is cancelled when a clock runs out.

    Args:
        timeouts: how long each clock runs.

    Raises:
        BackendTimeout: on leaving; the text names the clock.
        Transport: on leaving, after `close`.
    """

    def __init__(self, timeouts: BackendTimeouts) -> None:
        self._timeouts = timeouts
        self._life = asyncio.timeout(None)
        self._ended: BackendError | None = None
        self._output = False
        self._paused = False

    def __repr__(self) -> str:
        phase = "paused" if self._paused else "output" if self._output else "first byte"
        return f"<JobTimeouts {phase}>"

    async def __aenter__(self) -> Self:
        await self._life.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._began = self._last = self._loop.time()
        self._timer = self._loop.call_at(self._next_look(), self._look)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        try:
            await self._life.__aexit__(exc_type, exc, traceback)
        except TimeoutError as error:
            if self._ended is None:
                raise
            raise self._ended from error

    def output_began(self) -> None:
        """The first byte of output is there: from now on silence counts."""
        self._output = True
        self.read()
        self._rearm()

    def read(self) -> None:
        """Something was read."""
        self._last = self._loop.time()

    def pause(self) -> None:
        """Nothing is read until `resume`, and that is not the server's doing."""
        self._paused = True

    def resume(self) -> None:
        """Reading goes on."""
        self._paused = False
        self.read()

    def close(self) -> None:
        """End the job now: the backend is being closed."""
        self._end(Transport("this backend was closed"))

    def _next_look(self) -> float:
        patience = self._timeouts.silence_s if self._output else self._timeouts.first_byte_s
        since = self._last if self._output else self._began
        return min(since + patience, self._began + self._timeouts.total_s)

    def _look(self) -> None:
        now = self._loop.time()
        if self._paused:
            self._last = now
        if now >= self._began + self._timeouts.total_s:
            self._end(_ran_out("total", "the job ran", self._timeouts.total_s))
        elif now >= self._next_look():
            self._end(self._silent())
        else:
            self._rearm()

    def _rearm(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(self._next_look(), self._look)

    def _silent(self) -> BackendTimeout:
        if self._output:
            return _ran_out("silence", "the server went silent", self._timeouts.silence_s)
        return _ran_out("first byte", "no output from the server", self._timeouts.first_byte_s)

    def _end(self, error: BackendError) -> None:
        if self._ended is None:
            self._ended = error
            self._life.reschedule(self._loop.time())


def _ran_out(clock: str, what: str, seconds: float) -> BackendTimeout:
    return BackendTimeout(f"{what} for {seconds:g} s ({clock} clock)")
