"""The coordinator as a whole: start, stop, addresses, counters."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from provider_agent.coordinator.agents.dispatcher import Dispatcher
from provider_agent.coordinator.agents.endpoint import AgentEndpoint
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.snapshots import (
    AgentSnapshot,
    ClusterSnapshot,
    DetachedSnapshot,
)
from provider_agent.coordinator.cluster.ids import tagged
from provider_agent.coordinator.connections.client_address import ProxyNetworks
from provider_agent.coordinator.connections.guarded_connection import (
    CLIENT_READ_BYTES,
    GuardedConnection,
    connection_factory,
)
from provider_agent.coordinator.connections.limits import ConnectionLimits
from provider_agent.coordinator.connections.open_files import (
    connection_caps,
    raise_open_files_limit,
)
from provider_agent.coordinator.connections.request_tracking import (
    close_after_response,
    track_request,
)
from provider_agent.coordinator.drain import Drain
from provider_agent.coordinator.exceptions import CannotListen, SettingsError
from provider_agent.coordinator.http.api import HttpApi
from provider_agent.coordinator.http.counters import Counters
from provider_agent.coordinator.http.http_errors import render_http_errors
from provider_agent.coordinator.http.key_limit_check import new_key_limits
from provider_agent.coordinator.key_limits import KeyLimits
from provider_agent.coordinator.settings import (
    CoordinatorSettings,
    accepted_authorities,
    check_settings,
    is_wildcard,
    listen_hosts,
)
from provider_agent.coordinator.status import StatusPage
from provider_agent.event_log import EventLogger
from provider_agent.http_server_log import http_logger
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.limits import CONNECT_PATH

if TYPE_CHECKING:
    from provider_agent.coordinator.cluster.bus import ClusterBus
    from provider_agent.coordinator.cluster.member import ClusterMember

log = EventLogger(__name__)

LAST_WRITES_S: Final = 1.0
"""Seconds that clients have to read the last bytes of their responses, after all jobs have ended.
Others would delay the end of the process."""

SHUTDOWN_S: Final = 5.0
"""Seconds that request handlers may still run after the agents have disconnected."""

LINGERING_S: Final = 5.0
"""Seconds for which the rest of a refused request's body is read, so that the client can read the
response."""


class Coordinator:
    """The coordinator; also an async context manager that runs it.

    Args:
        settings: addresses, access and limits.
        clock: monotonic, in seconds.
        random_bytes: generates nonces and ids; must be cryptographically secure.

    Raises:
        SettingsError: a setting is wrong or unsafe.
    """

    def __init__(
        self,
        settings: CoordinatorSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.settings = settings or CoordinatorSettings()
        check_settings(self.settings)
        self._clock = clock
        self._port = 0
        own_id = random_bytes(16)
        id_bytes = random_bytes if self.settings.cluster is None else tagged(own_id, random_bytes)
        self._fleet = Fleet(self.settings, clock)
        self._dispatcher = Dispatcher(self._fleet, self.settings, clock)
        self._connections = ConnectionLimits[GuardedConnection](
            connection_caps(self.settings), self.settings.max_held_request_bytes
        )
        self._key_limits = new_key_limits(self.settings, clock)
        self._http_api = HttpApi(
            self.settings,
            self._fleet,
            self._dispatcher,
            self._connections,
            cluster=self._cluster_snapshot,
            key_limits=self._key_limits,
            clock=clock,
            job_id_bytes=id_bytes,
        )
        self._agent_endpoint = AgentEndpoint(
            self.settings,
            self._fleet,
            clock=clock,
            random_bytes=random_bytes,
            session_id_bytes=id_bytes,
        )
        self._cluster = self._new_cluster_bus(clock, own_id)
        self._runner: web.AppRunner | None = None
        self._servers: list[asyncio.Server] = []

    def _new_cluster_bus(self, clock: Callable[[], float], own_id: bytes) -> "ClusterBus | None":
        settings = self.settings
        if settings.cluster is None:
            return None
        # Only a cluster needs the NATS client, which is an optional dependency.
        try:
            from provider_agent.coordinator.cluster.bus import ClusterBus
        except ImportError as error:
            raise SettingsError(
                "a cluster needs the NATS client: pip install 'provider-agent[cluster]'"
            ) from error

        return ClusterBus(
            self._fleet,
            settings,
            settings.cluster,
            own_id=own_id,
            clock=clock,
            key_limits=self._key_limits,
        )

    def __repr__(self) -> str:
        where = self.http_url if self._port else "not listening"
        return f"<Coordinator {where} {self._fleet!r}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def authority(self) -> str:
        """The address that programs on this machine dial, as `host:port`."""
        host = self.settings.host
        return canonical_authority("http", "127.0.0.1" if is_wildcard(host) else host, self._port)

    @property
    def port(self) -> int:
        """The port that the coordinator listens on; 0 before `start`."""
        return self._port

    @property
    def http_url(self) -> str:
        """The base address for clients."""
        return f"http://{self.authority}"

    @property
    def connect_url(self) -> str:
        """The address for agents."""
        return f"ws://{self.authority}{CONNECT_PATH}"

    @property
    def authorities(self) -> tuple[str, ...]:
        """The addresses that agents may dial, whichever of them a connection uses.

        Without `settings.authorities`, an agent may also dial the address that it reaches.
        """
        return self._agent_endpoint.authorities

    @property
    def counters(self) -> Counters:
        """The outcomes of all requests so far."""
        return self._http_api.counters

    @property
    def open_connections(self) -> int:
        """How many connections of clients and agents are open."""
        return len(self._connections)

    @property
    def cluster(self) -> "ClusterMember | None":
        """The state of this coordinator in its cluster; None if it is in none."""
        return None if self._cluster is None else self._cluster.member

    @property
    def nats_server(self) -> str:
        """The NATS server of the connection, without user and password; "" if there is none."""
        return "" if self._cluster is None else self._cluster.server

    @property
    def key_limits(self) -> KeyLimits | None:
        """The limits of each API key; None if there is no limit."""
        return self._key_limits

    def _cluster_snapshot(self) -> ClusterSnapshot | None:
        return None if self._cluster is None else self._cluster.member.describe()

    @property
    def queued(self) -> int:
        """How many requests wait for an agent."""
        return self._dispatcher.queued

    def agents(self) -> list[AgentSnapshot]:
        """Return the state of every connected agent."""
        return self._fleet.snapshot()

    def detached_sessions(self) -> list[DetachedSnapshot]:
        """Return all detached sessions."""
        return self._fleet.detached_sessions()

    async def start(self) -> None:
        """Start listening.

        Raises:
            CannotListen: the address is not available.
        """
        app = web.Application(
            client_max_size=self.settings.max_request_bytes,
            middlewares=[track_request, self._http_api.refusals.middleware, render_http_errors],
        )
        app.on_response_prepare.append(close_after_response)
        self._http_api.add_routes(app.router)
        StatusPage(self, self._http_api, self._clock).add_to(app.router)
        app.router.add_get(CONNECT_PATH, self._agent_endpoint.connect)
        # Without cancellation a handler notices a disconnected client only when it writes.
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=self.settings.keep_alive_s,
            lingering_time=LINGERING_S,
            logger=http_logger(),
            read_bufsize=CLIENT_READ_BYTES,
            auto_decompress=False,  # it would cost seconds of CPU before a key is checked
        )
        await runner.setup()
        try:
            await self._listen(runner)
        except OSError as error:
            self._close_servers()
            await runner.cleanup()
            wanted = f"{self.settings.host}:{self.settings.port}"
            raise CannotListen(
                f"cannot listen on {wanted}: {os.strerror(error.errno or 0)}; if another program "
                "uses the address, stop it or choose another --port"
            ) from error
        self._runner = runner
        self._agent_endpoint.authorities = accepted_authorities(self.settings, self._port)
        if self._cluster is not None:
            await self._cluster.start()
        log.info("coordinator listening", address=self.authority)

    async def _listen(self, runner: web.AppRunner) -> None:
        if runner.server is None:
            raise RuntimeError("the runner is not set up")
        proxies = ProxyNetworks(self.settings.trusted_proxies)
        factory = connection_factory(runner.server, self._connections, proxies)
        loop = asyncio.get_running_loop()
        settings = self.settings
        # With the default of 100, clients that connect at once wait for a repeated SYN: a second.
        backlog = settings.max_connections
        port = settings.port
        for host in listen_hosts(settings.host):
            server = await loop.create_server(factory, host, port, backlog=backlog)
            self._servers.append(server)
            port = int(server.sockets[0].getsockname()[1])
        self._port = port

    def _close_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def stop(self) -> None:
        """Wait at most `settings.drain_s` for running requests, then close all connections.

        While it waits, the coordinator still listens, so that agents whose link breaks can resume
        their sessions. In a cluster, its agents and their jobs move to the other coordinators. Does
        nothing if the coordinator is not running. After a cancellation the coordinator no longer
        listens, but connections may still be open.
        """
        runner, self._runner = self._runner, None
        if runner is None:
            return
        log.info(
            "coordinator stopping",
            requests=self._http_api.running,
            agents=len(self._fleet),
            drain_timeout_s=self.settings.drain_s,
        )
        drain = Drain(self._fleet, self._http_api, self._cluster, self.settings.drain_s)
        interrupted = 0
        try:  # a second signal cancels any of these waits
            try:
                await drain.run()
            finally:
                interrupted = self._http_api.running
                self._close_servers()
            drain.end()
            await self._agent_endpoint.close(drain.close_reason)
            await self._http_api.stop(LAST_WRITES_S)
            self._http_api.interrupt()
            for connection in self._connections:
                connection.abort_request()
            await runner.cleanup()
        finally:
            self._http_api.interrupt()
            if self._cluster is not None:
                await self._cluster.stop()
            log.info("coordinator stopped", interrupted_requests=interrupted)


async def run(
    settings: CoordinatorSettings, started: Callable[[Coordinator], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then stop the coordinator; a second signal cancels the stop.

    Args:
        settings: addresses, access and limits.
        started: called with the coordinator when it listens.

    Raises:
        SettingsError: a setting is wrong or unsafe.
        CannotListen: the address is not available.
        asyncio.CancelledError: a second signal arrived.
    """
    raise_open_files_limit(settings.max_connections)
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()
    serving = asyncio.current_task()

    def on_signal() -> None:
        if stop_requested.is_set() and serving is not None:
            log.warning("second signal, the stop does not wait any longer")
            serving.cancel()
        stop_requested.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with Coordinator(settings) as coordinator:
            if started is not None:
                started(coordinator)
            await stop_requested.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
