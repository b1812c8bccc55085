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

from provider_agent.agent.control.endpoint import ControlEndpoint
from provider_agent.agent.control.local_control import LocalControl
from provider_agent.agent.control.signature import PATH as CONTROL_PATH
from provider_agent.agent.local_requests import is_local
from provider_agent.agent.telemetry.host_check import HostCheck
from provider_agent.agent.telemetry.logs import recent_lines
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.metrics_page import CONTENT_TYPE, MetricsPage
from provider_agent.agent.telemetry.page_files import (
    SECURITY_HEADERS,
    PageFile,
    read_page_files,
)
from provider_agent.agent.telemetry.status import (
    FINGERPRINT_HEADER,
    StatusSnapshot,
    readiness,
)
from provider_agent.agent.telemetry.status_events import StatusEvents
from provider_agent.http_server_log import http_logger

_SHUTDOWN_S: Final = 1.0
"""Responses are immediate, so a stop does not wait longer for a slow reader."""

MAX_CONNECTIONS: Final = 32
"""Open connections. A new one closes the oldest, so that idle ones cannot exclude a probe. Enough
for several scrapers, probes and people at once."""

KEEP_ALIVE_S: Final = 75.0
"""How long an idle connection stays open: longer than Prometheus's default interval of 60 s."""


_EVENTS: Final = "/events"

_LOG: Final = "/log"

_FILES: Final = read_page_files()
"""Read when this module is imported, which happens in a thread."""

_OTHER_HOST: Final = (
    "this server does not answer for the host name in the request, which may be one of another web "
    "page; use its IP address, or add the name to observability.allowed_hosts\n"
)

_OTHER_MACHINE: Final = "the log is only for programs on this machine\n"


class StatusPages:
    """Responds to requests for `/`, `/events`, `/log` and the pages of programs.

    Args:
        status: returns the current state; called once per request.
        metrics: shown by `/metrics`.
        hosts: the hosts that it answers for.
        fingerprint: the fingerprint of the agent's key, for commands that search for the agent.
        control: checks and carries out commands; None: there are none.
    """

    def __init__(
        self,
        status: Callable[[], StatusSnapshot],
        metrics: Metrics,
        hosts: HostCheck,
        fingerprint: str = "",
        control: LocalControl | None = None,
    ) -> None:
        self._status = status
        self._control = None if control is None else ControlEndpoint(*control)
        self._hosts = hosts
        self._headers = {**SECURITY_HEADERS, FINGERPRINT_HEADER: fingerprint}
        self._metrics = MetricsPage(metrics, status)
        self._events = StatusEvents(self._encode_status)
        self._routes = {
            "/livez": _livez,
            "/readyz": self._readyz,
            "/metrics": self._show_metrics,
            "/status": self._show_status,
            _LOG: _show_log,
        }

    def close(self) -> None:
        """End all event streams, so that a stop does not wait for them."""
        self._events.close()

    def new_runner(self) -> web.ServerRunner:
        """Return a server without sockets."""
        server = _CappedServer(
            self._respond,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=0,
            logger=http_logger(),
            auto_decompress=False,  # no request needs it, and it would delay streams
        )
        return web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if not self._may_answer(request):
            return web.Response(status=421, text=_OTHER_HOST, headers=self._headers)
        if path == CONTROL_PATH and self._control is not None:
            return await self._control.respond(request, self._headers)
        if path not in self._routes and path not in _FILES and path != _EVENTS:
            raise web.HTTPNotFound(headers=self._headers)
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"], headers=self._headers)
        if path == _EVENTS:
            return await self._events.respond(request, self._headers)
        if path == _LOG and not is_local(request.remote, request.headers):
            return web.Response(status=403, text=_OTHER_MACHINE, headers=self._headers)
        file = _FILES.get(path)
        response = self._routes[path]() if file is None else _file_response(file)
        response.headers.update(self._headers)
        return response

    def _may_answer(self, request: web.BaseRequest) -> bool:
        """Return whether the request is not one of another web page.

        `/livez` says nothing about the agent, and probes may send any host.
        """
        headers = request.headers
        return request.path == "/livez" or self._hosts.accepts(
            headers.get("Host"), headers.get("Origin")
        )

    def _readyz(self) -> web.Response:
        reasons = readiness(self._status())
        if not reasons:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))

    def _show_metrics(self) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    def _show_status(self) -> web.Response:
        return web.Response(body=self._encode_status(), content_type="application/json")

    def _encode_status(self) -> bytes:
        state = self._status()
        return msgspec.json.encode(replace(state, not_ready=readiness(state)))


def _file_response(file: PageFile) -> web.Response:
    return web.Response(body=file.body, content_type=file.content_type, charset="utf-8")


def _show_log() -> web.Response:
    """The last lines of the log, for `support-bundle`."""
    return web.Response(text="".join(f"{line}\n" for line in recent_lines()))


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
