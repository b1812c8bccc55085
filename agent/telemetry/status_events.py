"""The state of the agent as server-sent events, for the status page."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

MAX_SUBSCRIBERS: Final = 8
"""Open pages. Each costs the agent less than a millisecond per second."""

INTERVAL_S: Final = 1.0
"""Seconds between two states. Each is a heartbeat too: the page reconnects after a silence."""

WRITE_S: Final = 5.0
"""A subscriber that does not read for so long is dropped. It never holds more than one state
beyond the buffers of its connection."""

_RETRY: Final = b"retry: 2000\n\n"
"""Browsers reconnect after two seconds."""


class StatusEvents:
    """Sends the state to subscribers until `close`.

    Args:
        encode: returns the state as JSON in one line.
    """

    def __init__(self, encode: Callable[[], bytes]) -> None:
        self._encode = encode
        self._closing = asyncio.Event()
        self.subscribers = 0

    def __repr__(self) -> str:
        return f"<StatusEvents subscribers={self.subscribers} closing={self._closing.is_set()}>"

    def close(self) -> None:
        """End all streams, and refuse new ones."""
        self._closing.set()

    async def respond(
        self, request: web.BaseRequest, headers: dict[str, str]
    ) -> web.StreamResponse:
        """Send states until the subscriber disconnects or does not read, or until `close`."""
        if self._closing.is_set() or self.subscribers >= MAX_SUBSCRIBERS:
            text = f"the agent is stopping, or has {MAX_SUBSCRIBERS} open pages\n"
            return web.Response(status=503, text=text, headers=headers)
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        self.subscribers += 1
        try:
            await response.prepare(request)
            if request.method != "HEAD":
                await self._send(response)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the page was closed
        finally:
            self.subscribers -= 1
        return response

    async def _send(self, response: web.StreamResponse) -> None:
        await response.write(_RETRY)
        while not self._closing.is_set():
            async with asyncio.timeout(WRITE_S):
                await response.write(b"data: %b\n\n" % self._encode())
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._closing.wait()
