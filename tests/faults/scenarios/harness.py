"""A scenario's participants: clients, the coordinator, an agent, a server, and two proxies.

::

    clients ──▶ coordinator ◀──link proxy── agent ──backend proxy──▶ server
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from provider_agent.adapters.base import BackendSettings, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.adapters.settings import TimeoutSettings
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.config import CoordinatorConfig, DiscoveryConfig, LimitsConfig
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.service import Service
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import CONNECT_PATH
from tests.faults.scenarios.clients import Clients
from tests.faults.scenarios.numbered_server import NumberedServer
from tests.kit.agent_config import agent_config
from tests.kit.fault_proxy import FaultProxy
from tests.kit.virtual_time import now

MAX_CONCURRENT = 256

LIMITS = LimitsConfig(max_concurrent=MAX_CONCURRENT)

SETTINGS = CoordinatorSettings(port=0, deadline_s=24 * 3600.0, drain_s=0.0)


async def until(
    holds: Callable[[], bool], *, within_s: float = 600.0, every_s: float = 2.0
) -> None:
    """Return when it holds; fail when it does not in time. For what has no event; virtual time."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(every_s)


@dataclass(eq=False)
class RunningService:
    """One agent and its way to its server."""

    service: Service
    task: asyncio.Task[int]
    backend_proxy: FaultProxy
    identity: Identity


@dataclass(eq=False)
class ScenarioHarness:
    """See the module's text.

    Attributes:
        settings: of every coordinator.
        server: what streams.
        link: between agents and coordinators.
        coordinator: the one that runs now.
        clients: its clients.
        agents: those that run.
    """

    settings: CoordinatorSettings
    server: NumberedServer
    link: FaultProxy
    coordinator: Coordinator
    clients: Clients
    agents: list[RunningService]
    stack: AsyncExitStack
    dice: random.Random

    @property
    def service(self) -> Service:
        """The first agent."""
        return self.agents[0].service

    @property
    def backend_proxy(self) -> FaultProxy:
        """The first agent's way to its server."""
        return self.agents[0].backend_proxy

    async def add_agent(
        self, limits: LimitsConfig = LIMITS, *, identity: Identity | None = None, fallback: str = ""
    ) -> RunningService:
        """Start an agent; it need not be connected yet.

        Args:
            limits: of the operator.
            identity: of another agent; None: its own.
            fallback: host and port of a second coordinator, dialled when the first is away.
        """
        proxy = await self.stack.enter_async_context(FaultProxy(self.server.port))
        settings = BackendSettings(
            kind=OpenAICompatibleBackend.kind,
            url=f"http://{proxy.authority}",
            formats=(WireFormat.OPENAI,),
            max_concurrent=MAX_CONCURRENT,
            timeouts=TimeoutSettings(total_s=24 * 3600.0),
        )
        identity = identity or Identity(
            Ed25519PrivateKey.from_private_bytes(self.dice.randbytes(32))
        )
        url = _connect_url(self.link.authority)
        fallback_urls = (_connect_url(fallback),) if fallback else ()
        service = Service(
            agent_config(
                url,
                coordinator=CoordinatorConfig(url=url, fallback_urls=fallback_urls),
                limits=limits,
                discovery=DiscoveryConfig(interval_s=600.0),
            ),
            identity,
            Backends([OpenAICompatibleBackend(settings)], {}, [], {}),
            clock=now,
            uniform=self.dice.random,
        )
        task = asyncio.create_task(service.run(), name="agent")
        agent = RunningService(service, task, proxy, identity)
        self.agents.append(agent)
        self.stack.push_async_callback(_end, task)
        return agent

    async def offers(self, count: int = 1) -> None:
        """Return when so many agents offer the model and take jobs."""
        await until(lambda: sum(bool(one.models) for one in self.coordinator.agents()) >= count)

    async def new_link(self) -> None:
        """Cut every connection; return when every agent is on a new one and offers the model."""
        self.link.cut()
        await asyncio.sleep(0.1)  # both sides have noticed; virtual time
        await until(lambda: all(one.service.uplink.connected.is_set() for one in self.agents))
        await self.offers(len(self.agents))

    async def idle(self) -> None:
        """Return when nobody has anything to do any more, or fail."""
        await until(lambda: not any(one.service.jobs.in_flight for one in self.agents))
        await until(lambda: not any(one.service.outbox.streams for one in self.agents))
        await until(lambda: not any(one.in_flight for one in self.coordinator.agents()))
        await until(lambda: not self.server.active)

    async def replace_coordinator(self) -> Coordinator:
        """Start another one, which knows nothing; the link leads to it from now on.

        Returns:
            The old one, to be stopped.
        """
        old = self.coordinator
        self.coordinator = await self.stack.enter_async_context(
            _coordinator(self.settings, self.dice)
        )
        self.link.target = _port(self.coordinator)
        self.clients.port = _port(self.coordinator)
        return old


@asynccontextmanager
async def harness(
    dice: random.Random,
    settings: CoordinatorSettings = SETTINGS,
    limits: LimitsConfig = LIMITS,
    agents: int = 1,
) -> AsyncIterator[ScenarioHarness]:
    """A stage on which everybody is connected."""
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(FaultProxy())
        settings = replace(settings, authorities=(*settings.authorities, link.authority))
        server = await stack.enter_async_context(NumberedServer())
        coordinator = await stack.enter_async_context(_coordinator(settings, dice))
        link.target = _port(coordinator)
        clients = await stack.enter_async_context(Clients(_port(coordinator)))
        play = ScenarioHarness(settings, server, link, coordinator, clients, [], stack, dice)
        for _ in range(agents):
            await play.add_agent(limits)
        await play.offers(agents)
        yield play


def _coordinator(settings: CoordinatorSettings, dice: random.Random) -> Coordinator:
    return Coordinator(settings, clock=now, random_bytes=dice.randbytes)


def _connect_url(authority: str) -> str:
    return f"ws://{authority}{CONNECT_PATH}"


def _port(coordinator: Coordinator) -> int:
    return int(coordinator.authority.rpartition(":")[2])


async def _end(task: asyncio.Task[int]) -> None:
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
