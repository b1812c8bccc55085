"""The HTTP client for direct connections, with a pool of idle ones.

A server may close an idle connection at the moment when a request is sent on it. Such a request is
sent once more, over a new connection. No other request is: the server may have started the job, and
a job that starts twice costs twice.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from provider_agent.adapters.errors import BackendError, Transport
from provider_agent.adapters.http.client import HttpRequest, ResponseReceiver
from provider_agent.adapters.http.connection import HttpConnection
from provider_agent.adapters.http.dialer import Dialer
from provider_agent.adapters.http.exchange import Exchange
from provider_agent.adapters.http.keep_alive import KEEP_ALIVE_S, stale_after_s
from provider_agent.adapters.http.request_head import RequestHeads
from provider_agent.adapters.http.server_address import parse_address

MAX_IDLE: Final = 256
"""The most idle connections to one server: each holds a file descriptor of both processes."""


class DirectClient:
    """An `HttpClient` that connects to the server itself. Connections open on first use.

    The last connection that became idle is used first, so that the others can expire.

    Args:
        url: the URL of the server.
        headers: the headers of every request.
        reuse: whether requests may share connections, one after the other.
        remote: whether the server is outside of the operator's network.
        connect_s: the timeout of opening a connection.

    Raises:
        Unreachable: the URL is malformed.
        ValueError: a header contains a line break or NUL.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], *, reuse: bool, remote: bool, connect_s: float
    ) -> None:
        address = parse_address(url)
        self._heads = RequestHeads(address, headers)
        self._dialer = Dialer(address, connect_s)
        self._reuse = reuse
        self._stale_s = stale_after_s(remote=remote)
        self._idle: list[HttpConnection] = []
        self._expiry: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<DirectClient idle={len(self._idle)}>"

    async def exchange(
        self, request: HttpRequest, receiver: ResponseReceiver, *, new_connection: bool = False
    ) -> None:
        """See `HttpClient.exchange`."""
        head = self._heads.encode(request, keep_alive=self._reuse)
        body = request.body or b""
        connection = None if new_connection else self._take_idle()
        if connection is not None:
            lost = await self._try_reused(connection, head, body, receiver)
            if lost is None:
                return
            try:
                connection = await self._dialer.dial()
            except BackendError:
                # The server is down: it may have received the first request, and died of it.
                raise lost from None
        else:
            connection = await self._dialer.dial()
        await self._run(connection, Exchange(receiver), head, body)

    async def _try_reused(
        self, connection: HttpConnection, head: bytes, body: bytes, receiver: ResponseReceiver
    ) -> Transport | None:
        """Run an exchange on a reused connection; return the error if it was closed before."""
        exchange = Exchange(receiver)
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            await self._run(connection, exchange, head, body)
        except Transport as error:
            if exchange.has_response or loop.time() - sent_at >= self._stale_s:
                raise
            return error
        return None

    async def _run(
        self, connection: HttpConnection, exchange: Exchange, head: bytes, body: bytes
    ) -> None:
        try:
            connection.start(exchange, head, body)
            await exchange.ended
        finally:
            connection.cancel(exchange)  # has no effect after the end
            if exchange.ended.done() and not exchange.ended.cancelled():
                exchange.ended.exception()  # else asyncio logs it, if the task was cancelled too
            self._release(connection)

    async def close(self) -> None:
        """See `HttpClient.close`."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        await asyncio.sleep(0)  # the transports close their sockets in the next step of the loop

    # --- idle connections ------------------------------------------------------------------------

    def _take_idle(self) -> HttpConnection | None:
        """Remove and return an idle connection that the server keeps open; None without one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable():
                return connection
            connection.close()
        return None

    def _release(self, connection: HttpConnection) -> None:
        """Keep a connection for the next request, if it can have one."""
        if not connection.is_open:
            return
        if not self._reuse or len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        self._idle.append(connection)
        if self._expiry is None:
            self._schedule_expiry()

    def _schedule_expiry(self) -> None:
        """Run `_expire` when the connection that is idle for the longest time expires."""
        due = self._idle[0].idle_since + KEEP_ALIVE_S
        self._expiry = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        """Close the connections that are idle for too long."""
        self._expiry = None
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE_S
        expired = [each for each in self._idle if each.idle_since <= oldest or not each.is_open]
        self._idle = [each for each in self._idle if each.is_open and each.idle_since > oldest]
        for connection in expired:
            connection.close()
        if self._idle:
            self._schedule_expiry()
