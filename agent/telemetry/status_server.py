"""HTTP server for operators and orchestrators: liveness, readiness, metrics, status."""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from provider_agent.advised_error import AdvisedError
from provider_agent.agent.config.addresses import listen_address
from provider_agent.agent.telemetry.metrics import CONTENT_TYPE, Metrics
from provider_agent.agent.telemetry.status import StatusSnapshot, readiness
from provider_agent.event_log import EventLogger
from provider_agent.http_server_log import http_logger

log = EventLogger(__name__)

_SHUTDOWN_S: Final = 1.0
"""Responses are immediate, so a stop does not wait longer for a slow reader."""

MAX_CONNECTIONS: Final = 32
"""Open connections. A new one closes the oldest, so that idle ones cannot exclude a probe. Enough
for several scrapers, probes and people at once."""

KEEP_ALIVE_S: Final = 75.0
"""How long an idle connection stays open: longer than Prometheus's default interval of 60 s."""

_ADVICE: Final = (
    "set another address with `run --prometheus-addr` or observability.prometheus_addr, "
    'or "off" for none'
)
_IN_USE_ADVICE: Final = (
    "another provider-agent may be running: start this one with `--prometheus-addr off` or with "
    "another address (observability.prometheus_addr), or stop the other one"
)


class StatusServerError(AdvisedError):
    """The server cannot listen; `problem` names the address and the reason."""


class StatusServer:
    """Serves `/livez`, `/readyz`, `/metrics` and `/status`. Read-only, no authentication.

    Args:
        address: `host:port`; port 0 selects a free one.
        status: returns the current state; called once per request.
        metrics: rendered by `/metrics`.
    """

    def __init__(
        self, address: str, status: Callable[[], StatusSnapshot], metrics: Metrics
    ) -> None:
        self._host, self._port = listen_address(address)
        self._status = status
        self._metrics = metrics
        self._runner: web.ServerRunner | None = None

    def __repr__(self) -> str:
        state = "listening" if self._runner else "stopped"
        return f"<StatusServer {self.address} {state}>"

    @property
    def address(self) -> str:
        """`host:port`; the actual port once the server listens."""
        port = self._port
        if self._runner is not None and self._runner.addresses:
            port = self._runner.addresses[0][1]
        return f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"

    async def start(self) -> None:
        """Listen. Cancellation leaves no socket open.

        Raises:
            StatusServerError: the server cannot listen on the address.
        """
        server = _CappedServer(
            self._respond,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=0,
            logger=http_logger(),
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise StatusServerError(
                f"the status server cannot listen on {self.address}: "
                f"{os.strerror(error.errno or 0)}",
                _IN_USE_ADVICE if error.errno == errno.EADDRINUSE else _ADVICE,
            ) from error
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        log.info("status server listening", address=self.address)

    async def stop(self) -> None:
        """Close the socket and all connections; does nothing if the server is not running."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

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
        return route()

    def _readyz(self) -> web.Response:
        reasons = readiness(self._status())
        if not reasons:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))

    def _show_metrics(self) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    def _show_status(self) -> web.Response:
        body = msgspec.json.encode(self._status())
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
