"""A coordinator, one scripted agent and HTTP clients, connected over loopback."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob
from tests.kit.virtual_time import now

CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny"}'

JSON_HEADERS = {"Content-Type": "application/json"}

NO_HEARTBEATS = CoordinatorSettings(port=0, drain_s=0, heartbeat_ms=3_600_000)
"""Scripted agents send no heartbeats, so the coordinator must not expect one during a test."""

NO_TIMEOUT = aiohttp.ClientTimeout(total=None)


class CoordinatorHarness:
    """A running coordinator, one connected agent and an HTTP client."""

    def __init__(
        self, coordinator: Coordinator, agent: ScriptedAgent, http: aiohttp.ClientSession
    ) -> None:
        self.coordinator = coordinator
        self.agent = agent
        self.http = http
        self.responses: list[aiohttp.ClientResponse] = []

    def ask(self) -> asyncio.Task[aiohttp.ClientResponse]:
        """Send a request in a task, which returns the response when the headers have arrived."""
        return asyncio.create_task(self._post())

    async def _post(self) -> aiohttp.ClientResponse:
        response = await self.http.post(CHAT, data=BODY)
        self.responses.append(response)
        return response

    async def start_response(self, first: bytes) -> tuple[ScriptedJob, aiohttp.ClientResponse]:
        """Send a request, and answer it with `first`; return when the client has read `first`."""
        asking = self.ask()
        job = await self.agent.next_job()
        await job.start()
        await job.send(first)
        response = await asking
        assert await response.content.readexactly(len(first)) == first
        return job, response

    def other_process(self, instance_id: str, *, replace: bool = True) -> ScriptedAgent:
        """Create an agent that imitates a process with the same key; the caller connects it."""
        return ScriptedAgent(
            self.coordinator.connect_url,
            key=self.agent.key,
            instance_id=instance_id,
            replace=replace,
        )


@contextlib.asynccontextmanager
async def coordinator_harness(
    settings: CoordinatorSettings = NO_HEARTBEATS, features: Sequence[str] = ()
) -> AsyncIterator[CoordinatorHarness]:
    """Run a coordinator with one connected agent, and close all responses at the end."""
    async with (
        Coordinator(settings, clock=now) as coordinator,
        aiohttp.ClientSession(
            coordinator.http_url, headers=JSON_HEADERS, timeout=NO_TIMEOUT
        ) as http,
        ScriptedAgent(coordinator.connect_url, instance_id="one", features=features) as agent,
    ):
        harness = CoordinatorHarness(coordinator, agent, http)
        try:
            yield harness
        finally:
            for response in harness.responses:
                response.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    """Poll a condition every virtual millisecond, because no event reports it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def warning_events(records: list[logging.LogRecord]) -> list[str]:
    """Return the messages of the records with level WARNING or above."""
    return [record.message for record in records if record.levelno >= logging.WARNING]
