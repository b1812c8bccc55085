"""Three coordinators, four agents and 24 clients, through stops, crashes and losses at random."""

import asyncio
import contextlib
import functools
import random
from collections import Counter

import aiohttp
import pytest
from msgspec.structs import replace
from websockets.exceptions import WebSocketException

from provider_agent.coordinator import drain
from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.server import Coordinator
from provider_agent.protocol.state import State
from tests.kit.cluster_harness import member_of, wait_until
from tests.kit.coordinator_harness import CHAT, JSON_HEADERS, NO_HEARTBEATS, NO_TIMEOUT
from tests.kit.nats_server import NatsServer, nats_server
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob

INTERVAL_S = 0.5
FAULTS = ["stop", "crash", "nats", "partition"] * 2
CLIENTS = 24
AGENTS = 4


@pytest.fixture(autouse=True)
def short_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "LOAD_BALANCER_S", 1.0)


def answer_of(request: bytes) -> bytes:
    """The response to a request: up to 100 KB, so that some need several windows."""
    chance = random.Random(request)
    return chance.randbytes(chance.randrange(1, 100_000))


class Fleet:
    """Coordinators that are replaced when they stop, and agents that dial any of them."""

    def __init__(self, nats: NatsServer, chance: random.Random) -> None:
        self.nats = nats
        self.chance = chance
        cluster = ClusterSettings(urls=(nats.url,), interval_s=INTERVAL_S)
        self.settings = replace(
            NO_HEARTBEATS,
            cluster=cluster,
            window_bytes=32 * 1024,
            resume_ms=2000,
            queue_s=5,
            drain_s=0,
        )
        self.coordinators: list[Coordinator] = []
        self.starts = Counter[bytes]()
        self.outcomes = Counter[str]()
        self.stopping = False
        self.agents_leave = False
        self.resumed = 0
        """How often an agent with jobs has connected again."""

    async def start(self) -> None:
        coordinator = Coordinator(self.settings)
        await coordinator.start()
        self.coordinators.append(coordinator)

    async def run_agent(self) -> None:
        while not self.agents_leave:
            coordinator = self.chance.choice(self.coordinators)
            with contextlib.suppress(OSError, WebSocketException):
                async with ScriptedAgent(coordinator.connect_url, answer=self.answer) as agent:
                    await self._serve(agent)
            await asyncio.sleep(0.02)

    async def _serve(self, agent: ScriptedAgent) -> None:
        """Return when the agent has no jobs and its coordinator stops, or it cannot resume."""
        while True:
            await wait_until(lambda: self.agents_leave or _may_leave(agent))
            if not agent.closed.is_set():
                return
            welcome = agent.protocol.welcome
            for _ in range(20):
                await asyncio.sleep(0.02)
                agent.protocol.welcome = welcome
                url = self.chance.choice(self.coordinators).connect_url
                with contextlib.suppress(OSError, WebSocketException):
                    await agent.reconnect(connect_url=url)
                if agent.protocol.state is State.OPEN:
                    break
            else:
                return
            self.resumed += any(not job.dropped for job in agent.jobs.values())

    async def answer(self, job: ScriptedJob) -> None:
        self.starts[job.job.job_id] += 1
        data = answer_of(job.job.request)
        pause_s = self.chance.choice([0, 0, 0, 0.1])
        with _lost_link():
            await job.start(content_type="application/octet-stream")
        while data and not (job.cancelled.is_set() or job.dropped):
            size = self.chance.randrange(1, 40_000)
            with _lost_link():
                await job.send(data[:size])
            data = data[size:]
            await asyncio.sleep(pause_s)
        with _lost_link():
            await (job.fail("cancelled") if data else job.finish())
        # What was written while the link was lost may be more than a window.
        while not (job.done.is_set() or job.dropped):
            with _lost_link():
                await job.send_ready()
            await asyncio.sleep(0.02)

    async def run_client(self, number: int) -> None:
        count = 0
        while not self.stopping:
            count += 1
            body = b'{"model":"tiny","number":"%d.%d"}' % (number, count)
            url = self.chance.choice(self.coordinators).http_url
            outcome = await self._ask(url, body)
            self.outcomes[outcome] += 1
            if outcome != "complete":
                await asyncio.sleep(0.05)

    async def _ask(self, url: str, body: bytes) -> str:
        try:
            async with (
                aiohttp.ClientSession(url, headers=JSON_HEADERS, timeout=NO_TIMEOUT) as client,
                client.post(CHAT, data=body) as response,
            ):
                received = await response.read()
        except aiohttp.ClientError:
            return "interrupted"
        if response.status != 200:
            return f"{response.status} {received.decode()}"
        assert received == answer_of(body)
        return "complete"

    async def wait_for_answers(self, count: int) -> None:
        """Wait until so many more answers are complete."""
        enough = self.outcomes["complete"] + count
        await wait_until(lambda: self.outcomes["complete"] >= enough)

    async def fault(self, kind: str) -> None:
        coordinator = self.chance.choice(self.coordinators)
        match kind:
            case "stop":
                self.coordinators.remove(coordinator)
                await coordinator.stop()
                await self.start()
            case "crash":  # the others notice only its silence
                await _disconnect(coordinator)
                self.coordinators.remove(coordinator)
                await coordinator.stop()
                await self.start()
            case "nats":
                await self.nats.stop()
                members = [member_of(each) for each in self.coordinators]
                await wait_until(lambda: not any(member.is_connected for member in members))
                await self.nats.start()
            case "partition":  # messages are lost without any notice
                member = member_of(coordinator)
                member.next_message()
                member.next_message()


def _lost_link() -> contextlib.AbstractContextManager[None]:
    """Ignore that the link is lost: the next one resumes the job."""
    return contextlib.suppress(WebSocketException)


def _may_leave(agent: ScriptedAgent) -> bool:
    """Whether the link has ended, or the agent has finished its jobs after `Drain`."""
    is_idle = all(job.done.is_set() for job in agent.jobs.values())
    return agent.closed.is_set() or (agent.drain is not None and is_idle)


def _is_idle(member: ClusterMember) -> bool:
    return len(member.edge) == len(member.holder) == 0


async def _disconnect(coordinator: Coordinator) -> None:
    assert coordinator._cluster is not None
    await coordinator._cluster._connection.close()


@pytest.mark.timeout(120)
async def test_every_complete_answer_has_all_bytes_and_no_job_runs_twice() -> None:
    async with nats_server() as nats:
        fleet = Fleet(nats, random.Random(3))
        for _ in range(3):
            await fleet.start()
        agents = [asyncio.create_task(fleet.run_agent()) for _ in range(AGENTS)]
        clients = [asyncio.create_task(fleet.run_client(number)) for number in range(CLIENTS)]
        for kind in fleet.chance.sample(FAULTS, len(FAULTS)):
            await fleet.wait_for_answers(40)
            await fleet.fault(kind)
        fleet.stopping = True
        await asyncio.gather(*clients)
        for coordinator in fleet.coordinators:
            await wait_until(functools.partial(_is_idle, member_of(coordinator)))
        # A cancellation while they dial would leave their sockets open.
        fleet.agents_leave = True
        await asyncio.gather(*agents)
        for coordinator in fleet.coordinators:
            await coordinator.stop()
        assert max(fleet.starts.values()) == 1
        assert fleet.resumed
