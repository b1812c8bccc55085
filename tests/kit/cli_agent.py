"""A status server without an agent, for commands that query the status of an agent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
    state: StatusSnapshot = READY, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    """Serve `state`, and yield the address in the form of `prometheus_addr`."""
    server = StatusServer(f"{host}:0", lambda: state, Metrics())
    server.listen()
    await server.serve()
    try:
        yield server.address
    finally:
        await server.stop()


@asynccontextmanager
async def other_http_server(
    status: int = 404, text: str = "<html>not here</html>"
) -> AsyncIterator[str]:
    """Run a server with one response for every request, and yield its address."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
