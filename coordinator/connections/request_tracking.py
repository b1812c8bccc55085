"""Reports the requests of each connection to its `GuardedConnection`."""

from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from provider_agent.coordinator.connections.guarded_connection import connection_of


@web.middleware
async def track_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the connection distinguish the body of the request from what the peer sends beside it."""
    connection = connection_of(request)
    if connection is None:
        return await handler(request)
    connection.begin_request(request.content)
    try:
        return await handler(request)
    finally:
        connection.end_request()


async def close_after_response(request: web.Request, response: web.StreamResponse) -> None:
    """Close the connection after this response if it must not serve another request.

    A signal (`on_response_prepare`), because middlewares do not see each response: aiohttp answers
    an unknown `Expect` without them.
    """
    connection = connection_of(request)
    is_upgrade = response.status == HTTPStatus.SWITCHING_PROTOCOLS
    if connection is None or is_upgrade or not connection.must_close:
        return
    response.force_close()
    response.headers[hdrs.CONNECTION] = "close"
    if hdrs.TRANSFER_ENCODING in request.headers and not connection.is_authenticated:
        connection.count_all_bytes()
