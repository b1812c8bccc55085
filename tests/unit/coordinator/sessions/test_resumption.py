"""Resumption: a client sees a lost link only as a pause. Real sockets, virtual time."""

import asyncio
import random

import pytest
from msgspec.structs import replace

from provider_agent.coordinator.sessions.detached_session import MAX_SENDS
from provider_agent.protocol.frames import LiveJob, ResumedJob
from provider_agent.protocol.limits import MIB, MIN_WINDOW_BYTES
from tests.kit.coordinator_harness import NO_HEARTBEATS, coordinator_harness, wait_until
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time


@in_virtual_time
async def test_response_continues_after_a_lost_link() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"data: 1\n\n")
        await harness.agent.lose_link()
        await job.send(b"data: 2\n\n")
        await asyncio.sleep(50)
        assert harness.coordinator.agents() == []
        (detached,) = harness.coordinator.detached_sessions()
        assert (detached.jobs, detached.retired) == (1, False)
        await harness.agent.reconnect()
        assert harness.coordinator.detached_sessions() == []
        await job.send(b"data: 3\n\n")
        await job.finish()
        assert await response.read() == b"data: 2\n\ndata: 3\n\n"
        await job.done.wait()
        (agent,) = harness.coordinator.agents()
        assert (agent.in_flight, agent.retired) == (0, False)
        assert harness.coordinator.counters.completed == 1


@in_virtual_time
async def test_end_during_a_lost_link_is_sent_over_the_next_link() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"data: 1\n\n")
        await harness.agent.lose_link()
        await job.finish()
        await harness.agent.reconnect()
        assert await response.read() == b""
        await job.done.wait()


@in_virtual_time
async def test_started_job_without_output_continues_after_a_lost_link() -> None:
    async with coordinator_harness() as harness:
        asking = harness.ask()
        job = await harness.agent.next_job()
        await job.start()
        await harness.agent.settle()
        await harness.agent.lose_link()
        await harness.agent.reconnect()
        await job.send(b"data: 1\n\n")
        await job.finish()
        assert await (await asking).read() == b"data: 1\n\n"


@in_virtual_time
async def test_response_over_many_links_is_byte_identical() -> None:
    async with coordinator_harness(
        replace(NO_HEARTBEATS, window_bytes=MIN_WINDOW_BYTES)
    ) as harness:
        rng = random.Random(4)
        sent = rng.randbytes(20 * MIN_WINDOW_BYTES)
        job, response = await harness.start_response(sent[:1])
        reading = asyncio.create_task(response.read())

        async def send_all() -> None:
            offset = 1
            while offset < len(sent):
                size = rng.randrange(1, MIN_WINDOW_BYTES // 4)
                job.stream.write(sent[offset : offset + size])
                offset += size
                await wait_until(lambda: not job.stream.full)
                await job.send_ready()

        sending = asyncio.create_task(send_all())
        for _ in range(60):
            for _ in range(rng.randrange(20)):
                await asyncio.sleep(0)
            await harness.agent.lose_link()
            await harness.agent.reconnect()
        await sending
        await job.finish()
        assert sent[:1] + await reading == sent
        await job.done.wait()


@in_virtual_time
async def test_lost_job_header_is_sent_again_with_the_remaining_deadline() -> None:
    async with coordinator_harness() as harness:
        asking = harness.ask()
        lost = await harness.agent.next_job()
        await harness.agent.lose_link()
        await asyncio.sleep(40)
        await harness.agent.reconnect(live_jobs=[])
        job = await harness.agent.next_job()
        assert job.job == replace(lost.job, deadline_ms=job.job.deadline_ms)
        assert 550_000 < job.job.deadline_ms <= lost.job.deadline_ms - 40_000
        await job.answer(b"{}")
        assert await (await asking).read() == b"{}"


@in_virtual_time
async def test_job_whose_link_is_always_lost_fails_after_max_sends() -> None:
    async with coordinator_harness() as harness:
        asking = harness.ask()
        for _ in range(MAX_SENDS):
            await harness.agent.next_job()
            await harness.agent.lose_link()
            await harness.agent.reconnect(live_jobs=[])
        assert (await asking).status == 502
        assert harness.coordinator.agents()[0].in_flight == 0


@pytest.mark.parametrize(
    ("first_offset", "next_offset"), [(4, 9), (0, 0), (10, 9), (2**53 - 1, 2**53 - 1)], ids=str
)
def test_job_fails_when_the_agent_does_not_hold_the_next_byte(
    first_offset: int, next_offset: int
) -> None:
    @in_virtual_time
    async def run() -> None:
        async with coordinator_harness() as harness:
            job, response = await harness.start_response(b"x\n\n")
            live_job = LiveJob(job.job.job_id, first_offset, next_offset)
            await harness.agent.lose_link()
            await harness.agent.reconnect(live_jobs=[live_job])
            assert job.dropped
            assert b"provider_lost" in await response.read()
            assert harness.coordinator.agents()[0].in_flight == 0

    run()


@in_virtual_time
async def test_request_moves_to_another_agent_if_its_started_job_is_not_resumed() -> None:
    async with (
        coordinator_harness() as harness,
        ScriptedAgent(harness.coordinator.connect_url) as other,
    ):
        agents = sorted((harness.agent, other), key=lambda agent: agent.public_key)
        asking = harness.ask()
        job = await agents[0].next_job()
        await job.start()
        await agents[0].settle()
        await agents[0].lose_link()
        await agents[0].reconnect(live_jobs=[])
        await (await agents[1].next_job()).answer(b"{}")
        assert await (await asking).read() == b"{}"


@in_virtual_time
async def test_unknown_live_jobs_are_ignored() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"x")
        await harness.agent.lose_link()
        unknown = [LiveJob(number.to_bytes(16, "big"), 0, 2**40) for number in range(4095)]
        await harness.agent.reconnect(live_jobs=[*unknown, job.live_job()])
        assert harness.agent.protocol.welcome is not None
        assert harness.agent.protocol.welcome.resumed == [ResumedJob(job.job.job_id, 1)]
        await job.finish()
        assert await response.read() == b""


@in_virtual_time
async def test_session_of_another_key_cannot_be_resumed() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"x")
        await harness.agent.lose_link()
        async with ScriptedAgent(harness.coordinator.connect_url) as thief:
            thief.protocol.welcome = harness.agent.protocol.welcome
            await thief.reconnect(live_jobs=[job.live_job()])
            assert thief.protocol.welcome is not None
            assert thief.protocol.welcome.resumed == []
        await harness.agent.reconnect()
        await job.finish()
        assert await response.read() == b""


@in_virtual_time
async def test_bytes_read_while_detached_are_acknowledged_after_welcome() -> None:
    half = MIN_WINDOW_BYTES // 2
    async with coordinator_harness(
        replace(NO_HEARTBEATS, window_bytes=MIN_WINDOW_BYTES)
    ) as harness:
        job, response = await harness.start_response(b"x")
        await job.send(bytes(half))
        await harness.agent.settle()
        await harness.agent.lose_link()
        assert await response.content.readexactly(half) == bytes(half)
        await harness.agent.reconnect()
        assert job.stream.acked == half + 1
        await job.finish()
        assert await response.read() == b""


@in_virtual_time
async def test_job_of_a_disconnected_client_is_cancelled_after_the_resumption() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1")
        await harness.agent.lose_link()
        response.close()
        await wait_until(
            lambda: [one.jobs for one in harness.coordinator.detached_sessions()] == [0]
        )
        await job.send(b"not read by a client")
        await harness.agent.reconnect()
        await job.cancelled.wait()
        assert job.stream.acked == 1
        await job.fail("cancelled")
        await harness.agent.settle()
        assert harness.coordinator.agents()[0].in_flight == 0
        assert harness.coordinator.counters.disconnected == 1


@in_virtual_time
async def test_job_cancelled_before_the_link_was_lost_is_cancelled_again() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1")
        response.close()
        await job.cancelled.wait()
        await harness.agent.lose_link()
        job.cancelled.clear()
        await harness.agent.reconnect()
        await job.cancelled.wait()
        await job.fail("cancelled")
        await harness.agent.settle()
        assert harness.coordinator.agents()[0].in_flight == 0


@in_virtual_time
async def test_lost_links_do_not_extend_the_window_of_a_client_that_does_not_read() -> None:
    window = MIN_WINDOW_BYTES
    async with coordinator_harness(replace(NO_HEARTBEATS, window_bytes=window)) as harness:
        job, response = await harness.start_response(b"x")
        sending = asyncio.create_task(job.send(bytes(16 * MIB)))
        received = -1
        while received != job.stream.acked:  # until the buffers of the sockets are full
            received = job.stream.acked
            await asyncio.sleep(1)
        for _ in range(100):
            await harness.agent.lose_link()
            await harness.agent.reconnect()
            assert job.stream.sent - window <= job.stream.acked < received + window
        await sending
        assert harness.coordinator.agents()[0].in_flight == 1
        response.close()
        await job.cancelled.wait()
