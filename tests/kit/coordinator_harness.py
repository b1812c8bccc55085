"""A coordinator with one scripted agent behind it and clients in front, over real sockets."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import aiohttp

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.scripted_agent import ScriptedAgent, ScriptedJob
from tests.kit.virtual_time import now

CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny"}'

QUIET = CoordinatorSettings(port=0, drain_s=0, heartbeat_ms=3_600_000)
"""Scripted agents send no heartbeats, and virtual time passes quickly."""


PATIENT = aiohttp.ClientTimeout(total=None)


class CoordinatorHarness:
    def __init__(
        self, coordinator: Coordinator, agent: ScriptedAgent, http: aiohttp.ClientSession
    ) -> None:
        self.coordinator = coordinator
        self.agent = agent
        self.http = http
        self.responses: list[aiohttp.ClientResponse] = []

    def ask(self) -> asyncio.Task[aiohttp.ClientResponse]:
        return asyncio.create_task(self._post())

    async def _post(self) -> aiohttp.ClientResponse:
        response = await self.http.post(CHAT, data=BODY)
        self.responses.append(response)
        return response

    async def streaming(self, first: bytes) -> tuple[ScriptedJob, aiohttp.ClientResponse]:
        """A job whose client has the first bytes."""
        asking = self.ask()
        job = await self.agent.next_job()
        await job.start()
        await job.send(first)
        response = await asking
        assert await response.content.readexactly(len(first)) == first
        return job, response

    def another(self, instance_id: str) -> ScriptedAgent:
        """Another process with the same key."""
        return ScriptedAgent(
            self.coordinator.connect_url, key=self.agent.key, instance_id=instance_id
        )


@contextlib.asynccontextmanager
async def coordinator_harness(
    settings: CoordinatorSettings = QUIET,
) -> AsyncIterator[CoordinatorHarness]:
    async with (
        Coordinator(settings, clock=now) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, timeout=PATIENT) as http,
        ScriptedAgent(coordinator.connect_url, instance_id="one") as agent,
    ):
        harness = CoordinatorHarness(coordinator, agent, http)
        try:
            yield harness
        finally:
            for response in harness.responses:
                response.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what only passes through sockets; each look costs virtual milliseconds."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def loud_events(records: list[logging.LogRecord]) -> list[str]:
    return [record.message for record in records if record.levelno >= logging.WARNING]
