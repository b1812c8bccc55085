"""Writes one response to its client, and disconnects a client that does not read."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from aiohttp import web

PIECE_BYTES: Final = 64 * 1024
"""The most bytes of one write. After each write, its bytes count as passed on, so that the agent
sees a slow client's progress."""

_CHECKS: Final = 4
"""Checks for progress per `stalled_s`, by one timer: a timer for each write would cost more."""


class ClientStream:
    """Writes a prepared response; a context manager around all of its writes.

    A client that reads nothing for `stalled_s` is disconnected, at most a quarter of that time
    later. aiohttp then cancels the handler, as for every client that disconnects.

    Args:
        request: the client's request.
        response: the prepared response to it.
        stalled_s: seconds that the client may read nothing while a write waits.
        on_disconnect: called when this object disconnects the client.
    """

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        stalled_s: float,
        on_disconnect: Callable[[], None],
    ) -> None:
        self._request = request
        self._response = response
        self._interval_s = stalled_s / _CHECKS
        self._on_disconnect = on_disconnect
        self._waiting = False
        self._last_progress = (0, 0)
        self._unchanged_checks = 0
        self._writes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "blocked" if self._waiting else "idle"
        return f"<ClientStream {state} writes={self._writes} unchanged={self._unchanged_checks}>"

    def __enter__(self) -> Self:
        self._start_timer()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def write(self, data: bytes | memoryview) -> None:
        """Write bytes; returns when more may be written.

        Raises:
            ConnectionError: the client has disconnected.
        """
        self._writes += 1
        self._waiting = True
        try:
            await self._response.write(data)
        finally:
            self._waiting = False

    async def finish(self) -> None:
        """End the complete response. Raises as `write` does."""
        self._waiting = True
        try:
            await self._response.write_eof()
        finally:
            self._waiting = False

    def disconnect_if_blocked(self) -> None:
        """Disconnect the client if a write waits for it.

        For a response that can no longer be completed, because its job has failed.
        """
        if self._waiting:
            self._disconnect()

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._check)

    def _check(self) -> None:
        transport = self._request.transport
        buffered = 0 if transport is None else transport.get_write_buffer_size()
        progress = (self._writes, buffered)
        if self._waiting and progress == self._last_progress:
            self._unchanged_checks += 1
        else:
            self._unchanged_checks = 0
        self._last_progress = progress
        if self._unchanged_checks >= _CHECKS:
            self._disconnect()
        else:
            self._start_timer()

    def _disconnect(self) -> None:
        self._on_disconnect()
        abort(self._request)


def abort(request: web.Request) -> None:
    """Abort the connection without ending the response, so that the client sees a failure."""
    if request.transport is not None:
        request.transport.abort()
