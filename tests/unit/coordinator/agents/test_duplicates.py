"""Several connections of one key: real sockets, virtual time."""

import asyncio
import contextlib

import pytest
from msgspec.structs import replace

from provider_agent.coordinator.agents.link import PING_S
from tests.kit.coordinator_harness import NO_HEARTBEATS, coordinator_harness, wait_until
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time, now


@in_virtual_time
async def test_idle_older_connection_is_closed_at_once_with_a_reason() -> None:
    async with coordinator_harness() as harness, harness.other_process("two") as newer:
        await harness.agent.closed.wait()
        assert harness.agent.socket.close_code == 4001
        assert "newer connection" in (harness.agent.socket.close_reason or "")
        (snapshot,) = harness.coordinator.agents()
        assert not snapshot.retired
        asking = harness.ask()
        await (await newer.next_job()).answer(b"{}")
        assert (await asking).status == 200


@in_virtual_time
async def test_retired_process_finishes_its_jobs_and_receives_no_new_ones() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1\n\n")
        async with harness.other_process("two") as newer:
            assert [agent.retired for agent in harness.coordinator.agents()] == [False, True]
            asking = harness.ask()
            await (await newer.next_job()).answer(b"{}")
            assert (await asking).status == 200
            assert not harness.agent.closed.is_set()
            await job.send(b"2")
            await job.finish()
            assert await response.read() == b"2"
            await harness.agent.closed.wait()
            assert job.done.is_set(), "its end was acknowledged before the close"
            assert harness.agent.socket.close_code == 4001
            assert len(harness.coordinator.agents()) == 1


@in_virtual_time
async def test_retired_process_resumes_its_session_and_stays_retired() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1\n\n")
        async with harness.other_process("two") as newer:
            await harness.agent.lose_link()
            await wait_until(lambda: bool(harness.coordinator.detached_sessions()))
            assert "retired" in repr(harness.coordinator)
            await harness.agent.reconnect()
            asking = harness.ask()
            await (await newer.next_job()).answer(b"{}")
            assert (await asking).status == 200
            await job.finish()
            assert await response.read() == b""
            await harness.agent.closed.wait()
            assert harness.agent.socket.close_code == 4001


@in_virtual_time
async def test_resumed_session_is_no_longer_retired_if_no_other_process_is_connected() -> None:
    async with coordinator_harness() as harness:
        await harness.start_response(b"1\n\n")
        async with harness.other_process("two"):
            await harness.agent.lose_link()
        await wait_until(lambda: not harness.coordinator.agents())
        await harness.agent.reconnect()
        assert [agent.retired for agent in harness.coordinator.agents()] == [False]
        asking = harness.ask()
        await (await harness.agent.next_job()).answer(b"{}")
        assert (await asking).status == 200


@in_virtual_time
async def test_third_process_closes_the_connection_of_the_first() -> None:
    async with coordinator_harness() as harness:
        _, response = await harness.start_response(b"1\n\n")
        async with harness.other_process("two") as second:
            asking = harness.ask()
            job = await second.next_job()
            async with harness.other_process("three"):
                await harness.agent.closed.wait()
                assert b"provider_lost" in await response.read()
                assert [agent.retired for agent in harness.coordinator.agents()] == [False, True]
                await job.answer(b"{}")
                assert (await asking).status == 200


@in_virtual_time
async def test_jobs_fail_when_the_same_process_starts_a_new_session() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1\n\n")
        closed = harness.agent.closed
        await harness.agent.reconnect(resume=False)
        assert job.dropped
        assert b"provider_lost" in await response.read()
        await closed.wait()
        assert len(harness.coordinator.agents()) == 1


@in_virtual_time
async def test_jobs_of_a_detached_session_fail_when_a_new_process_connects() -> None:
    async with coordinator_harness() as harness:
        _, response = await harness.start_response(b"1\n\n")
        await harness.agent.lose_link()
        await wait_until(lambda: bool(harness.coordinator.detached_sessions()))
        async with harness.other_process("two"):
            before = asyncio.get_running_loop().time()
            assert b"provider_lost" in await response.read()
            assert asyncio.get_running_loop().time() - before < 1, "at once"
            assert harness.coordinator.detached_sessions() == []


@in_virtual_time
async def test_new_process_does_not_end_the_session_of_a_retired_process() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1\n\n")
        async with harness.other_process("two"):
            await harness.agent.lose_link()
            await wait_until(lambda: bool(harness.coordinator.detached_sessions()))
        async with harness.other_process("three"):
            await harness.agent.reconnect()
            await job.finish()
            assert await response.read() == b""


@in_virtual_time
async def test_resuming_agent_is_admitted_beyond_max_agents() -> None:
    async with coordinator_harness(replace(NO_HEARTBEATS, max_agents=1)) as harness:
        job, response = await harness.start_response(b"1\n\n")
        await harness.agent.lose_link()
        await wait_until(lambda: bool(harness.coordinator.detached_sessions()))
        async with ScriptedAgent(harness.coordinator.connect_url) as other:
            assert other.rejected is None
            await harness.agent.reconnect()
            await job.finish()
            assert await response.read() == b""


@in_virtual_time
async def test_another_process_without_replace_does_not_replace_a_connected_one() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"1")
        async with harness.other_process("two", replace=False) as other:
            assert other.rejected is not None
            assert (other.rejected.code, other.rejected.retry_after_ms) == ("key_in_use", None)
            assert "127.0.0.1" in other.rejected.message
            await other.closed.wait()
            assert other.socket.close_code == 1008
        await job.answer_rest(b"2")
        assert await response.read() == b"2"


@in_virtual_time
async def test_another_process_takes_over_from_a_draining_one() -> None:
    async with coordinator_harness() as harness:
        await harness.agent.start_draining()
        async with harness.other_process("two", replace=False) as other:
            assert other.rejected is None
            await harness.agent.closed.wait()
            assert harness.agent.socket.close_code == 4001


@in_virtual_time
async def test_another_process_takes_over_from_one_that_no_longer_responds() -> None:
    async with coordinator_harness() as harness:
        harness.agent.socket.transport.pause_reading()
        began = now()
        async with harness.other_process("two", replace=False) as other:
            assert other.rejected is None
            assert now() - began == pytest.approx(PING_S)
            assert len(harness.coordinator.agents()) == 1


@in_virtual_time
async def test_only_one_of_two_processes_replaces_an_unresponsive_one() -> None:
    async with coordinator_harness() as harness, contextlib.AsyncExitStack() as stack:
        harness.agent.socket.transport.pause_reading()
        await asyncio.sleep(100)
        newer = [harness.other_process(name, replace=False) for name in ("two", "three")]
        await asyncio.gather(*map(stack.enter_async_context, newer))
        (admitted,) = [agent for agent in newer if agent.rejected is None]
        (rejected,) = [agent.rejected for agent in newer if agent.rejected is not None]
        assert rejected.code == "key_in_use"
        assert "for 5 s" in rejected.message, "the message describes the admitted process"
        asking = harness.ask()
        await (await admitted.next_job()).answer(b"{}")
        assert (await asking).status == 200
        assert not admitted.closed.is_set()
