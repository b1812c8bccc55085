"""Logs the refused requests that have no `RequestRecord`, such as those without a valid key."""

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from provider_agent.coordinator.connections.client_address import ProxyNetworks, client_address
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.event_log import EventLogger
from provider_agent.protocol.formats import Operation

_OPERATION_PATHS: Final = frozenset(operation.path for operation in Operation)

_MAX_PATH_CHARS: Final = 100


class RefusalLog:
    """Logs refused requests; only some of many, because anyone can send them.

    Args:
        proxies: proxies whose `X-Forwarded-For` is believed.
        clock: monotonic, in seconds.
    """

    def __init__(self, proxies: ProxyNetworks, clock: Callable[[], float]) -> None:
        self._proxies = proxies
        self._log = LimitedLog(EventLogger(__name__), clock)

    def __repr__(self) -> str:
        return f"<RefusalLog {self._log!r}>"

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log a request that is refused with a 4xx status, unless it is one of an operation."""
        response = await handler(request)
        is_refused = HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR
        is_operation = request.method == hdrs.METH_POST and request.path in _OPERATION_PATHS
        if is_refused and not is_operation:
            self.log(request, response.status)
        return response

    def log(self, request: web.Request, status: int) -> None:
        """Log a request that is refused with this status."""
        self._log.log(
            logging.INFO,
            "request refused",
            status=int(status),
            method=request.method,
            path=request.path[:_MAX_PATH_CHARS],
            address=client_address(request, self._proxies),
        )
