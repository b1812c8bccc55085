"""The coordinator as a whole: start, addresses, figures, stop."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from provider_agent.coordinator.agents.endpoint import AgentEndpoint
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.snapshots import AgentSnapshot, DetachedSnapshot
from provider_agent.coordinator.exceptions import CannotListen
from provider_agent.coordinator.http.api import HttpApi, shape_http_errors
from provider_agent.coordinator.http.exchange import Counters
from provider_agent.coordinator.settings import (
    CoordinatorSettings,
    accepted_authorities,
    check_settings,
    is_wildcard,
)
from provider_agent.event_log import EventLogger
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.limits import CONNECT_PATH

log = EventLogger(__name__)

SHUTDOWN_S: Final = 5.0
"""How long handlers may take to end once their agents are gone."""

_REASON: Final = "the coordinator is stopping"


class Coordinator:
    """A running coordinator; also an async context manager.

    Args:
        settings: what to listen on and whom to admit.
        clock: seconds, monotonic.
        random_bytes: cryptographically strong; makes nonces and ids.
    """

    def __init__(
        self,
        settings: CoordinatorSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.settings = settings or CoordinatorSettings()
        self._port = 0
        self._fleet = Fleet(self.settings, clock)
        self._front = HttpApi(self.settings, self._fleet, clock=clock, random_bytes=random_bytes)
        self._door = AgentEndpoint(
            self.settings, self._fleet, clock=clock, random_bytes=random_bytes
        )
        self._runner: web.AppRunner | None = None

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
        """Where it can be reached from this machine, as `host:port`."""
        host = self.settings.host
        return canonical_authority("http", "127.0.0.1" if is_wildcard(host) else host, self._port)

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
        """The addresses by which agents may dial."""
        return self._door.authorities

    @property
    def counters(self) -> Counters:
        """What became of the requests so far."""
        return self._front.counters

    def agents(self) -> list[AgentSnapshot]:
        """Every connected agent as it stands now."""
        return self._fleet.snapshot()

    def detached_sessions(self) -> list[DetachedSnapshot]:
        """Every lost session that waits for its agent to come back."""
        return self._fleet.detached_sessions()

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: a setting is wrong or unsafe.
            CannotListen: the address cannot be had.
        """
        check_settings(self.settings)
        app = web.Application(
            client_max_size=self.settings.max_request_bytes, middlewares=[shape_http_errors]
        )
        self._front.add_routes(app.router)
        app.router.add_get(CONNECT_PATH, self._door.connect)
        # Without cancellation a handler would not notice that its client is gone before it writes.
        runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self.settings.host, self.settings.port).start()
        except OSError as error:
            await runner.cleanup()
            wanted = f"{self.settings.host}:{self.settings.port}"
            raise CannotListen(
                f"cannot listen on {wanted}: {os.strerror(error.errno or 0)}; stop what uses the "
                "address, or choose another --port"
            ) from error
        self._runner = runner
        self._port = int(runner.addresses[0][1])
        self._door.authorities = accepted_authorities(self.settings, self._port)
        log.info("coordinator listening", address=self.authority)

    async def stop(self) -> None:
        """Finish what runs, at most `settings.drain_s`, then close every connection.

        It listens until then: agents whose link breaks meanwhile may come back for their jobs.
        Does nothing when it is not running. Cancelling it leaves connections open, yet stops
        listening.
        """
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._fleet.ask_to_drain(_REASON)
        try:
            await self._front.stop(self.settings.drain_s)
        finally:  # also when a second signal cuts the wait short
            for site in list(runner.sites):
                await site.stop()
        self._fleet.close()
        await self._door.close(_REASON)
        await runner.cleanup()
        log.info("coordinator stopped")


async def run(
    settings: CoordinatorSettings, started: Callable[[Coordinator], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once.

    Args:
        settings: what to listen on and whom to admit.
        started: called when it listens.

    Raises:
        SettingsError: a setting is wrong or unsafe.
        CannotListen: the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    serving = asyncio.current_task()

    def on_signal() -> None:
        if told_to_stop.is_set() and serving is not None:
            serving.cancel()
        told_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with Coordinator(settings) as coordinator:
            if started is not None:
                started(coordinator)
            await told_to_stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
