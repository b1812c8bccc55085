"""Everything that runs in a soak, in one process.

::

    clients ──▶ coordinator ◀──link── two agents ──┬─backend proxy──▶ server
                                                  └─▶ echo
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.config import (
    BackendConfig,
    Config,
    CoordinatorConfig,
    DiscoveryConfig,
    LimitsConfig,
    TimeoutSettings,
)
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.service import EXIT_FORCED, EXIT_OK, Service
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.limits import CONNECT_PATH, KIB
from tests.kit.agent_config import agent_config
from tests.kit.fault_proxy import ConnectPolicy, FaultProxy
from tests.soak.server import SoakServer
from tests.soak.tally import Tally

SETTINGS = CoordinatorSettings(
    port=0,
    window_bytes=64 * KIB,
    heartbeat_ms=1000,
    resume_ms=8000,
    handshake_timeout_s=3.0,
    deadline_s=25.0,
    deadline_grace_s=2.0,
    stalled_client_s=9.0,
    drain_s=0.5,
)

PING_EVERY_S = 2.0
"""Instead of the real 20 s, so that a link that vanished is noticed while its session is kept."""

IDLE_WITHIN_S = 90.0
"""After the last fault: the longest backoff, and the longest clock of what still runs."""

_JITTER = 0.25
"""Of the real one: an agent comes back in minutes otherwise, after many faults in a row."""


class Provider:
    """One agent with its proxies; stopped and started again at will.

    Attributes:
        link: to the coordinator.
        backend_proxy: to the server.
        service: the agent that runs now, or ran last.
    """

    def __init__(
        self, link: FaultProxy, backend_proxy: FaultProxy, dice: random.Random, tally: Tally
    ) -> None:
        self.link = link
        self.backend_proxy = backend_proxy
        self._dice = dice
        self._tally = tally
        self._identity = Identity(Ed25519PrivateKey.generate())
        self.service: Service
        self._task: asyncio.Task[int] | None = None
        self._told_to_stop = False
        self._restarting = asyncio.Lock()

    def start(self) -> None:
        """Run an agent."""
        self._told_to_stop = False
        config = self._config()
        self.service = Service(
            config,
            self._identity,
            make_backends(config.backends, {}),
            uniform=lambda: _JITTER * self._dice.random(),
        )
        _count_resumed(self.service, self._tally)
        self._task = asyncio.create_task(self.service.run(), name="agent")

    async def drain(self, *, force: bool = False) -> None:
        """Stop it as SIGTERM does; as two do, when forced."""
        self._told_to_stop = True
        self.service.stop()
        if force:
            await asyncio.sleep(0.2)
            self.service.stop()
        assert self._task is not None
        code = await self._task
        if code not in (EXIT_OK, EXIT_FORCED):
            self._tally.defect(f"an agent ended with {code}: {self.service!r}")

    async def restart(self, away_s: float, *, force: bool) -> None:
        """Stop it, and after a while start another one with the same key."""
        async with self._restarting:
            await self.drain(force=force)
            await asyncio.sleep(away_s)
            self.start()

    def reload(self) -> None:
        """As SIGHUP does, with other limits and another clock at its server."""
        config = self._config()
        backends = make_backends(
            config.backends, {}, before=self.service.backends, busy_ids=self.service.busy_ids
        )
        self.service.reload(config, backends)

    @property
    def died(self) -> bool:
        """Whether the agent ended although nobody told it to."""
        return self._task is not None and self._task.done() and not self._told_to_stop

    def _config(self) -> Config:
        silence_s = self._dice.choice([3.0, 4.0])
        timeouts = TimeoutSettings(connect_s=2.0, first_byte_s=4.0, silence_s=silence_s)
        server = BackendConfig(
            kind="openai_compatible",
            url=f"http://{self.backend_proxy.authority}",
            formats=(WireFormat.OPENAI, WireFormat.ANTHROPIC),
            max_concurrent=64,
            timeouts=timeouts,
        )
        url = f"ws://{self.link.authority}{CONNECT_PATH}"
        return agent_config(
            url,
            coordinator=CoordinatorConfig(url=url),
            backends=(server, BackendConfig(kind="echo")),
            limits=LimitsConfig(
                max_concurrent=self._dice.choice([24, 32]),
                drain_timeout_s=2.0,
                # As in earnest three pings: a link that stands still is noticed first.
                slow_consumer_s=3 * PING_EVERY_S,
            ),
            discovery=DiscoveryConfig(interval_s=2.0),
        )


def _count_resumed(service: Service, tally: Tally) -> None:
    count = service.metrics.resumed

    def count_both(jobs: int) -> None:
        tally.resumed += bool(jobs)
        count(jobs)

    service.metrics.resumed = count_both  # type: ignore[method-assign]


class World:
    """See the module's text."""

    def __init__(self, dice: random.Random, tally: Tally) -> None:
        self.dice = dice
        self.tally = tally
        self.server = SoakServer(dice)
        self.providers: list[Provider] = []
        self.coordinator: Coordinator
        self._settings = SETTINGS
        self._restarting_coordinator = asyncio.Lock()
        self._restarting_server = asyncio.Lock()

    @property
    def url(self) -> str:
        """Of the coordinator, for clients."""
        return self.coordinator.http_url

    @property
    def proxies(self) -> list[FaultProxy]:
        """Every proxy."""
        pairs = ((one.link, one.backend_proxy) for one in self.providers)
        return [proxy for pair in pairs for proxy in pair]

    async def restart_coordinator(self, away_s: float) -> None:
        """Stop it, and after a while start another one, which knows nothing."""
        async with self._restarting_coordinator:
            await self.coordinator.stop()
            await asyncio.sleep(away_s)
            await self._start_coordinator()

    async def restart_server(self, away_s: float) -> None:
        """The same for the inference server."""
        async with self._restarting_server:
            await self.server.kill()
            await asyncio.sleep(away_s)
            await self._start_server()

    def repair(self) -> None:
        """Let every proxy carry again; what vanished or stands still is cut."""
        for proxy in self.proxies:
            proxy.connect_policy = ConnectPolicy.FORWARD
            proxy.on_connection = lambda _connection: None
            proxy.listen()
            proxy.cut()

    async def quiet(self) -> None:
        """Return when nobody has anything to do any more; a defect when that takes too long."""
        await self._until(lambda: not self._busy())

    def _busy(self) -> list[object]:
        """Who has something to do, for people."""
        agents = self.coordinator.agents()
        return [
            *(one.service for one in self.providers if one.service.outbox.streams),
            *(one.service for one in self.providers if one.service.jobs.in_flight),
            *(one.service for one in self.providers if not one.service.uplink.connected.is_set()),
            *(agent for agent in agents if agent.in_flight or agent.retired),
            *self.coordinator.parked(),
            *(["the server"] if self.server.active else []),
            *(["too few agents"] if sum(bool(agent.models) for agent in agents) < 2 else []),
        ]

    async def _until(self, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(IDLE_WITHIN_S):
                while not holds():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.tally.defect(f"not idle after {IDLE_WITHIN_S:.0f} s: {self._busy()}")

    async def _start_coordinator(self) -> None:
        self.coordinator = Coordinator(self._settings)
        await self.coordinator.start()
        for one in self.providers:
            one.link.target = int(self.coordinator.authority.rpartition(":")[2])

    async def _start_server(self) -> None:
        await self.server.start()
        for one in self.providers:
            one.backend_proxy.target = self.server.port

    async def build(self, stack: AsyncExitStack) -> None:
        """Start everything; the stack stops it."""
        await self._start_server()
        stack.push_async_callback(self.server.kill)
        for n in range(2):
            link = await stack.enter_async_context(FaultProxy())
            proxy = await stack.enter_async_context(FaultProxy(self.server.port))
            dice = random.Random(f"{self.dice.random()}/{n}")
            self.providers.append(Provider(link, proxy, dice, self.tally))
        authorities = tuple(one.link.authority for one in self.providers)
        self._settings = replace(SETTINGS, authorities=authorities)
        await self._start_coordinator()
        stack.push_async_callback(lambda: self.coordinator.stop())
        for one in self.providers:
            one.start()
            stack.push_async_callback(one.drain, force=True)
        await self.quiet()


@asynccontextmanager
async def world(dice: random.Random, tally: Tally) -> AsyncIterator[World]:
    """A world in which everybody is connected."""
    async with AsyncExitStack() as stack:
        built = World(dice, tally)
        await built.build(stack)
        yield built
