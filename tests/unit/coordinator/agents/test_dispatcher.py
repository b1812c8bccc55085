"""Requests that wait for room, and refusals. Real sockets, virtual time."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.agents.dispatcher import UNKNOWN_RETRY_S
from provider_agent.coordinator.agents.missing_models import START_GRACE_S
from provider_agent.coordinator.agents.waiting_requests import Wanted
from provider_agent.coordinator.http.job_attempts import MAX_REFUSALS
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.sessions.detached_sessions import LOST_AFTER_S
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.job import Job
from tests.kit.coordinator_harness import (
    CHAT,
    JSON_HEADERS,
    NO_HEARTBEATS,
    CoordinatorHarness,
    coordinator_harness,
    wait_until,
)
from tests.kit.scripted_agent import ScriptedAgent, offer
from tests.kit.scripted_job import ScriptedJob
from tests.kit.virtual_time import in_virtual_time, now

ONE_SLOT = [offer(max_concurrent=1)]


async def fill(
    harness: CoordinatorHarness,
) -> tuple[ScriptedJob, asyncio.Task[aiohttp.ClientResponse]]:
    """Reduce the agent to one slot for the model, and send it a job."""
    await harness.agent.advertise(*ONE_SLOT)
    await harness.agent.settle()
    asking = harness.ask()
    return await harness.agent.next_job(), asking


async def queued(harness: CoordinatorHarness, count: int) -> None:
    await wait_until(lambda: harness.coordinator.queued == count)


@in_virtual_time
async def test_request_without_room_waits_for_the_end_of_a_job() -> None:
    async with coordinator_harness() as harness:
        first, asking = await fill(harness)
        waiting = harness.ask()
        await queued(harness, 1)
        await first.answer(b"1")
        second = await harness.agent.next_job()
        await second.answer(b"2")
        assert await (await asking).read() == b"1"
        assert await (await waiting).read() == b"2"
        assert harness.coordinator.queued == 0


@in_virtual_time
async def test_request_without_room_is_sent_to_a_new_agent() -> None:
    async with coordinator_harness() as harness:
        await fill(harness)
        waiting = harness.ask()
        await queued(harness, 1)
        async with ScriptedAgent(harness.coordinator.connect_url) as other:
            await (await other.next_job()).answer(b"2")
            assert await (await waiting).read() == b"2"


@in_virtual_time
async def test_request_waits_while_its_only_agent_restarts() -> None:
    async with coordinator_harness() as harness:
        asking = harness.ask()
        await (await harness.agent.next_job()).answer(b"1")
        assert await (await asking).read() == b"1"
        await harness.agent.socket.close()
        await wait_until(lambda: not harness.coordinator.agents())
        asking = harness.ask()
        await queued(harness, 1)
        async with harness.other_process("two") as restarted:
            await (await restarted.next_job()).answer(b"2")
            assert await (await asking).read() == b"2"


@in_virtual_time
async def test_request_waits_for_the_first_agent_after_a_restart_of_the_coordinator() -> None:
    async with (
        Coordinator(NO_HEARTBEATS, clock=now) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
    ):
        known = asyncio.create_task(http.post(CHAT, data=b'{"model":"tiny"}'))
        unknown = asyncio.create_task(http.post(CHAT, data=b'{"model":"unknown"}'))
        await wait_until(lambda: coordinator.queued == 2)
        async with ScriptedAgent(coordinator.connect_url) as agent:
            await (await agent.next_job()).answer(b"ok")
            assert await (await known).read() == b"ok"
            assert (await unknown).status == 404


@in_virtual_time
async def test_request_does_not_wait_for_an_agent_that_nobody_started() -> None:
    """It hung for 30 s."""
    async with (
        Coordinator(NO_HEARTBEATS, clock=now) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
    ):
        started_at = now()
        response = await http.post(CHAT, data=b'{"model":"tiny"}')
        assert response.status == 503
        assert START_GRACE_S <= now() - started_at < START_GRACE_S + 2
        at_once_from = now()
        response = await http.post(CHAT, data=b'{"model":"tiny"}')
        assert (response.status, now()) == (503, at_once_from)
        assert response.headers["Retry-After"]
        assert "No provider is connected" in await response.text()


@in_virtual_time
async def test_full_agents_do_not_hide_a_free_one() -> None:
    # Regression: each full agent refused the job, and after three refusals the client got 503.
    async def refuse(job: ScriptedJob) -> None:
        await job.fail("out_of_capacity")

    async with coordinator_harness() as harness:
        await harness.agent.advertise()
        url = harness.coordinator.connect_url
        fulls = [ScriptedAgent(url, answer=refuse) for _ in range(4)]
        free = ScriptedAgent(url, models=ONE_SLOT, max_concurrent=1)
        async with fulls[0], fulls[1], fulls[2], fulls[3], free:
            for _ in range(8):
                asking = harness.ask()
                await (await free.next_job()).answer(b"ok")
                assert await (await asking).read() == b"ok"
        assert [len(agent.jobs) for agent in fulls] == [1] * 4, "a refusal was not remembered"


@in_virtual_time
async def test_agent_that_refused_a_job_receives_it_when_it_has_room() -> None:
    async with coordinator_harness() as harness:
        asking = harness.ask()
        refused = await harness.agent.next_job()
        await refused.fail("out_of_capacity", retry_after_ms=4000)
        started_at = now()
        job = await harness.agent.next_job()
        assert 4.0 <= now() - started_at < 5.0
        assert job.job.job_id != refused.job.job_id
        await job.answer(b"ok")
        assert await (await asking).read() == b"ok"


async def start_new_session(agent: ScriptedAgent) -> None:
    await agent.reconnect(resume=False)
    await agent.advertise(*agent.models)


async def resume_session(agent: ScriptedAgent) -> None:
    await agent.lose_link()
    await agent.reconnect()
    await agent.advertise(*agent.models)


async def offer_more_slots(agent: ScriptedAgent) -> None:
    agent.max_concurrent *= 2
    await agent.advertise(*agent.models)


async def repeat_the_offer(agent: ScriptedAgent) -> None:
    await agent.advertise(*agent.models)


@pytest.mark.parametrize(
    ("change", "refused_s"),
    [(start_new_session, 0), (offer_more_slots, 0), (resume_session, 20), (repeat_the_offer, 20)],
)
def test_new_offers_end_a_refusal(
    change: Callable[[ScriptedAgent], Awaitable[None]], refused_s: int
) -> None:
    # Regression: an agent that was restarted after a refusal received no jobs for up to 30 s.
    @in_virtual_time
    async def run() -> None:
        async with coordinator_harness() as harness:
            asking = harness.ask()
            refused = await harness.agent.next_job()
            await refused.fail("out_of_capacity", retry_after_ms=20_000)
            await queued(harness, 1)
            began = now()
            await change(harness.agent)
            await (await harness.agent.next_job()).answer(b"ok")
            assert now() - began == pytest.approx(refused_s, abs=1)
            assert await (await asking).read() == b"ok"

    run()


@in_virtual_time
async def test_refused_request_is_sent_before_younger_ones() -> None:
    async with coordinator_harness() as harness:
        await harness.agent.advertise(*ONE_SLOT)
        older = harness.ask()
        refused = await harness.agent.next_job()
        await refused.fail("out_of_capacity", retry_after_ms=4000)
        await queued(harness, 1)
        younger = harness.ask()
        await queued(harness, 2)
        again = await harness.agent.next_job()
        await again.fail("out_of_capacity", retry_after_ms=4000)
        await queued(harness, 2)
        await (await harness.agent.next_job()).answer(b"first")
        assert await (await older).read() == b"first"
        await (await harness.agent.next_job()).answer(b"second")
        assert await (await younger).read() == b"second"


@in_virtual_time
async def test_waiting_ends_with_503_and_an_estimate_of_the_wait() -> None:
    async with coordinator_harness() as harness:
        for _ in range(6):
            job, asking = await fill(harness)
            await asyncio.sleep(5.0)
            await job.answer(b"ok")
            await (await asking).read()
        await fill(harness)
        asked_at = now()
        response = await harness.ask()
        assert response.status == 503
        assert now() - asked_at == pytest.approx(NO_HEARTBEATS.queue_s, abs=0.1)
        assert (await response.json())["error"]["code"] == "out_of_capacity"
        assert 10 <= int(response.headers["Retry-After"]) <= 60


async def refuse(job: ScriptedJob) -> None:
    await job.fail("out_of_capacity", retry_after_ms=0)


@in_virtual_time
async def test_refusals_of_one_agent_neither_end_the_wait_nor_shorten_retry_after() -> None:
    # Regression: the request ended after 32 refusals in 3 s, and `Retry-After` was 0, the agent's
    # own value.
    async with coordinator_harness() as harness:
        await fill(harness)
        async with ScriptedAgent(harness.coordinator.connect_url, answer=refuse) as refusing:
            asked_at = now()
            response = await harness.ask()
            assert response.status == 503
            assert now() - asked_at > NO_HEARTBEATS.queue_s - 3
            assert len(refusing.jobs) > 20
            assert response.headers["Retry-After"] == str(UNKNOWN_RETRY_S)


@in_virtual_time
async def test_refusals_of_many_agents_do_not_end_the_wait() -> None:
    # Regression: 48 refusals ended a request; two agents of one operator sent them in 25 s.
    async with coordinator_harness() as harness, contextlib.AsyncExitStack() as agents:
        first, _ = await fill(harness)
        url = harness.coordinator.connect_url
        refusing = [
            await agents.enter_async_context(ScriptedAgent(url, answer=refuse)) for _ in range(3)
        ]
        waiting = harness.ask()
        await asyncio.sleep(NO_HEARTBEATS.queue_s - 1)
        assert sum(len(agent.jobs) for agent in refusing) > MAX_REFUSALS
        await first.answer(b"1")
        await (await harness.agent.next_job()).answer(b"2")
        assert await (await waiting).read() == b"2"


@in_virtual_time
async def test_refusals_of_each_agent_are_limited() -> None:
    async with coordinator_harness(replace(NO_HEARTBEATS, queue_s=600.0)) as harness:
        first, _ = await fill(harness)
        async with ScriptedAgent(harness.coordinator.connect_url, answer=refuse) as refusing:
            waiting = harness.ask()
            await asyncio.sleep(500)
            assert len(refusing.jobs) == MAX_REFUSALS
            await first.answer(b"1")
            await (await harness.agent.next_job()).answer(b"2")
            assert await (await waiting).read() == b"2"


@in_virtual_time
async def test_agent_that_refuses_after_the_wait_is_not_asked_again() -> None:
    async with coordinator_harness(replace(NO_HEARTBEATS, queue_s=0)) as harness:
        await harness.agent.advertise()
        url = harness.coordinator.connect_url
        async with (
            ScriptedAgent(url, answer=refuse) as one,
            ScriptedAgent(url, answer=refuse) as two,
        ):
            assert (await harness.ask()).status == 503
            assert (len(one.jobs), len(two.jobs)) == (1, 1)


@in_virtual_time
async def test_client_that_disconnects_leaves_the_queue_and_causes_no_job() -> None:
    async with coordinator_harness() as harness:
        first, _ = await fill(harness)
        waiting = harness.ask()
        await queued(harness, 1)
        waiting.cancel()
        await queued(harness, 0)
        await first.answer(b"1")
        await harness.agent.settle()
        assert len(harness.agent.jobs) == 1


@in_virtual_time
async def test_client_that_disconnects_while_its_job_is_sent_cancels_the_job() -> None:
    async with coordinator_harness() as harness:
        first, _ = await fill(harness)
        dispatcher = harness.coordinator._dispatcher

        def make_job() -> Job:
            waiting.cancel()
            return Job(bytes(16), "tiny", WireFormat.OPENAI, b"{}", 60_000)

        wanted = Wanted(dispatcher.next_number(), "tiny", Operation.CHAT)
        waiting = asyncio.create_task(dispatcher.submit(wanted, make_job, 30.0))
        await queued(harness, 1)
        await first.answer(b"1")
        sent = await harness.agent.next_job()
        await sent.cancelled.wait()


@in_virtual_time
async def test_job_of_a_lost_agent_waits_for_it_if_the_queue_is_full() -> None:
    async with coordinator_harness(replace(NO_HEARTBEATS, max_queued=0)) as harness:
        asking = harness.ask()
        job = await harness.agent.next_job()
        await harness.agent.lose_link()
        await asyncio.sleep(2 * LOST_AFTER_S)
        await harness.agent.reconnect()
        await job.answer(b"1")
        assert await (await asking).read() == b"1"


@in_virtual_time
async def test_waiting_requests_fail_when_the_coordinator_stops() -> None:
    async with coordinator_harness(replace(NO_HEARTBEATS, drain_s=60.0)) as harness:
        first, _ = await fill(harness)
        waiting = harness.ask()
        await queued(harness, 1)
        stopping = asyncio.create_task(harness.coordinator.stop())
        response = await waiting
        assert (await response.json())["error"]["message"] == "The coordinator is stopping."
        await first.answer(b"1")
        await stopping


@in_virtual_time
async def test_error_that_is_not_retryable_is_final() -> None:
    # Regression: for known codes, `retryable` in the agent's error was ignored.
    async with (
        coordinator_harness(CoordinatorSettings(port=0, drain_s=0)) as harness,
        ScriptedAgent(harness.coordinator.connect_url) as other,
    ):
        # Of equal agents, routing chooses the one with the smaller key.
        agents = sorted((harness.agent, other), key=lambda agent: agent.public_key)
        asking = harness.ask()
        await (await agents[0].next_job()).fail("backend_error", retryable=False)
        assert (await asking).status == 502
        assert not agents[1].jobs
