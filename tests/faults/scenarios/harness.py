"""The system that a scenario runs: clients, coordinator, agents, a server, and fault proxies.

::

    clients ──▶ coordinator ◀──link proxy── agent ──backend proxy──▶ server
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from provider_agent.adapters.base import BackendSettings, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.adapters.settings import TimeoutSettings
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.config import CoordinatorConfig, DiscoveryConfig, LimitsConfig
from provider_agent.agent.config.dialect import USEPOD
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.service import Service
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL
from tests.faults.scenarios.clients import Clients, ScenarioRequest
from tests.faults.scenarios.numbered_server import NumberedServer, RequestSpec
from tests.kit.agent_config import agent_config
from tests.kit.fault_proxy import FaultProxy
from tests.kit.usepod_harness import PRICING
from tests.kit.virtual_time import now

MAX_CONCURRENT = 256

LIMITS = LimitsConfig(max_concurrent=MAX_CONCURRENT)

SETTINGS = CoordinatorSettings(port=0, deadline_s=24 * 3600.0, drain_s=0.0)


async def wait_until(
    holds: Callable[[], bool], *, within_s: float = 600.0, every_s: float = 2.0
) -> None:
    """Poll a condition that has no event, in virtual time; raise TimeoutError if it stays false."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(every_s)


@dataclass(eq=False)
class RunningService:
    """An agent, its task, and the proxy between it and its server."""

    service: Service
    task: asyncio.Task[int]
    backend_proxy: FaultProxy
    identity: Identity


@dataclass(eq=False)
class ScenarioHarness:
    """Everything that a scenario uses, connected.

    Attributes:
        settings: the settings of every coordinator.
        server: the inference server of every agent.
        link_proxy: the proxy between agents and coordinator.
        coordinator: the coordinator that runs now.
        clients: the clients of that coordinator.
        agents: the agents, in the order in which they started.
        stack: stops everything when the scenario ends.
        rng: makes every random choice.
        dialect: the protocol of agents and coordinator.
    """

    settings: CoordinatorSettings
    server: NumberedServer
    link_proxy: FaultProxy
    coordinator: Coordinator
    clients: Clients
    agents: list[RunningService]
    stack: AsyncExitStack
    rng: random.Random
    dialect: str = SUBPROTOCOL

    @property
    def service(self) -> Service:
        """The first agent."""
        return self.agents[0].service

    @property
    def backend_proxy(self) -> FaultProxy:
        """The proxy between the first agent and its server."""
        return self.agents[0].backend_proxy

    async def add_agent(
        self,
        limits: LimitsConfig = LIMITS,
        *,
        identity: Identity | None = None,
        fallback: str = "",
        replace: bool = False,
    ) -> RunningService:
        """Start an agent; it connects in the background.

        Args:
            limits: the agent's limits.
            identity: the identity of another agent; None: a new one.
            fallback: host and port of the agent's fallback URL; "": none.
            replace: whether the agent replaces a connected one with the same key.
        """
        proxy = await self.stack.enter_async_context(FaultProxy(self.server.port))
        settings = BackendSettings(
            kind=OpenAICompatibleBackend.kind,
            url=f"http://{proxy.authority}",
            formats=(WireFormat.OPENAI,),
            max_concurrent=MAX_CONCURRENT,
            timeouts=TimeoutSettings(total_s=24 * 3600.0),
        )
        identity = identity or Identity(PrivateKey(self.rng.randbytes(32)))
        url = _connect_url(self.link_proxy.authority)
        fallback_urls = (_connect_url(fallback),) if fallback else ()
        service = Service(
            agent_config(
                url,
                coordinator=CoordinatorConfig(
                    url=url,
                    fallback_urls=fallback_urls,
                    dialect=USEPOD if self.dialect == USEPOD else None,
                ),
                pricing=PRICING,
                limits=limits,
                discovery=DiscoveryConfig(interval_s=600.0),
            ),
            identity,
            Backends([OpenAICompatibleBackend(settings)], {}, [], {}),
            clock=now,
            uniform=self.rng.random,
            replace=replace,
        )
        task = asyncio.create_task(service.run(), name="agent")
        agent = RunningService(service, task, proxy, identity)
        self.agents.append(agent)
        self.stack.push_async_callback(_stop, task)
        return agent

    async def start_streams(self, *specs: RequestSpec, at_least: int) -> list[ScenarioRequest]:
        """Send requests; return when the server has sent `at_least` bytes of each response."""
        requests = [self.clients.send(spec) for spec in specs]
        await self.server.wait_for_bytes(*(spec.name for spec in specs), at_least=at_least)
        return requests

    async def check_all_complete(self, requests: Iterable[ScenarioRequest]) -> None:
        """Wait for these responses, and check that each is complete."""
        for request in requests:
            (await request.completed()).check_complete(self.server)

    async def check_served(self, *names: str) -> None:
        """Send a request for each job name, one after the other, and check the responses."""
        for name in names:
            await self.check_all_complete([self.clients.send(RequestSpec(name))])

    async def wait_for_agents(self, count: int = 1) -> None:
        """Return when at least `count` agents offer the model."""
        await wait_until(lambda: len([a for a in self.coordinator.agents() if a.models]) >= count)

    async def reconnect(self) -> None:
        """Cut every link; return when every agent has a new one and offers the model."""
        self.link_proxy.cut()
        await asyncio.sleep(0.1)  # until both sides have noticed
        await wait_until(lambda: all(one.service.uplink.connected.is_set() for one in self.agents))
        await self.wait_for_agents(len(self.agents))

    async def wait_until_idle(self) -> None:
        """Return when no agent, coordinator or server has a job; else raise TimeoutError."""
        await wait_until(lambda: not any(one.service.jobs.in_flight for one in self.agents))
        await wait_until(lambda: not any(one.service.outbox.streams for one in self.agents))
        await wait_until(lambda: not any(one.in_flight for one in self.coordinator.agents()))
        await wait_until(lambda: not self.server.active)

    async def replace_coordinator(self) -> Coordinator:
        """Start a coordinator without sessions, to which new connections go.

        Returns:
            The old one, which still runs.
        """
        old = self.coordinator
        self.coordinator = await self.stack.enter_async_context(
            _coordinator(self.settings, self.rng)
        )
        self.link_proxy.target = _port(self.coordinator)
        self.clients.port = _port(self.coordinator)
        return old


@asynccontextmanager
async def scenario_harness(
    rng: random.Random,
    settings: CoordinatorSettings = SETTINGS,
    limits: LimitsConfig = LIMITS,
    agents: int = 1,
    dialect: str = SUBPROTOCOL,
) -> AsyncIterator[ScenarioHarness]:
    """Start everything; yield once every agent offers the model."""
    async with AsyncExitStack() as stack:
        link_proxy = await stack.enter_async_context(FaultProxy())
        settings = replace(settings, authorities=(*settings.authorities, link_proxy.authority))
        if dialect != SUBPROTOCOL:
            settings = replace(settings, dialects=frozenset({ExtraDialect(dialect)}))
        server = await stack.enter_async_context(NumberedServer())
        coordinator = await stack.enter_async_context(_coordinator(settings, rng))
        link_proxy.target = _port(coordinator)
        clients = await stack.enter_async_context(Clients(_port(coordinator)))
        harness = ScenarioHarness(
            settings, server, link_proxy, coordinator, clients, [], stack, rng, dialect
        )
        for _ in range(agents):
            await harness.add_agent(limits)
        await harness.wait_for_agents(agents)
        yield harness


def _coordinator(settings: CoordinatorSettings, rng: random.Random) -> Coordinator:
    return Coordinator(settings, clock=now, random_bytes=rng.randbytes)


def _connect_url(authority: str) -> str:
    return f"ws://{authority}{CONNECT_PATH}"


def _port(coordinator: Coordinator) -> int:
    return int(coordinator.authority.rpartition(":")[2])


async def _stop(task: asyncio.Task[int]) -> None:
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
