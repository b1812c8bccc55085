"""The system under test.

::

    clients ──▶ load balancer ──▶ three coordinators ◀──load balancer──link proxies── four agents
                                          │                                              │
                                         NATS                                       ┌────┴────┐
                                                                                 server     echo
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

from provider_agent.agent.service import EXIT_OK, EXIT_UNDELIVERED
from tests.kit.cli_agent import free_ports
from tests.kit.fault_proxy import FaultProxy
from tests.kit.load_balancer import LoadBalancer
from tests.kit.nats_server import NatsServer, nats_server
from tests.soak.cluster.process import ManagedProcess, ProcessFootprint
from tests.soak.counts import Counts
from tests.soak.server import SoakServer

IDLE_WITHIN_S = 180.0
"""How long `wait_until_idle` waits: above the 60 s of a detached session, the 30 s of the queue and
the longest backoff of an agent, 60 s."""

SETTLE_S = 30.0
"""Time for kept-alive connections to close and for timers to end."""

AGENT_DRAIN_S = 5.0

_BAD_LINE = re.compile(r".*(?: ERROR (?!.* jobs not delivered )|Traceback).*")
"""An agent that stops logs that it did not wait for all jobs."""

_RESUMED = re.compile(r" connected .* resumed=[1-9]")
"""In the log of an agent."""

_AGENT = """\
[coordinator]
url = "ws://{link}/provider/connect"

[identity]
key_path = "{folder}/{name}.key"

[[backends]]
kind = "openai_compatible"
url = "http://127.0.0.1:{server}"
formats = ["openai", "anthropic"]
max_concurrent = 64

[[backends]]
kind = "echo"

[limits]
max_concurrent = 32
drain_timeout_s = {drain_s}

[observability]
prometheus_addr = "127.0.0.1:{port}"
"""

_ZERO_AT_COORDINATORS = (
    "coordinator_jobs",
    "coordinator_detached_sessions",
    "coordinator_queued",
    "coordinator_running_requests",
    "coordinator_held_request_bytes",
    "coordinator_cluster_sent_jobs",
    "coordinator_cluster_received_jobs",
)


class Fleet:
    """Coordinators and agents, with what is between them.

    Attributes:
        nats: the NATS server.
        server: the inference server, in this process.
        balancer: between clients or links and coordinators.
        links: the proxy between each agent and the load balancer.
        coordinators: their processes.
        agents: their processes.
        counts: records defects.
        drain_s: `--drain-timeout` of a coordinator that starts; None: the default.
    """

    def __init__(self, nats: NatsServer, rng: random.Random, counts: Counts, folder: Path) -> None:
        self.nats = nats
        self.rng = rng
        self.counts = counts
        self.server = SoakServer(rng)
        self.balancer: LoadBalancer
        self.links: list[FaultProxy] = []
        self.coordinators: list[ManagedProcess] = []
        self.agents: list[ManagedProcess] = []
        self.drain_s: float | None = None
        self._folder = folder
        self._restarting_nats = asyncio.Lock()

    @property
    def processes(self) -> list[ManagedProcess]:
        """The coordinators and the agents."""
        return [*self.coordinators, *self.agents]

    async def start(self, stack: AsyncExitStack, coordinators: int, agents: int) -> None:
        """Start everything; when `stack` closes, it stops everything."""
        await stack.enter_async_context(self.server)
        ports = free_ports(coordinators + agents)
        self.balancer = await stack.enter_async_context(LoadBalancer(ports[:coordinators]))
        for _ in range(agents):
            self.links.append(await stack.enter_async_context(FaultProxy(self.balancer.agent_port)))
        for number, port in enumerate(ports[:coordinators], 1):
            self.coordinators.append(self._coordinator(number, port))
        for number, port in enumerate(ports[coordinators:], 1):
            self.agents.append(self._agent(number, port))
        for process in self.processes:
            stack.push_async_callback(process.stop, SIGKILL)
        for group in (self.coordinators, self.agents):
            await asyncio.gather(*(process.start() for process in group))
        await self.wait_until_idle()

    async def restart(self, process: ManagedProcess, number: Signals) -> None:
        """End a process by a signal, and start it again at once."""
        async with process.restarting:
            try:
                code = await process.stop(number)
            except TimeoutError:
                self.counts.add_defect(f"{process.name} did not stop within its drain timeout")
            else:
                allowed = (EXIT_OK, EXIT_UNDELIVERED) if process in self.agents else (EXIT_OK,)
                if number is SIGTERM and code not in allowed:
                    self.counts.add_defect(f"{process.name} exited with {code} after SIGTERM")
            if process in self.coordinators:
                process.drain_s = 10.0 if self.drain_s is None else self.drain_s
            await process.start()

    async def restart_nats(self, down_s: float) -> None:
        """Kill NATS, and start it again after `down_s`."""
        async with self._restarting_nats:
            await self.nats.stop()
            await asyncio.sleep(down_s)
            await self.nats.start()

    async def suspend_nats(self, seconds: float) -> None:
        """Suspend NATS for a while."""
        async with self._restarting_nats:
            self.nats.suspend()
            await asyncio.sleep(seconds)
            self.nats.resume()

    def repair(self) -> None:
        """End every fault of the links."""
        for link in self.links:
            link.listen()
            link.cut()

    async def wait_until_idle(self) -> None:
        """Wait until nothing runs, every agent is connected, and every coordinator knows all.

        Record a defect and return if that takes longer than `IDLE_WITHIN_S`.
        """
        busy: Sequence[str] = ()
        try:
            async with asyncio.timeout(IDLE_WITHIN_S):
                while busy := await self._busy():  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
        except TimeoutError:
            self.counts.add_defect(f"not idle after {IDLE_WITHIN_S:.0f} s: {', '.join(busy)}")

    async def _busy(self) -> list[str]:
        """Return what is not idle."""
        busy = ["the server"] if self.server.active else []
        if self.balancer.ready < len(self.coordinators):
            busy.append(f"the load balancer sees {self.balancer.ready} coordinators")
        for process in self.coordinators:
            values = await process.metrics()
            wanted = {
                **dict.fromkeys(_ZERO_AT_COORDINATORS, 0),
                "coordinator_cluster_connected": 1,
                "coordinator_cluster_coordinators": len(self.coordinators) - 1,
                "coordinator_cluster_agents": len(self.agents)
                - values.get("coordinator_agents", 0),
            }
            busy += _differences(process, values, wanted)
        for process in self.agents:
            wanted = {
                "provider_agent_in_flight": 0,
                "provider_agent_link_up": 1,
                "provider_agent_backend_up": 2,
            }
            busy += _differences(process, await process.metrics(), wanted)
        return busy

    async def footprints(
        self, start: dict[str, ProcessFootprint] | None = None
    ) -> dict[str, ProcessFootprint]:
        """Measure every process when it is settled: no later than when it shows no growth."""
        until = asyncio.get_running_loop().time() + SETTLE_S
        while True:
            now = {process.name: await process.footprint() for process in self.processes}
            late = asyncio.get_running_loop().time() >= until
            if late or (start and not any(now[name].leaks_since(start[name]) for name in now)):
                return now
            await asyncio.sleep(SETTLE_S / 6)

    def check_processes(self) -> None:
        """Record processes that ended, lines about errors in the logs, and resumed sessions."""
        for process in self.processes:
            if process.exited:
                self.counts.add_defect(f"{process.name} has exited")
            log = process.new_log()
            self.counts.resumed += len(_RESUMED.findall(log))
            for line in _BAD_LINE.findall(log):
                self.counts.add_defect(f"{process.name}: {line}")

    def _coordinator(self, number: int, port: int) -> ManagedProcess:
        def arguments() -> list[str]:
            drain = [] if self.drain_s is None else [f"--drain-timeout={self.drain_s}"]
            return [
                "coordinator",
                f"--port={port}",
                f"--cluster={self.nats.url}",
                *(f"--authority={link.authority}" for link in self.links),
                *drain,
            ]

        return ManagedProcess(
            f"coordinator-{number}", arguments, port=port, folder=self._folder, drain_s=10
        )

    def _agent(self, number: int, port: int) -> ManagedProcess:
        name = f"agent-{number}"
        config = self._folder / f"{name}.toml"
        text = _AGENT.format(
            link=self.links[number - 1].authority,
            folder=self._folder,
            name=name,
            server=self.server.port,
            drain_s=AGENT_DRAIN_S,
            port=port,
        )
        config.write_text(text, "utf-8")
        return ManagedProcess(
            name,
            lambda: ["run", "--config", config],
            port=port,
            folder=self._folder,
            drain_s=AGENT_DRAIN_S,
        )


def _differences(
    process: ManagedProcess, values: dict[str, float], wanted: dict[str, float]
) -> list[str]:
    if not values:
        return [f"{process.name} does not answer"]
    return [
        f"{process.name} has {name} {values.get(name)} instead of {value}"
        for name, value in wanted.items()
        if values.get(name) != value
    ]


@asynccontextmanager
async def running_fleet(
    rng: random.Random, counts: Counts, folder: Path, *, coordinators: int = 3, agents: int = 4
) -> AsyncIterator[Fleet]:
    """Start a fleet; yield once every coordinator knows every agent. Logs are in `folder`."""
    async with nats_server() as nats, AsyncExitStack() as stack:
        fleet = Fleet(nats, rng, counts, folder)
        await fleet.start(stack, coordinators, agents)
        yield fleet
