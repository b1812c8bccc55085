"""A lost link is a pause for the buyer: real sockets, virtual time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp

from coordinator.server import Coordinator
from coordinator.settings import CoordinatorSettings
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time, now

CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny"}'
SETTINGS = CoordinatorSettings(port=0, drain_s=0)


class Stage:
    """A coordinator, one agent and buyers."""

    def __init__(
        self, coordinator: Coordinator, agent: ScriptedAgent, http: aiohttp.ClientSession
    ) -> None:
        self.coordinator = coordinator
        self.agent = agent
        self.http = http

    def ask(self) -> asyncio.Task[aiohttp.ClientResponse]:
        return asyncio.create_task(self.http.post(CHAT, data=BODY))


@contextlib.asynccontextmanager
async def staged(settings: CoordinatorSettings = SETTINGS) -> AsyncIterator[Stage]:
    async with (
        Coordinator(settings, clock=now) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url, instance_id="one") as agent,
    ):
        yield Stage(coordinator, agent, http)


@in_virtual_time
async def test_lost_link_is_only_a_pause() -> None:
    async with staged() as stage:
        asking = stage.ask()
        job = await stage.agent.next_job()
        await job.start()
        await job.send(b"data: 1\n\n")
        response = await asking
        await stage.agent.lose_link()
        await job.send(b"data: 2\n\n")
        await asyncio.sleep(50)
        assert stage.coordinator.agents() == []
        (parked,) = stage.coordinator.parked()
        assert parked.jobs == 1
        await stage.agent.redial()
        assert stage.coordinator.parked() == []
        await job.send(b"data: 3\n\n")
        await job.finish()
        assert await response.read() == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
        await job.done.wait()
        assert stage.coordinator.agents()[0].in_flight == 0
