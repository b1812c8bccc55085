"""A lost link is a pause for the buyer: real sockets, virtual time."""

import asyncio
import random

import pytest
from msgspec.structs import replace

from coordinator.lost_session import MAX_SENDINGS
from protocol.frames import LiveJob
from protocol.limits import MIB, MIN_WINDOW_BYTES
from tests.kit.coordinator_stage import QUIET, staged, until
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time


@in_virtual_time
async def test_lost_link_is_only_a_pause() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"data: 1\n\n")
        await stage.agent.lose_link()
        await job.send(b"data: 2\n\n")
        await asyncio.sleep(50)
        assert stage.coordinator.agents() == []
        (parked,) = stage.coordinator.parked()
        assert (parked.jobs, parked.retired) == (1, False)
        await stage.agent.redial()
        assert stage.coordinator.parked() == []
        await job.send(b"data: 3\n\n")
        await job.finish()
        assert await response.read() == b"data: 2\n\ndata: 3\n\n"
        await job.done.wait()
        (agent,) = stage.coordinator.agents()
        assert (agent.in_flight, agent.retired) == (0, False)
        assert stage.coordinator.counters.completed == 1


@in_virtual_time
async def test_end_that_was_lost_with_the_link_arrives_over_the_next() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"data: 1\n\n")
        await stage.agent.lose_link()
        await job.finish()
        await stage.agent.redial()
        assert await response.read() == b""
        await job.done.wait()


@in_virtual_time
async def test_start_that_no_byte_followed_is_told_again() -> None:
    async with staged() as stage:
        asking = stage.ask()
        job = await stage.agent.next_job()
        await job.start()
        await stage.agent.settle()
        await stage.agent.lose_link()
        await stage.agent.redial()
        await job.send(b"data: 1\n\n")
        await job.finish()
        assert await (await asking).read() == b"data: 1\n\n"


@in_virtual_time
async def test_response_over_many_links_is_byte_identical() -> None:
    async with staged(replace(QUIET, window_bytes=MIN_WINDOW_BYTES)) as stage:
        chance = random.Random(4)
        sent = chance.randbytes(20 * MIN_WINDOW_BYTES)
        job, response = await stage.streaming(sent[:1])
        reading = asyncio.create_task(response.read())

        async def send_all() -> None:
            position = 1
            while position < len(sent):
                size = chance.randrange(1, MIN_WINDOW_BYTES // 4)
                job.stream.write(sent[position : position + size])
                position += size
                await until(lambda: not job.stream.full)
                await job.send_ready()

        sending = asyncio.create_task(send_all())
        for _ in range(60):
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            await stage.agent.lose_link()
            await stage.agent.redial()
        await sending
        await job.finish()
        assert sent[:1] + await reading == sent
        await job.done.wait()


@in_virtual_time
async def test_job_frame_lost_on_the_way_is_sent_again_with_what_remains_of_its_deadline() -> None:
    async with staged() as stage:
        asking = stage.ask()
        lost = await stage.agent.next_job()
        await stage.agent.lose_link()
        await asyncio.sleep(40)
        await stage.agent.redial(live_jobs=[])
        job = await stage.agent.next_job()
        assert job.job == replace(lost.job, deadline_ms=job.job.deadline_ms)
        assert 550_000 < job.job.deadline_ms <= lost.job.deadline_ms - 40_000
        await job.answer(b"{}")
        assert await (await asking).read() == b"{}"


@in_virtual_time
async def test_job_that_breaks_every_link_is_not_sent_for_ever() -> None:
    async with staged() as stage:
        asking = stage.ask()
        for _ in range(MAX_SENDINGS):
            await stage.agent.next_job()
            await stage.agent.lose_link()
            await stage.agent.redial(live_jobs=[])
        assert (await asking).status == 502
        assert stage.coordinator.agents()[0].in_flight == 0


@pytest.mark.parametrize(("first", "next_"), [(2, 9), (0, 0), (10, 9), (2**53, 2**53)], ids=str)
def test_offset_that_is_not_held_ends_the_job(first: int, next_: int) -> None:
    @in_virtual_time
    async def run() -> None:
        async with staged() as stage:
            job, response = await stage.streaming(b"x")
            offered = LiveJob(job.job.job_id, first, next_)
            await stage.agent.lose_link()
            await stage.agent.redial(live_jobs=[offered])
            assert job.forgotten
            assert b"backend_unreachable" in await response.read()
            assert stage.coordinator.agents()[0].in_flight == 0

    run()


@in_virtual_time
async def test_started_job_that_the_agent_forgot_is_tried_at_another() -> None:
    async with staged() as stage, ScriptedAgent(stage.coordinator.connect_url) as other:
        agents = sorted((stage.agent, other), key=lambda agent: agent.public_key)
        asking = stage.ask()
        job = await agents[0].next_job()
        await job.start()
        await agents[0].settle()
        await agents[0].lose_link()
        await agents[0].redial(live_jobs=[])
        await (await agents[1].next_job()).answer(b"{}")
        assert await (await asking).read() == b"{}"


@in_virtual_time
async def test_offers_of_jobs_it_never_had_are_ignored() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"x")
        await stage.agent.lose_link()
        strange = [LiveJob(number.to_bytes(16, "big"), 0, 2**40) for number in range(4095)]
        await stage.agent.redial(live_jobs=[*strange, job.stream.live_job()])
        assert stage.agent.session.welcome is not None
        assert stage.agent.session.welcome.resumed == {job.job.job_id: 1}
        await job.finish()
        assert await response.read() == b""


@in_virtual_time
async def test_session_of_another_key_cannot_be_claimed() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"x")
        await stage.agent.lose_link()
        async with ScriptedAgent(stage.coordinator.connect_url) as thief:
            thief.session.welcome = stage.agent.session.welcome
            await thief.redial(live_jobs=[job.stream.live_job()])
            assert thief.session.welcome is not None
            assert thief.session.welcome.resumed == {}
        await stage.agent.redial()
        await job.finish()
        assert await response.read() == b""


@in_virtual_time
async def test_what_the_buyer_takes_meanwhile_is_acknowledged_after_the_welcome() -> None:
    half = MIN_WINDOW_BYTES // 2
    async with staged(replace(QUIET, window_bytes=MIN_WINDOW_BYTES)) as stage:
        job, response = await stage.streaming(b"x")
        await job.send(bytes(half))
        await stage.agent.settle()
        await stage.agent.lose_link()
        assert await response.content.readexactly(half) == bytes(half)
        await stage.agent.redial()
        assert job.stream.acked == half + 1
        await job.finish()
        assert await response.read() == b""


@in_virtual_time
async def test_job_whose_buyer_left_meanwhile_is_not_named() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"1")
        await stage.agent.lose_link()
        response.close()
        await until(lambda: [one.jobs for one in stage.coordinator.parked()] == [0])
        await stage.agent.redial()
        assert job.forgotten
        assert stage.coordinator.agents()[0].in_flight == 0
        assert stage.coordinator.counters.gone == 1


@in_virtual_time
async def test_job_cancelled_on_a_dying_link_is_not_named() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"1")
        response.close()
        await job.cancelled.wait()
        await stage.agent.lose_link()
        await stage.agent.redial()
        assert job.forgotten
        assert stage.coordinator.agents()[0].in_flight == 0


@in_virtual_time
async def test_stopped_buyer_costs_no_more_than_a_window_however_often_the_link_breaks() -> None:
    window = MIN_WINDOW_BYTES
    async with staged(replace(QUIET, window_bytes=window)) as stage:
        job, response = await stage.streaming(b"x")
        sending = asyncio.create_task(job.send(bytes(16 * MIB)))
        taken = -1
        while taken != job.stream.acked:  # until the buffers of the sockets are full
            taken = job.stream.acked
            await asyncio.sleep(1)
        for _ in range(100):
            await stage.agent.lose_link()
            await stage.agent.redial()
            assert job.stream.sent - window <= job.stream.acked < taken + window
        await sending
        assert stage.coordinator.agents()[0].in_flight == 1
        response.close()
        await job.cancelled.wait()
