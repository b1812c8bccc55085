"""An HTTP proxy between agent and server that records what the server sends.

The demo compares the recording with what the client receives.
"""

from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import web

_MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""The largest request of the protocol."""
_MAX_RECORD_BYTES: Final = 16 * 1024 * 1024
"""The rest of a longer response is forwarded without being recorded."""

_NOT_FORWARDED: Final = frozenset(
    {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
)
"""Headers that apply to one connection only (RFC 9110, section 7.6.1), and headers that the HTTP
client sets itself."""


class ResponseRecorder:
    """Forwards requests to one server and keeps the body of the last response to a POST.

    Args:
        target: base address of the server.

    Attributes:
        last_body: the body of the last response to a POST.
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
        app.router.add_route("*", "/{path:.*}", self._forward)
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
        """The base address of the proxy."""
        if self._runner is None:
            raise RuntimeError("the proxy is not running")
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self._session is None:
            raise web.HTTPServiceUnavailable
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_FORWARDED}
        body = await request.read()
        recorded = bytearray()
        try:
            async with self._session.request(
                request.method,
                self.target + request.path_qs,
                data=body or None,
                headers=headers,
                allow_redirects=False,
            ) as upstream:
                response = web.StreamResponse(status=upstream.status)
                response.content_type = upstream.content_type
                await response.prepare(request)
                async for data in upstream.content.iter_any():
                    recorded += data[: _MAX_RECORD_BYTES - len(recorded)]
                    await response.write(data)
        except aiohttp.ClientConnectionError as error:
            raise web.HTTPBadGateway(text="the connection to the server failed") from error
        if request.method == "POST":
            self.last_body = bytes(recorded)
        await response.write_eof()
        return response
