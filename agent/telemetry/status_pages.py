"""The pages of the status server, on aiohttp.

aiohttp takes a third of the agent's start-up time, so the status server imports this module only
after the agent has connected.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web
from msgspec.structs import replace

from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.metrics_page import CONTENT_TYPE, MetricsPage
from provider_agent.agent.telemetry.status import (
    FINGERPRINT_HEADER,
    StatusSnapshot,
    readiness,
)
from provider_agent.http_server_log import http_logger

_SHUTDOWN_S: Final = 1.0
"""Responses are immediate, so a stop does not wait longer for a slow reader."""

MAX_CONNECTIONS: Final = 32
"""Open connections. A new one closes the oldest, so that idle ones cannot exclude a probe. Enough
for several scrapers, probes and people at once."""

KEEP_ALIVE_S: Final = 75.0
"""How long an idle connection stays open: longer than Prometheus's default interval of 60 s."""


class StatusPages:
    """Responds to requests for `/livez`, `/readyz`, `/metrics` and `/status`.

    Args:
        status: returns the current state; called once per request.
        metrics: shown by `/metrics`.
        fingerprint: the fingerprint of the agent's key, for commands that search for the agent.
    """

    def __init__(
        self, status: Callable[[], StatusSnapshot], metrics: Metrics, fingerprint: str = ""
    ) -> None:
        self._status = status
        self._fingerprint = fingerprint
        self._metrics = MetricsPage(metrics, status)

    def new_runner(self) -> web.ServerRunner:
        """Return a server without sockets."""
        server = _CappedServer(
            self._respond,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=0,
            logger=http_logger(),
        )
        return web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        routes = {
            "/livez": _livez,
            "/readyz": self._readyz,
            "/metrics": self._show_metrics,
            "/status": self._show_status,
        }
        route = routes.get(request.path)
        if route is None:
            raise web.HTTPNotFound
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        response = route()
        response.headers[FINGERPRINT_HEADER] = self._fingerprint
        return response

    def _readyz(self) -> web.Response:
        reasons = readiness(self._status())
        if not reasons:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))

    def _show_metrics(self) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    def _show_status(self) -> web.Response:
        state = self._status()
        body = msgspec.json.encode(replace(state, not_ready=readiness(state)))
        return web.Response(body=body, content_type="application/json")


def _livez() -> web.Response:
    """Any response proves that the event loop runs."""
    return web.Response(text="ok\n")


class _CappedServer(web.Server):
    """Closes the oldest connections when there are too many."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Add a connection."""
        super().connection_made(handler, transport)
        for oldest in self.connections[:-MAX_CONNECTIONS]:
            if oldest.transport is not None:
                oldest.transport.abort()
