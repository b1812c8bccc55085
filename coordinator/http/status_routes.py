"""Routes for operators and load balancers: what this is, liveness, readiness and metrics."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from provider_agent.coordinator.http.metrics import CONTENT_TYPE, Metrics
from provider_agent.coordinator.http.responses import json_response
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.limits import CONNECT_PATH

LIVE_PATHS: Final = ("/livez", "/healthz")
READY_PATH: Final = "/readyz"
METRICS_PATH: Final = "/metrics"

_DESCRIPTION: Final = f"""\
This is the reference coordinator of provider-agent. It sends requests of clients to agents, which
run them on their inference servers.

Clients:    the OpenAI API and the Anthropic API, with this address as the base URL
            GET /v1/models
{"".join(f"            POST {operation.path}{chr(10)}" for operation in Operation)}\
Agents:     WebSocket {CONNECT_PATH}
Operators:  GET /livez, /readyz, /metrics and /status
"""


class StatusRoutes:
    """The routes, which need no API key, except for the metrics.

    Args:
        not_ready: returns why requests cannot be served now; "" if they can.
        deny: returns the response to a request without access; None if it has access.
        metrics: rendered by `/metrics`.
    """

    def __init__(
        self,
        not_ready: Callable[[], str],
        deny: Callable[[web.Request], web.Response | None],
        metrics: Metrics,
    ) -> None:
        self._not_ready = not_ready
        self._deny = deny
        self._metrics = metrics

    def __repr__(self) -> str:
        return f"<StatusRoutes {self._not_ready() or 'ready'}>"

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get("/", _describe)
        for path in LIVE_PATHS:
            router.add_get(path, _live)
        router.add_get(READY_PATH, self._ready)
        router.add_get(METRICS_PATH, self._show_metrics)

    async def _ready(self, _request: web.Request) -> web.StreamResponse:
        reason = self._not_ready()
        if not reason:
            return json_response(b'{"status":"ready"}')
        body = msgspec.json.encode({"status": "not ready", "reason": reason})
        return json_response(body, HTTPStatus.SERVICE_UNAVAILABLE)

    async def _show_metrics(self, request: web.Request) -> web.StreamResponse:
        if (denied := self._deny(request)) is not None:
            return denied
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})


async def _describe(_request: web.Request) -> web.StreamResponse:
    return web.Response(text=_DESCRIPTION)


async def _live(_request: web.Request) -> web.StreamResponse:
    return json_response(b'{"status":"ok"}')
