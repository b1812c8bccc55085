"""One response on its way to its client, with a clock on the client's patience to take it."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from aiohttp import web

PIECE_BYTES: Final = 64 * 1024
"""What is written at once: a slow client's bytes count as passed on step by step, not window by
window, so that its provider hears of the progress."""

_CHECKS: Final = 4
"""How often progress is looked at within the limit; one timer per response, none per write."""


class ClientStream:
    """Writes a prepared response; a context manager around the whole of it.

    A client that takes nothing for the whole limit is cut off. aiohttp then cancels the handler, as
    for any client that left.

    Args:
        request: whose connection may be cut.
        response: prepared.
        stalled_s: how long the client may take nothing while bytes wait for it.
        stalled: called once when the client is cut off.
    """

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        stalled_s: float,
        stalled: Callable[[], None],
    ) -> None:
        self._request = request
        self._response = response
        self._every_s = stalled_s / _CHECKS
        self._stalled = stalled
        self._waiting = False
        self._mark = (0, 0)
        self._unchanged = 0
        self._writes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "waiting for its client" if self._waiting else "idle"
        return f"<ClientStream {state} writes={self._writes} unchanged={self._unchanged}>"

    def __enter__(self) -> Self:
        self._watch()
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
        """Returns when more may be written.

        Raises:
            ConnectionError: the client is gone.
        """
        self._writes += 1
        self._waiting = True
        try:
            await self._response.write(data)
        finally:
            self._waiting = False

    async def finish(self) -> None:
        """The response is complete. Raises as `write` does."""
        self._waiting = True
        try:
            await self._response.write_eof()
        finally:
            self._waiting = False

    def cut_if_blocked(self) -> None:
        """Nothing more will come: do not wait for a client that takes nothing."""
        if self._waiting:
            self._cut()

    def _watch(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._check)

    def _check(self) -> None:
        transport = self._request.transport
        buffered = 0 if transport is None else transport.get_write_buffer_size()
        mark = (self._writes, buffered)
        self._unchanged = self._unchanged + 1 if self._waiting and mark == self._mark else 0
        self._mark = mark
        if self._unchanged >= _CHECKS:
            self._cut()
        else:
            self._watch()

    def _cut(self) -> None:
        self._stalled()
        abort(self._request)


def abort(request: web.Request) -> None:
    """Cut the connection without ending the response, so that the client sees it as broken."""
    if request.transport is not None:
        request.transport.abort()
