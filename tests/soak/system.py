"""The system under test of a soak run, in one process.

::

    clients ──▶ coordinator ◀──link proxy── two agents ──┬──backend proxy──▶ server
                                                         └──▶ echo
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import KIB
from tests.kit.cli_agent import free_ports
from tests.kit.fault_proxy import ConnectPolicy, FaultProxy
from tests.soak.counts import Counts
from tests.soak.managed_agent import ManagedAgent
from tests.soak.server import SoakServer

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

IDLE_WITHIN_S = 90.0
"""How long `wait_until_idle` waits: above the longest backoff plus the longest timeout of a job."""


class System:
    """Two agents, a coordinator and a server, with a proxy on each connection between them."""

    def __init__(self, rng: random.Random, counts: Counts) -> None:
        self.rng = rng
        self.counts = counts
        self.server = SoakServer(rng)
        self.agents: list[ManagedAgent] = []
        self.coordinator: Coordinator
        self._settings = SETTINGS
        self._restarting_coordinator = asyncio.Lock()
        self._restarting_server = asyncio.Lock()

    @property
    def url(self) -> str:
        """The coordinator's URL for clients."""
        return self.coordinator.http_url

    @property
    def proxies(self) -> list[FaultProxy]:
        """The proxies of all agents."""
        pairs = ((one.link, one.backend_proxy) for one in self.agents)
        return [proxy for pair in pairs for proxy in pair]

    async def restart_coordinator(self, down_s: float) -> None:
        """Stop the coordinator; after `down_s`, start a new one, which remembers no session."""
        async with self._restarting_coordinator:
            await self.coordinator.stop()
            await asyncio.sleep(down_s)
            await self._start_coordinator()

    async def restart_server(self, down_s: float) -> None:
        """Kill the inference server, and start it again after `down_s`."""
        async with self._restarting_server:
            await self.server.kill()
            await asyncio.sleep(down_s)
            await self._start_server()

    def repair(self) -> None:
        """End every fault, and cut every connection, because some are stalled or blackholed."""
        for proxy in self.proxies:
            proxy.connect_policy = ConnectPolicy.FORWARD
            proxy.on_connection = lambda _connection: None
            proxy.listen()
            proxy.cut()

    async def wait_until_idle(self) -> None:
        """Wait until nothing runs and every agent is connected.

        Record a defect and return if that takes longer than `IDLE_WITHIN_S`.
        """
        await self._until(lambda: not self._busy())

    def _busy(self) -> list[object]:
        """Return what is not idle."""
        agents = self.coordinator.agents()
        return [
            *(one.service for one in self.agents if one.service.outbox.streams),
            *(one.service for one in self.agents if one.service.jobs.in_flight),
            *(one.service for one in self.agents if not one.service.uplink.connected.is_set()),
            # A backend that is down has no idle connection of health checks, as a healthy one has.
            *(
                backend
                for one in self.agents
                for backend in one.service.status().backends
                if not backend.healthy
            ),
            *(agent for agent in agents if agent.in_flight or agent.retired),
            *self.coordinator.detached_sessions(),
            *(["the server"] if self.server.active else []),
            *(["too few agents"] if sum(bool(agent.models) for agent in agents) < 2 else []),
        ]

    async def _until(self, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(IDLE_WITHIN_S):
                while not holds():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self.counts.add_defect(f"not idle after {IDLE_WITHIN_S:.0f} s: {self._busy()}")

    async def _start_coordinator(self) -> None:
        self.coordinator = Coordinator(self._settings)
        await self.coordinator.start()
        for one in self.agents:
            one.link.target = int(self.coordinator.authority.rpartition(":")[2])

    async def _start_server(self) -> None:
        await self.server.start()
        for one in self.agents:
            one.backend_proxy.target = self.server.port

    async def start(self, stack: AsyncExitStack) -> None:
        """Start everything; when `stack` closes, it stops everything."""
        await self._start_server()
        stack.push_async_callback(self.server.kill)
        folder = Path(stack.enter_context(TemporaryDirectory()))
        for n, port in enumerate(free_ports(2)):
            link = await stack.enter_async_context(FaultProxy())
            proxy = await stack.enter_async_context(FaultProxy(self.server.port))
            rng = random.Random(f"{self.rng.random()}/{n}")
            (folder / f"{n}").mkdir()
            agent = ManagedAgent(
                link, proxy, rng, self.counts, status_port=port, folder=folder / f"{n}"
            )
            self.agents.append(agent)
        authorities = tuple(one.link.authority for one in self.agents)
        self._settings = replace(SETTINGS, authorities=authorities)
        await self._start_coordinator()
        stack.push_async_callback(lambda: self.coordinator.stop())
        for one in self.agents:
            one.start()
            stack.push_async_callback(one.stop, force=True)
        await self.wait_until_idle()


@asynccontextmanager
async def running_system(rng: random.Random, counts: Counts) -> AsyncIterator[System]:
    """Start a system; yield once every agent is connected."""
    async with AsyncExitStack() as stack:
        system = System(rng, counts)
        await system.start(stack)
        yield system
