"""A status server without an agent, for commands that query the status of an agent."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from aiohttp import web

from provider_agent.agent.link.state import LinkState
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot
from provider_agent.agent.telemetry.status_server import StatusServer

READY = StatusSnapshot(
    version="1.2.3",
    uptime_s=3723.0,
    link=LinkState.CONNECTED,
    coordinator_url="wss://c.example/provider/connect",
    last_welcome_age_s=61.0,
    capacity=8,
    backends=[BackendStatus(id="echo", kind="echo", healthy=True, models=1)],
)


@asynccontextmanager
async def status_server(
    state: StatusSnapshot = READY,
    host: str = "127.0.0.1",
    *,
    ports: str = "0",
    fingerprint: str = "",
) -> AsyncIterator[str]:
    """Serve `state` on the first free one of `ports`; yield the address."""
    server = StatusServer(f"{host}:{ports}", lambda: state, Metrics(), fingerprint)
    server.listen()
    await server.serve()
    try:
        yield server.address
    finally:
        await server.stop()


@asynccontextmanager
async def other_http_server(
    status: int = 404, text: str = "<html>not here</html>", port: int = 0
) -> AsyncIterator[str]:
    """Run a server with one response for every request, and yield its address."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def free_ports(count: int) -> range:
    """Return consecutive ports that were free a moment ago; other processes get others."""
    start = 20_000 + os.getpid() % 100 * 100
    for first in range(start, start + 100 - count, count):
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return range(first, first + count)
    raise AssertionError("no free ports")
