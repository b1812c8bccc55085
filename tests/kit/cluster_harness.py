"""Several coordinators with one fleet, over a real NATS server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aiohttp
from msgspec.structs import replace

from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.coordinator_harness import CHAT, JSON_HEADERS, NO_HEARTBEATS, NO_TIMEOUT
from tests.kit.nats_server import NatsServer, nats_server
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob

INTERVAL_S = 0.5


async def crash(coordinator: Coordinator) -> None:
    """End the connection to NATS without a farewell; the coordinator sends nothing more."""
    bus = coordinator._cluster
    assert bus is not None
    for task in bus._tasks:
        task.cancel()
    await bus._connection.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition that no event reports; the timeout of the test is the limit."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def member_of(coordinator: Coordinator) -> ClusterMember:
    assert coordinator.cluster is not None
    return coordinator.cluster


class ClusterHarness:
    """A NATS server and coordinators; each starts when `start` is called."""

    def __init__(self, nats: NatsServer, stack: AsyncExitStack) -> None:
        self.nats = nats
        self._stack = stack
        self.responses: list[aiohttp.ClientResponse] = []

    async def start(
        self, settings: CoordinatorSettings = NO_HEARTBEATS, interval_s: float = INTERVAL_S
    ) -> Coordinator:
        cluster = ClusterSettings(urls=(self.nats.url,), interval_s=interval_s)
        coordinator = Coordinator(replace(settings, cluster=cluster))
        await self._stack.enter_async_context(coordinator)
        return coordinator

    async def agent(self, coordinator: Coordinator, instance_id: str = "one") -> ScriptedAgent:
        agent = ScriptedAgent(coordinator.connect_url, instance_id=instance_id)
        return await self._stack.enter_async_context(agent)

    async def client(self, coordinator: Coordinator) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            coordinator.http_url, headers=JSON_HEADERS, timeout=NO_TIMEOUT
        )
        return await self._stack.enter_async_context(session)

    async def ask(
        self, client: aiohttp.ClientSession, body: bytes = b'{"model":"tiny"}'
    ) -> aiohttp.ClientResponse:
        response = await client.post(CHAT, data=body)
        self.responses.append(response)
        return response


class RemoteJobHarness:
    """The agent is connected to `holder`, the client to `edge`."""

    def __init__(
        self,
        cluster: ClusterHarness,
        edge: Coordinator,
        holder: Coordinator,
        agent: ScriptedAgent,
        client: aiohttp.ClientSession,
    ) -> None:
        self.cluster = cluster
        self.edge = edge
        self.holder = holder
        self.agent = agent
        self.client = client

    async def start_response(self, first: bytes) -> tuple[ScriptedJob, aiohttp.ClientResponse]:
        """Send a request, and answer it with `first`; return when the client has read `first`."""
        asking = asyncio.create_task(self.cluster.ask(self.client))
        job = await self.agent.next_job()
        await job.start()
        await job.send(first)
        response = await asking
        assert await response.content.readexactly(len(first)) == first
        return job, response


@contextlib.asynccontextmanager
async def cluster_harness() -> AsyncIterator[ClusterHarness]:
    """Run a NATS server; stop what was started, in the reverse order."""
    async with nats_server() as nats, AsyncExitStack() as stack:
        harness = ClusterHarness(nats, stack)
        try:
            yield harness
        finally:
            for response in harness.responses:
                response.close()


@contextlib.asynccontextmanager
async def remote_job_harness(
    settings: CoordinatorSettings = NO_HEARTBEATS, interval_s: float = INTERVAL_S
) -> AsyncIterator[RemoteJobHarness]:
    """Run two coordinators; return when the edge knows the holder's agent, and the holder it."""
    async with cluster_harness() as cluster:
        edge = await cluster.start(settings, interval_s)
        holder = await cluster.start(settings, interval_s)
        agent = await cluster.agent(holder)
        client = await cluster.client(edge)
        await wait_until(lambda: bool(member_of(edge).agents()))
        await wait_until(lambda: member_of(edge).own_id in member_of(holder).view)
        yield RemoteJobHarness(cluster, edge, holder, agent, client)
