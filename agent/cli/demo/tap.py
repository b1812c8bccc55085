"""A recording proxy between agent and server: what did the server really send?

The demo compares what arrives at the far end with what passed here, before any of our own relay
code has touched it.
"""

from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import web

_MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
_MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
"""A longer response is passed on, but no longer recorded."""

_NOT_PASSED_ON: Final = frozenset(
    {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
)
"""They belong to one connection (RFC 9110, section 7.6.1), or are made anew for the next."""


class Tap:
    """Passes every request on to one server and keeps the body of the last response to a POST.

    Args:
        target: base address of the server.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.last_body = b""
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)
        )
        app = web.Application(client_max_size=_MAX_REQUEST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    @property
    def url(self) -> str:
        """Where the agent finds it."""
        if self._runner is None:
            raise RuntimeError("the tap is not open")
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if self._session is None:
            raise web.HTTPServiceUnavailable
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_PASSED_ON}
        body = await request.read()
        recorded = bytearray()
        try:
            async with self._session.request(
                request.method,
                self.target + request.path_qs,
                data=body or None,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                response = web.StreamResponse(status=answer.status)
                response.content_type = answer.content_type
                await response.prepare(request)
                async for data in answer.content.iter_any():
                    if len(recorded) + len(data) <= _MAX_RECORD_BYTES:
                        recorded += data
                    await response.write(data)
        except aiohttp.ClientConnectionError as error:
            raise web.HTTPBadGateway(text="the server behind the tap is gone") from error
        if request.method == "POST":
            self.last_body = bytes(recorded)
        await response.write_eof()
        return response
