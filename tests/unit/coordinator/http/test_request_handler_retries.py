import asyncio

import aiohttp
import msgspec

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_job import ScriptedJob
from tests.unit.coordinator.http.chat_requests import post_chat


async def test_request_is_sent_to_another_agent_when_the_agent_is_lost_before_output(
    settings: CoordinatorSettings,
) -> None:
    async with (
        Coordinator(msgspec.structs.replace(settings, resume_ms=0)) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as one,
        ScriptedAgent(coordinator.connect_url) as two,
    ):
        first, second = sorted((one, two), key=lambda agent: agent.public_key)
        asking = asyncio.create_task(post_chat(http))
        await first.next_job()
        first.cut()
        job = await second.next_job()
        await job.answer(b"data: ok\n\n")
        assert await (await asking).read() == b"data: ok\n\n"
        assert coordinator.counters.retried == 1


async def test_retryable_error_is_returned_after_one_job_on_each_agent(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail("backend_overloaded", retry_after_ms=4200)

    async with (
        ScriptedAgent(coordinator.connect_url, answer=answer) as one,
        ScriptedAgent(coordinator.connect_url, answer=answer) as two,
    ):
        response = await post_chat(http)
        assert response.status == 503
        assert response.headers["Retry-After"] == "5"
        assert (len(one.jobs), len(two.jobs)) == (1, 1)
        assert one.jobs.keys() != two.jobs.keys()


async def test_number_of_agents_tried_per_request_is_limited(settings: CoordinatorSettings) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail("internal")

    bounded = msgspec.structs.replace(settings, max_attempts=2)
    async with (
        Coordinator(bounded) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url, answer=answer) as one,
        ScriptedAgent(coordinator.connect_url, answer=answer) as two,
        ScriptedAgent(coordinator.connect_url, answer=answer) as three,
    ):
        response = await post_chat(http)
        assert response.status == 500
        assert sum(len(agent.jobs) for agent in (one, two, three)) == 2


async def test_invalid_request_is_not_sent_to_another_agent(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async def answer(job: ScriptedJob) -> None:
        await job.fail("bad_request", upstream_status=400)

    async with (
        ScriptedAgent(coordinator.connect_url, answer=answer) as one,
        ScriptedAgent(coordinator.connect_url, answer=answer) as two,
    ):
        response = await post_chat(http)
        assert response.status == 400
        assert len(one.jobs) + len(two.jobs) == 1


async def test_agents_at_capacity_receive_no_job(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url, max_concurrent=1) as agent:
        asking = asyncio.create_task(post_chat(http))
        job = await agent.next_job()
        response = await post_chat(http)
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert (await response.json())["error"]["code"] == "out_of_capacity"
        await job.answer(b"{}")
        assert (await asking).status == 200
