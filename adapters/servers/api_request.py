"""Sends API requests, whose responses are read completely before they are returned."""

import asyncio
from typing import Final

from provider_agent.adapters.errors import InvalidResponse, Transport
from provider_agent.adapters.http import failures
from provider_agent.adapters.http.body_collector import BodyCollector
from provider_agent.adapters.http.client import HttpClient, HttpRequest
from provider_agent.adapters.servers.server_response import ServerResponse
from provider_agent.protocol.limits import MIB

MAX_RESPONSE_BYTES: Final = 16 * MIB
"""Limit of the response to an API request. The catalog of a passthrough has about 2 MiB."""


async def send_api_request(
    client: HttpClient, request: HttpRequest, timeout_s: float
) -> ServerResponse:
    """Send a request and return the response, whatever its status.

    After a lost connection it is sent again, over a new one; the server may execute it twice.

    Raises:
        BackendError: no response within `timeout_s`, or one over `MAX_RESPONSE_BYTES`.
    """
    try:
        return await _send(client, request, timeout_s)
    except Transport:
        return await _send(client, request, timeout_s, new_connection=True)


async def _send(
    client: HttpClient, request: HttpRequest, timeout_s: float, *, new_connection: bool = False
) -> ServerResponse:
    collector = BodyCollector(MAX_RESPONSE_BYTES)
    try:
        async with asyncio.timeout(timeout_s):
            await client.exchange(request, collector, new_connection=new_connection)
    except TimeoutError as error:
        raise failures.response_timeout() from error
    if collector.is_cut:
        raise InvalidResponse(f"the response to {request.method} {request.path} is too big")
    head = collector.head
    return ServerResponse(head.status, bytes(collector.body), head.headers)
