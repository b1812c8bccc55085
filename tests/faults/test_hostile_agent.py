"""How the coordinator handles an agent that violates the protocol or sends floods of frames."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from provider_agent.conformance.hostile_messages import HOSTILE_MESSAGES, HostileMessage
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.hostile_agents import AGENT_ATTACKS, AgentAttack
from tests.kit.hostile_harness import task_names
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob

CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny","messages":[]}'


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with Coordinator(CoordinatorSettings(port=0, drain_s=0)) as running:
        yield running


@pytest.fixture
async def http(coordinator: Coordinator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as session:
        yield session


async def ask(http: aiohttp.ClientSession) -> tuple[int, bytes]:
    """Send a request; return the status and body of the response."""
    async with http.post(CHAT, data=BODY) as response:
        return response.status, await response.read()


async def check_service(coordinator: Coordinator, http: aiohttp.ClientSession) -> None:
    """Check that the coordinator serves a request once a correct agent is connected."""

    async def answer(job: ScriptedJob) -> None:
        await job.answer(b"ok", content_type="application/json")

    async with ScriptedAgent(coordinator.connect_url, answer=answer):
        assert await ask(http) == (200, b"ok")


@asynccontextmanager
async def agent_with_a_job(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> AsyncIterator[tuple[ScriptedAgent, ScriptedJob, "asyncio.Task[tuple[int, bytes]]"]]:
    """Connect an agent and send a request; yield the agent, its job and the task of the request."""
    async with ScriptedAgent(coordinator.connect_url) as agent:
        asking = asyncio.create_task(ask(http))
        yield agent, await agent.next_job(), asking
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("hostile", HOSTILE_MESSAGES, ids=lambda hostile: hostile.name)
async def test_hostile_message_is_handled_as_documented(
    coordinator: Coordinator, http: aiohttp.ClientSession, hostile: HostileMessage
) -> None:
    await check_service(coordinator, http)
    tasks = task_names()
    async with agent_with_a_job(coordinator, http) as (agent, job, asking):
        with contextlib.suppress(ConnectionClosed):
            await agent.send_raw(hostile.to_coordinator)
        if hostile.close_code is None:
            await job.answer(b"still ok", content_type="application/json")
            assert await asking == (200, b"still ok")
        else:
            await agent.closed.wait()
            assert agent.socket.close_code == hostile.close_code
    await check_service(coordinator, http)
    assert coordinator.agents() == []
    assert task_names() == tasks


@pytest.mark.parametrize("attack", AGENT_ATTACKS, ids=lambda attack: attack.name)
async def test_attack_is_handled_as_documented(
    coordinator: Coordinator, http: aiohttp.ClientSession, attack: AgentAttack
) -> None:
    await check_service(coordinator, http)
    tasks = task_names()
    async with agent_with_a_job(coordinator, http) as (agent, job, asking):
        with contextlib.suppress(ConnectionClosed):
            await attack.perform(agent, job)
        if attack.close_code is None:
            await job.answer(b"still ok", content_type="application/json")
            assert await asking == (200, b"still ok")
        else:
            await agent.closed.wait()
            assert agent.socket.close_code == attack.close_code
    await check_service(coordinator, http)
    assert coordinator.agents() == []
    assert task_names() == tasks
