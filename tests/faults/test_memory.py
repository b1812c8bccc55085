"""An agent whose responses are not read holds at most jobs × (window + `OVERHEAD_BYTES`)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.frames import Capabilities
from provider_agent.protocol.limits import CONNECT_PATH, KIB, MIB
from tests.kit.end_to_end_harness import wait_for_models
from tests.kit.fault_proxy import FaultProxy
from tests.kit.flood_server import MODEL, FloodServer, flood
from tests.kit.jobs import new_job
from tests.kit.measured_agent import MeasuredAgent, MemoryUsage, measured_agent
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome

JOBS = 16
WINDOW_BYTES = 256 * KIB
RESPONSE = flood(3 * MIB)

READ_BYTES = 256 * KIB
"""The most that an event loop reads from a socket at once."""

OVERHEAD_BYTES = 4 * READ_BYTES
"""The most bytes that a paused job holds beside its window. They are four reads: one that overfills
the window, one in the buffer of the agent's HTTP library, one that the library receives before it
pauses its transport, and a copy of this third read until the library has parsed it."""

BOUND_BYTES = JOBS * (WINDOW_BYTES + OVERHEAD_BYTES)

MEASUREMENTS = 20
RECONNECTS = 50


@pytest.fixture
def server() -> Iterator[FloodServer]:
    with FloodServer(RESPONSE) as server:
        yield server


async def test_unacknowledged_jobs_cost_bounded_memory(server: FloodServer) -> None:
    async with (
        ScriptedCoordinator(lambda _: welcome(window_bytes=WINDOW_BYTES)) as coordinator,
        measured_agent(coordinator.url, server.url) as agent,
    ):
        peer = await coordinator.next_connection()
        while not (await peer.next(Capabilities)).models:
            pass
        before = await agent.settled(channels=0)
        peer.acknowledges = False
        jobs = [new_job(MODEL) for _ in range(JOBS)]
        await peer.send_jobs(*jobs)
        for job in jobs:
            await peer.wait_for_bytes(job.job_id, WINDOW_BYTES)
        await check_bound(agent, before, server)
        peer.acknowledges = True
        await peer.send_pending_frames()
        for job in jobs:
            await peer.end(job.job_id)
            assert peer.data[job.job_id] == RESPONSE
        await peer.settle()
        check_nothing_is_held(await agent.settled(channels=0), before)


async def test_clients_that_do_not_read_cost_bounded_memory_over_many_reconnects(
    server: FloodServer,
) -> None:
    async with (
        end_to_end(server) as (coordinator, proxy, agent),
        idle_clients(coordinator) as clients,
    ):
        before = await agent.settled(channels=0)
        clients.send_requests(JOBS)
        await clients.all_started()
        await check_bound(agent, before, server)
        for _ in range(RECONNECTS):
            proxy.cut()
            await wait_for_reconnect(proxy, coordinator)
        await check_bound(agent, before, server)
        assert await clients.bodies() == {RESPONSE}
        check_nothing_is_held(await agent.settled(channels=0), before)
        assert len(proxy.accepted_at) == 1 + RECONNECTS


# --- checks ---------------------------------------------------------------------------------------


async def check_bound(agent: MeasuredAgent, before: MemoryUsage, server: FloodServer) -> None:
    """Check that jobs stay paused, and memory stays bounded, while the server tries to send."""
    full = await agent.settled(channels=JOBS)
    for _ in range(MEASUREMENTS):
        now = await agent.usage()
        assert (now.channels, now.stopped) == (JOBS, JOBS)
        assert now.held == full.held
        assert now.held <= JOBS * (WINDOW_BYTES + 2 * READ_BYTES)
        assert now.traced - before.traced <= BOUND_BYTES
        # Resident memory also includes the allocator's overhead.
        assert now.resident - before.resident <= 2 * BOUND_BYTES
    assert server.answered == 0, (
        "the server sent a whole response: the kernel's buffers are too large for this test"
    )


def check_nothing_is_held(after: MemoryUsage, before: MemoryUsage) -> None:
    assert (after.held, after.channels) == (0, 0)
    assert after.traced - before.traced <= WINDOW_BYTES, "more than one window was not freed"


# --- clients, coordinator, proxy and agent --------------------------------------------------------


@asynccontextmanager
async def end_to_end(
    server: FloodServer,
) -> AsyncIterator[tuple[Coordinator, FaultProxy, MeasuredAgent]]:
    """Run a coordinator and an agent, connected through a proxy that can cut the link."""
    async with FaultProxy() as proxy:
        settings = CoordinatorSettings(
            port=0, authorities=(proxy.authority,), window_bytes=WINDOW_BYTES, drain_s=0.0
        )
        async with Coordinator(settings) as coordinator:
            shrink_send_buffers(coordinator)
            proxy.target = int(coordinator.authority.rpartition(":")[2])
            url = f"ws://{proxy.authority}{CONNECT_PATH}"
            async with measured_agent(url, server.url) as agent:
                await wait_for_models(coordinator)
                await proxy.next_connection()
                yield coordinator, proxy, agent


def shrink_send_buffers(coordinator: Coordinator) -> None:
    """Shrink the send buffers, which by default hold megabytes for a client that does not read."""
    (server,) = coordinator._servers
    for listener in server.sockets:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)


async def wait_for_reconnect(proxy: FaultProxy, coordinator: Coordinator) -> None:
    await proxy.next_connection()
    await wait_for_models(coordinator)


class IdleClients:
    """HTTP clients that do not read their responses until `bodies` is called."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._session = session
        self._may_read = asyncio.Event()
        self._started: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[bytes]] = []

    def send_requests(self, count: int) -> None:
        for _ in range(count):
            started = asyncio.Event()
            self._started.append(started)
            self._tasks.append(asyncio.create_task(self._run(started), name="idle client"))

    async def all_started(self) -> None:
        """Wait until every response has started."""
        for started in self._started:
            await started.wait()

    async def bodies(self) -> set[bytes]:
        """Read every response; return the distinct bodies."""
        self._may_read.set()
        return set(await asyncio.gather(*self._tasks))

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, started: asyncio.Event) -> bytes:
        messages = [{"role": "user", "content": "much"}]
        request = {"model": MODEL, "stream": True, "messages": messages}
        async with self._session.post(self._url, json=request) as response:
            assert response.status == 200
            started.set()
            await self._may_read.wait()
            return await response.read()


@asynccontextmanager
async def idle_clients(coordinator: Coordinator) -> AsyncIterator[IdleClients]:
    """Clients with small receive buffers, so that unread bytes stay in the agent."""

    def small_socket(address: tuple[object, ...]) -> socket.socket:
        small = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)
        return small

    connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=small_socket)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=16 * KIB) as session:
        clients = IdleClients(coordinator.http_url, session)
        try:
            yield clients
        finally:
            await clients.cancel()
