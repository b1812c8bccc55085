"""What a lost link does to the session and its jobs. Real sockets, virtual time."""

import asyncio
import gc
import io
from collections import Counter

import pytest
from msgspec.structs import replace

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.detached_sessions import LOST_AFTER_S
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.frames import Heartbeat
from provider_agent.protocol.limits import MIB
from tests.kit.coordinator_harness import CHAT, NO_HEARTBEATS, coordinator_harness, wait_until
from tests.kit.scripted_agent import ScriptedAgent, offer
from tests.kit.virtual_time import in_virtual_time, now

STATE = (ConnectedAgent, DetachedSession, RunningJob)


def count_state_objects() -> Counter[str]:
    """How many objects with the state of a link or session exist, by type."""
    gc.collect()
    return Counter(type(item).__name__ for item in gc.get_objects() if isinstance(item, STATE))


@in_virtual_time
async def test_jobs_fail_when_the_session_expires() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"data: 1\n\n")
        asking = harness.ask()
        await harness.agent.next_job()
        await harness.agent.lose_link()
        assert b"provider_lost" in await response.read()
        assert (await asking).status == 502
        assert harness.coordinator.detached_sessions() == []
        await harness.agent.reconnect()
        assert job.dropped


@pytest.mark.parametrize("started", [False, True], ids=["not started", "started without a byte"])
def test_job_without_output_moves_to_another_agent_when_its_agent_does_not_return(
    started: bool,
) -> None:
    # Regression: the client waited until the session expired, 60 s later.
    @in_virtual_time
    async def run() -> None:
        async with (
            coordinator_harness() as harness,
            ScriptedAgent(harness.coordinator.connect_url) as other,
        ):
            first, second = sorted((harness.agent, other), key=lambda agent: agent.public_key)
            asking, asked_at = harness.ask(), now()
            job = await first.next_job()
            if started:
                await job.start()
            await first.lose_link()
            moved = await second.next_job()
            assert now() - asked_at == pytest.approx(LOST_AFTER_S, abs=0.1)
            assert moved.job.job_id != job.job.job_id
            await moved.start()
            await first.reconnect()  # both agents now run the request
            await job.cancelled.wait()
            if not started:
                await job.start()
            await job.send(b"first")
            await job.fail("cancelled")
            await moved.answer_rest(b"second")
            response = await asking
            assert await response.read() == b"second"
            assert response.headers["x-request-id"] == moved.job.job_id.hex()

    run()


@in_virtual_time
async def test_job_without_output_moves_from_an_agent_whose_machine_is_gone() -> None:
    # A machine that loses power closes no connection: only its silence shows that it is gone.
    async with (
        coordinator_harness(replace(NO_HEARTBEATS, heartbeat_ms=10_000)) as harness,
        ScriptedAgent(harness.coordinator.connect_url) as other,
    ):
        first, second = sorted((harness.agent, other), key=lambda agent: agent.public_key)
        asking, asked_at = harness.ask(), now()
        job = await first.next_job()
        while not second.jobs:
            await second.send(Heartbeat(0, 0, 8, None, None, None, None))
            await asyncio.sleep(1.0)
        assert 15.0 <= now() - asked_at <= 22.0
        await first.send(Heartbeat(0, 0, 8, None, None, None, None))  # it was only slow
        await job.cancelled.wait()
        await job.start()
        await job.send(b"first")
        await job.fail("cancelled")
        await (await second.next_job()).answer(b"second")
        assert await (await asking).read() == b"second"


@in_virtual_time
async def test_job_stays_with_an_agent_that_returns_before_another_one_has_room() -> None:
    async with (
        coordinator_harness() as harness,
        ScriptedAgent(harness.coordinator.connect_url, max_concurrent=1) as other,
    ):
        await harness.agent.advertise(offer(max_concurrent=1))
        asking = [harness.ask(), harness.ask()]
        job, busy = await harness.agent.next_job(), await other.next_job()
        await harness.agent.lose_link()
        await asyncio.sleep(10.0)
        assert harness.coordinator.queued == 1
        await harness.agent.reconnect()
        await wait_until(lambda: not harness.coordinator.queued)
        await busy.answer(b"ok")
        await job.answer(b"ok")
        assert [await (await one).read() for one in asking] == [b"ok", b"ok"]
        assert (len(harness.agent.jobs), len(other.jobs)) == (1, 1)


@in_virtual_time
async def test_job_of_a_lost_agent_moves_to_one_that_connects_later() -> None:
    async with coordinator_harness() as harness:
        asking = harness.ask()
        await harness.agent.next_job()
        await harness.agent.lose_link()
        await asyncio.sleep(10.0)
        async with ScriptedAgent(harness.coordinator.connect_url) as other:
            await (await other.next_job()).answer(b"ok")
            assert await (await asking).read() == b"ok"
    assert harness.coordinator.counters.retried == 1


@in_virtual_time
async def test_client_that_disconnects_while_its_agent_is_lost_leaves_the_queue() -> None:
    async with coordinator_harness() as harness:
        asking = harness.ask()
        await harness.agent.next_job()
        await harness.agent.lose_link()
        await wait_until(lambda: harness.coordinator.queued == 1)
        asking.cancel()
        await wait_until(lambda: not harness.coordinator.queued)
        (session,) = harness.coordinator.detached_sessions()
        assert session.jobs == 0


@in_virtual_time
async def test_session_resumes_while_the_coordinator_has_not_noticed_the_lost_link() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1\n\n")
        older, closed = harness.agent.socket, harness.agent.closed
        await harness.agent.reconnect()
        await closed.wait()
        assert older.close_code == 4001
        await job.send(b"2")
        await job.finish()
        assert await response.read() == b"2"
        assert len(harness.coordinator.agents()) == 1


@in_virtual_time
async def test_request_receives_503_while_its_only_agent_is_detached_and_404_later() -> None:
    async with coordinator_harness() as harness:
        await harness.agent.lose_link()
        await wait_until(lambda: bool(harness.coordinator.detached_sessions()))
        response = await harness.ask()
        assert (response.status, response.headers["Retry-After"]) == (503, "30")
        await asyncio.sleep(70)
        assert (await harness.ask()).status == 404


@in_virtual_time
async def test_session_of_a_silent_agent_can_be_resumed() -> None:
    async with coordinator_harness(replace(NO_HEARTBEATS, heartbeat_ms=10_000)) as harness:
        job, response = await harness.start_response(b"1\n\n")
        await harness.agent.closed.wait()
        assert harness.agent.socket.close_code == 1008
        harness.agent.link_lost = True
        await harness.agent.reconnect()
        await job.send(b"2")
        await job.finish()
        assert await response.read() == b"2"


@in_virtual_time
async def test_session_resumes_after_its_welcome_was_lost() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1\n\n")
        before = harness.agent.protocol.welcome
        await harness.agent.lose_link()
        await harness.agent.reconnect()
        await harness.agent.lose_link()
        harness.agent.protocol.welcome = (
            before  # as if the agent had not received the second `Welcome`
        )
        await harness.agent.reconnect()
        await job.send(b"2")
        await job.finish()
        assert await response.read() == b"2"


@in_virtual_time
async def test_lost_links_leave_no_state() -> None:
    before = count_state_objects()
    async with coordinator_harness() as harness:
        for _ in range(3):
            job, response = await harness.start_response(b"1\n\n")
            for _ in range(10):
                await harness.agent.lose_link()
                await harness.agent.reconnect()
            await job.finish()
            assert await response.read() == b""
        await harness.agent.settle()
        assert count_state_objects() - before == {"ConnectedAgent": 1}
        assert harness.coordinator.detached_sessions() == []


@in_virtual_time
async def test_session_of_an_agent_that_does_not_read_can_be_resumed() -> None:
    async with coordinator_harness() as harness:
        body = b'{"model":"tiny","filler":"' + b"x" * (15 * MIB) + b'"}'
        asking = asyncio.create_task(harness.http.post(CHAT, data=io.BytesIO(body)))
        harness.agent.socket.transport.pause_reading()
        await asyncio.sleep(40)
        assert harness.coordinator.detached_sessions()
        await harness.agent.lose_link()
        await harness.agent.reconnect()
        job = await harness.agent.next_job()
        assert job.job.request == body
        await job.answer(b"{}")
        assert await (await asking).read() == b"{}"


@in_virtual_time
async def test_protocol_violation_ends_the_session() -> None:
    async with coordinator_harness() as harness:
        _, response = await harness.start_response(b"1\n\n")
        await harness.agent.send_raw(b"\xc1")
        assert b"provider_lost" in await response.read()
        assert harness.coordinator.detached_sessions() == []


@pytest.mark.parametrize(("code", "kept"), [(1000, 0), (1001, 0), (1002, 0), (1011, 1)])
def test_close_code_of_the_agent_decides_whether_the_session_is_kept(code: int, kept: int) -> None:
    @in_virtual_time
    async def run() -> None:
        async with coordinator_harness() as harness:
            await harness.start_response(b"1\n\n")
            await harness.agent.socket.close(code)
            await wait_until(lambda: not harness.coordinator.agents())
            assert len(harness.coordinator.detached_sessions()) == kept

    run()


@in_virtual_time
async def test_session_ends_at_once_when_resume_ms_is_zero() -> None:
    async with coordinator_harness(replace(NO_HEARTBEATS, resume_ms=0)) as harness:
        _, response = await harness.start_response(b"1\n\n")
        await harness.agent.lose_link()
        assert b"provider_lost" in await response.read()
        assert harness.coordinator.detached_sessions() == []


@in_virtual_time
async def test_request_of_an_agent_that_cannot_resume_waits_for_its_return() -> None:
    # The request failed at once with 502, although the agent returned a second later.
    async with coordinator_harness(replace(NO_HEARTBEATS, resume_ms=0)) as harness:
        asking = harness.ask()
        job = await harness.agent.next_job()
        await harness.agent.lose_link()
        await asyncio.sleep(1)
        await harness.agent.reconnect()
        again = await harness.agent.next_job()
        assert again.job.job_id != job.job.job_id
        await again.answer(b"data: ok\n\n")
        assert await (await asking).read() == b"data: ok\n\n"


@in_virtual_time
async def test_request_of_an_agent_that_does_not_return_fails_after_queue_timeout() -> None:
    settings = replace(NO_HEARTBEATS, resume_ms=0, queue_s=20)
    async with coordinator_harness(settings) as harness:
        asking = harness.ask()
        await harness.agent.next_job()
        lost_at = asyncio.get_running_loop().time()
        await harness.agent.lose_link()
        response = await asking
        assert 20 <= asyncio.get_running_loop().time() - lost_at < 21
        assert response.status == 502
        assert b"provider_lost" in await response.read()


@in_virtual_time
async def test_request_whose_agent_loses_every_link_fails_after_max_attempts() -> None:
    settings = replace(NO_HEARTBEATS, resume_ms=0, max_attempts=3)
    async with coordinator_harness(settings) as harness:
        asking = harness.ask()
        for _ in range(3):
            await harness.agent.next_job()
            await harness.agent.lose_link()
            await harness.agent.reconnect()
        response = await asking
        assert response.status == 502
        assert harness.coordinator.counters.retried == 2


@in_virtual_time
async def test_draining_state_survives_a_lost_link() -> None:
    async with coordinator_harness() as harness:
        job, _ = await harness.start_response(b"1\n\n")
        await harness.agent.start_draining()
        await harness.agent.lose_link()
        await harness.agent.reconnect()
        assert harness.coordinator.agents()[0].draining
        await job.finish()
