"""The ways to lose a link, and which of them end the session: real sockets, virtual time."""

import asyncio
import gc
import io
from collections import Counter

import pytest
from msgspec.structs import replace

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.limits import MIB
from tests.kit.coordinator_harness import CHAT, QUIET, coordinator_harness, until
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time

STATE = (ConnectedAgent, DetachedSession, RunningJob)


def alive() -> Counter[str]:
    """What there is of the state of links, by kind."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, STATE))


@in_virtual_time
async def test_agent_that_does_not_come_back_fails_its_jobs() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.streaming(b"data: 1\n\n")
        asking = harness.ask()
        await harness.agent.next_job()
        await harness.agent.lose_link()
        assert b"backend_unreachable" in await response.read()
        assert (await asking).status == 502
        assert harness.coordinator.detached_sessions() == []
        await harness.agent.redial()
        assert job.forgotten


@in_virtual_time
async def test_job_without_output_goes_to_another_agent_when_its_own_stays_away() -> None:
    async with (
        coordinator_harness() as harness,
        ScriptedAgent(harness.coordinator.connect_url) as other,
    ):
        agents = sorted((harness.agent, other), key=lambda agent: agent.public_key)
        asking = harness.ask()
        await agents[0].next_job()
        await agents[0].lose_link()
        await (await agents[1].next_job()).answer(b"{}")
        assert await (await asking).read() == b"{}"


@in_virtual_time
async def test_link_that_is_half_open_is_taken_over() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.streaming(b"1")
        older, closed = harness.agent.socket, harness.agent.closed
        await harness.agent.redial()
        await closed.wait()
        assert older.close_code == 4001
        await job.send(b"2")
        await job.finish()
        assert await response.read() == b"2"
        assert len(harness.coordinator.agents()) == 1


@in_virtual_time
async def test_request_for_a_model_whose_agent_may_come_back_is_to_be_asked_again() -> None:
    async with coordinator_harness() as harness:
        await harness.agent.lose_link()
        await until(lambda: bool(harness.coordinator.detached_sessions()))
        response = await harness.ask()
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
        await asyncio.sleep(70)
        assert (await harness.ask()).status == 404


@in_virtual_time
async def test_silent_agent_may_come_back() -> None:
    async with coordinator_harness(replace(QUIET, heartbeat_ms=10_000)) as harness:
        job, response = await harness.streaming(b"1")
        await harness.agent.closed.wait()
        assert harness.agent.socket.close_code == 1008
        harness.agent.is_lost = True
        await harness.agent.redial()
        await job.send(b"2")
        await job.finish()
        assert await response.read() == b"2"


@in_virtual_time
async def test_welcome_lost_with_its_link_costs_nothing() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.streaming(b"1")
        before = harness.agent.session.welcome
        await harness.agent.lose_link()
        await harness.agent.redial()
        await harness.agent.lose_link()
        harness.agent.session.welcome = before  # as if it had never come
        await harness.agent.redial()
        await job.send(b"2")
        await job.finish()
        assert await response.read() == b"2"


@in_virtual_time
async def test_nothing_is_left_of_links_that_broke() -> None:
    before = alive()
    async with coordinator_harness() as harness:
        for _ in range(3):
            job, response = await harness.streaming(b"1")
            for _ in range(10):
                await harness.agent.lose_link()
                await harness.agent.redial()
            await job.finish()
            assert await response.read() == b""
        await harness.agent.settle()
        assert alive() - before == {"ConnectedAgent": 1}
        assert harness.coordinator.detached_sessions() == []


@in_virtual_time
async def test_agent_that_took_nothing_for_too_long_may_come_back() -> None:
    async with coordinator_harness() as harness:
        body = b'{"model":"tiny","filler":"' + b"x" * (15 * MIB) + b'"}'
        asking = asyncio.create_task(harness.http.post(CHAT, data=io.BytesIO(body)))
        harness.agent.socket.transport.pause_reading()
        await asyncio.sleep(40)
        assert harness.coordinator.detached_sessions()
        await harness.agent.lose_link()
        await harness.agent.redial()
        job = await harness.agent.next_job()
        assert job.job.request == body
        await job.answer(b"{}")
        assert await (await asking).read() == b"{}"


@in_virtual_time
async def test_protocol_violation_ends_the_session() -> None:
    async with coordinator_harness() as harness:
        _, response = await harness.streaming(b"1")
        await harness.agent.send_raw(b"\xc1")
        assert b"backend_unreachable" in await response.read()
        assert harness.coordinator.detached_sessions() == []


@pytest.mark.parametrize(("code", "kept"), [(1000, 0), (1001, 0), (1002, 0), (1011, 1)])
def test_goodbye_of_the_agent_says_whether_it_may_return(code: int, kept: int) -> None:
    @in_virtual_time
    async def run() -> None:
        async with coordinator_harness() as harness:
            await harness.streaming(b"1")
            await harness.agent.socket.close(code)
            await until(lambda: not harness.coordinator.agents())
            assert len(harness.coordinator.detached_sessions()) == kept

    run()


@in_virtual_time
async def test_without_resume_ms_nothing_is_kept() -> None:
    async with coordinator_harness(replace(QUIET, resume_ms=0)) as harness:
        _, response = await harness.streaming(b"1")
        await harness.agent.lose_link()
        assert b"backend_unreachable" in await response.read()
        assert harness.coordinator.detached_sessions() == []


@in_virtual_time
async def test_agent_that_was_draining_still_is() -> None:
    async with coordinator_harness() as harness:
        job, _ = await harness.streaming(b"1")
        await harness.agent.start_draining()
        await harness.agent.lose_link()
        await harness.agent.redial()
        assert harness.coordinator.agents()[0].draining
        await job.finish()
