"""A server that records requests, and both HTTP clients."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from provider_agent.adapters.http.aiohttp_connections import AiohttpConnections
from provider_agent.adapters.http.client import HttpClient, HttpRequest
from provider_agent.adapters.http.direct_client import DirectClient
from provider_agent.adapters.http.proxied_client import ProxiedClient
from tests.kit.raw_server import read_request
from tests.unit.adapters.http.recording_receiver import RecordingReceiver
from tests.unit.adapters.http.responses import OK

CLIENTS: Final = ["direct", "proxied"]
REQUEST_BODY: Final = b'{"a":1}'
REQUEST: Final = HttpRequest("/v1/x", {"X-One": "1"}, REQUEST_BODY)
HELLO: Final = OK + b"Content-Length: 5\r\n\r\nhello"

Read = Callable[[], Awaitable[bytes]]
"""Reads one request, and returns its head."""


class RecordingServer:
    """A server whose connections are handled by `handler`.

    Args:
        handler: handles one connection; its end closes the connection.
        host: the address to listen on.
        context: for TLS.

    Attributes:
        requests: the bodies that each connection has received, in the order of the connections.
        tasks: the tasks that handle the connections.
        port: its port.
        url: its address, without TLS.
    """

    def __init__(
        self,
        handler: Callable[[Read, asyncio.StreamWriter], Awaitable[None]],
        host: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._handler = handler
        self._host = host
        self._context = context
        self.requests: list[list[bytes]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Accept connections; wait on exit until all of them have ended."""
        self._listening = await asyncio.start_server(self._accept, self._host, 0, ssl=self._context)
        self.port = self._listening.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            self.refuse_connections()
            await asyncio.gather(*self.tasks)

    def refuse_connections(self) -> None:
        """Accept no further connection."""
        self._listening.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received: list[bytes] = []
        self.requests.append(received)

        async def read() -> bytes:
            head, body = await read_request(reader)
            received.append(body)
            return head

        try:
            await self._handler(read, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def client_of(name: str, url: str, *, remote: bool = False) -> AsyncIterator[HttpClient]:
    """Yield one of `CLIENTS`."""
    headers = {"X-All": "all"}
    client: HttpClient
    if name == "direct":
        client = DirectClient(url, headers, reuse=True, remote=remote, connect_s=5.0)
    else:
        pool = AiohttpConnections(reuse=True, remote=remote, connect_s=5.0, proxy=None)
        client = ProxiedClient(url, headers, pool)
    try:
        yield client
    finally:
        await client.close()


async def exchange(client: HttpClient, request: HttpRequest = REQUEST) -> bytes:
    """Send a request, and return the body of the response."""
    receiver = RecordingReceiver()
    await client.exchange(request, receiver)
    return receiver.data
