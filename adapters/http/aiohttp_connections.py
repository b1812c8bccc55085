"""The connections of aiohttp to one server, for API requests and for jobs through a proxy.

A server may close an idle connection at the moment when the agent sends a request on it. Such a
request is sent again, over a new connection. Any other `POST` whose connection fails is not: the
server may have started it, and a job that starts twice costs twice.
"""

import asyncio
import io
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from provider_agent.adapters.http.keep_alive import KEEP_ALIVE_S, stale_after_s
from provider_agent.protocol.limits import KIB, MIB

LARGE_BODY_BYTES: Final = MIB
"""aiohttp warns about a larger `bytes` body; it writes a file object in pieces, without warning."""

READ_AHEAD_BYTES: Final = 32 * KIB
"""aiohttp buffers twice this size of a paused response, plus one read of the event loop. With its
default size, a paused job would hold three quarters of a megabyte."""


class AiohttpConnections:
    """The connections to one server, which are opened on first use.

    Args:
        reuse: whether requests may share connections, one after the other.
        remote: whether the server is outside of the operator's network.
        connect_s: the timeout of opening a connection.
        proxy: the proxy's address; None: no proxy.
    """

    def __init__(self, *, reuse: bool, remote: bool, connect_s: float, proxy: str | None) -> None:
        self._reuse = reuse
        self._stale_s = stale_after_s(remote=remote)
        self._connect_s = connect_s
        self._proxy = proxy
        self._pool: aiohttp.ClientSession | None = None
        self._unpooled: aiohttp.ClientSession | None = None

    @property
    def proxy_address(self) -> str | None:
        """The `host:port` of the proxy, without user and password; None without a proxy."""
        return None if self._proxy is None else urlsplit(self._proxy).netloc.rpartition("@")[2]

    async def send(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        new_connection: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send a request, and return its response when the headers have arrived.

        The server executes a `POST` at most once. aiohttp itself repeats a `GET` once after a lost
        connection. Redirects are not followed.

        Args:
            method: the HTTP method.
            url: the whole address.
            body: the body; None for a request without a body.
            headers: all headers of the request.
            new_connection: whether to open a connection for this request.

        Raises:
            aiohttp.ClientError: the connection failed, or the response is malformed.
            TimeoutError: the connection did not open in time.
        """
        if not new_connection and self._reuse:
            reused_at: list[float] = []
            try:
                return await self._pooled_session().request(
                    method,
                    url,
                    data=_payload(body),
                    headers=headers,
                    allow_redirects=False,
                    trace_request_ctx=reused_at,
                )
            except aiohttp.ClientConnectionError as error:
                if not self._was_stale(reused_at, error):
                    raise
                lost = error
            try:
                return await self._send_unpooled(method, url, body, headers)
            except aiohttp.ClientConnectorError:
                # The server is down: it may have received the first request, and died of it.
                raise lost from None
        return await self._send_unpooled(method, url, body, headers)

    async def _send_unpooled(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        return await self._unpooled_session().request(
            method, url, data=_payload(body), headers=headers, allow_redirects=False
        )

    def _was_stale(self, reused_at: list[float], error: aiohttp.ClientConnectionError) -> bool:
        """Whether a request failed because the server had closed its reused connection."""
        if not reused_at:
            return False
        if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(
            error.message, str
        ):
            return False  # part of a response arrived: aiohttp passes it as `message`
        return asyncio.get_running_loop().time() - reused_at[-1] < self._stale_s

    async def close(self) -> None:
        """Close all connections. A later request opens new ones."""
        sessions = (self._pool, self._unpooled)
        self._pool = self._unpooled = None
        for session in sessions:
            if session is not None:
                await session.close()

    def _pooled_session(self) -> aiohttp.ClientSession:
        if self._pool is None:
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            # `max_concurrent` limits jobs, and may grow when the server reports more slots. A limit
            # here would queue jobs, and health checks behind them.
            pool = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self._pool = self._new_session(pool, [trace])
        return self._pool

    def _unpooled_session(self) -> aiohttp.ClientSession:
        """Return the session whose requests ask the server to close the connection afterwards."""
        if self._unpooled is None:
            self._unpooled = self._new_session(aiohttp.TCPConnector(limit=0, force_close=True), [])
        return self._unpooled

    def _new_session(
        self, connector: aiohttp.TCPConnector, traces: list[aiohttp.TraceConfig]
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_AHEAD_BYTES,
            proxy=self._proxy,
            trace_configs=traces,
        )


async def _note_reuse(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    context.trace_request_ctx.append(asyncio.get_running_loop().time())


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    if body is None or len(body) <= LARGE_BODY_BYTES:
        return body
    return io.BytesIO(body)
