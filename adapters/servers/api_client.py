"""Sends API requests, whose responses are read completely before they are returned."""

import asyncio
from collections.abc import Mapping
from typing import Final

import aiohttp

from provider_agent.adapters.errors import InvalidResponse, Transport
from provider_agent.adapters.http.aiohttp_connections import AiohttpConnections
from provider_agent.adapters.http.aiohttp_errors import map_aiohttp_errors
from provider_agent.adapters.servers.server_response import ServerResponse
from provider_agent.protocol.limits import MIB

MAX_RESPONSE_BYTES: Final = 16 * MIB
"""Limit of the response to an API request. The catalog of a passthrough has about 2 MiB."""


class ApiClient:
    """Sends API requests to one server.

    Args:
        url: the URL of the server.
        headers: the headers of every request.
        connections: the connections to the server, which their owner closes.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], connections: AiohttpConnections
    ) -> None:
        self._url = url
        self._headers = headers
        self._connections = connections

    async def request(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> ServerResponse:
        """Send a request and return the response, whatever its status.

        After a lost connection it is sent again, over a new one; the server may execute it twice.

        Raises:
            BackendError: no response within `timeout_s`, or one over `MAX_RESPONSE_BYTES`.
        """
        try:
            return await self._send(method, path, body, timeout_s)
        except Transport:
            return await self._send(method, path, body, timeout_s, new_connection=True)

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout_s: float,
        *,
        new_connection: bool = False,
    ) -> ServerResponse:
        send, url = self._connections.send, self._url + path
        with map_aiohttp_errors():
            async with asyncio.timeout(timeout_s):
                async with await send(
                    method, url, body, self._headers, new_connection=new_connection
                ) as response:
                    content = await _read_at_most(response, MAX_RESPONSE_BYTES + 1)
        if len(content) > MAX_RESPONSE_BYTES:
            raise InvalidResponse(f"the response to {method} {path} is too big")
        return ServerResponse(response.status, content, response.headers)


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read the first `limit` bytes of a body."""
    body = bytearray()
    while len(body) < limit and (data := await response.content.read(limit - len(body))):
        body += data
    return bytes(body)
