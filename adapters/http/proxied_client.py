"""The HTTP client for services that the agent reaches through a proxy, on aiohttp.

Its task wakes up once per read.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import aiohttp

from provider_agent.adapters.http.aiohttp_connections import AiohttpConnections
from provider_agent.adapters.http.aiohttp_errors import map_aiohttp_errors
from provider_agent.adapters.http.client import HttpRequest, ResponseHead, ResponseReceiver
from provider_agent.adapters.http.reader_flow_control import ReaderFlowControl


class ProxiedClient:
    """An `HttpClient` over aiohttp's connections.

    Args:
        url: the URL of the server.
        headers: the headers of every request.
        connections: the connections, which the client closes.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], connections: AiohttpConnections
    ) -> None:
        self._url = url
        self._headers = headers
        self._connections = connections

    async def exchange(
        self, request: HttpRequest, receiver: ResponseReceiver, *, new_connection: bool = False
    ) -> None:
        """See `HttpClient.exchange`."""
        with map_aiohttp_errors(self._connections.proxy_address):
            async with await self._connections.send(
                request.method,
                self._url + request.path,
                request.body,
                {**self._headers, **request.headers},
                new_connection=new_connection,
            ) as response:
                await _ResponseReader(response, receiver).run()

    async def close(self) -> None:
        """See `HttpClient.close`."""
        await self._connections.close()


class _ResponseReader(ReaderFlowControl):
    """Reads one response; the `ResponseSource` of its receiver."""

    def __init__(self, response: aiohttp.ClientResponse, receiver: ResponseReceiver) -> None:
        super().__init__()
        self._response = response
        self._receiver = receiver
        self._stopped = False
        self._canceller = asyncio.timeout(None)

    def stop(self) -> None:
        """End the response, also during a read."""
        if not self._stopped:
            self._stopped = True
            self._canceller.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Read to the end of the response, or until `stop`."""
        try:
            async with self._canceller:
                await self._read()
        except TimeoutError:
            if not self._stopped:
                raise
        except asyncio.CancelledError:
            if self.is_paused and (unread := self._take_unread()):
                self._receiver.unread_received(unread)
            raise

    async def _read(self) -> None:
        head = ResponseHead(self._response.status, self._response.headers)
        self._receiver.response_started(head, self)
        read, receive = self._response.content.readany, self._receiver.data_received
        while not self._stopped:
            await self.wait_until_resumed()
            data = await read()
            if not data:
                return
            receive(data)
            data = b""  # releases the chunk while reading is paused

    def _take_unread(self) -> bytes:
        """Return the bytes that aiohttp has received and nobody has read."""
        with suppress(aiohttp.ClientError, RuntimeError, OSError):
            return self._response.content.read_nowait()
        return b""
