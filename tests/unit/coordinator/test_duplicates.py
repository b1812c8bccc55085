"""Several connections of one key: real sockets, virtual time."""

import asyncio

from msgspec.structs import replace

from tests.kit.coordinator_stage import QUIET, staged, until
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time


@in_virtual_time
async def test_idle_connection_is_replaced_at_once_and_told_why() -> None:
    async with staged() as stage, stage.another("two") as newer:
        await stage.agent.closed.wait()
        assert stage.agent.socket.close_code == 4001
        assert "newer connection" in (stage.agent.socket.close_reason or "")
        (snapshot,) = stage.coordinator.agents()
        assert not snapshot.retired
        asking = stage.ask()
        await (await newer.next_job()).answer(b"{}")
        assert (await asking).status == 200


@in_virtual_time
async def test_retired_process_finishes_its_jobs_and_gets_no_new_ones() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"1")
        async with stage.another("two") as newer:
            assert [agent.retired for agent in stage.coordinator.agents()] == [False, True]
            asking = stage.ask()
            await (await newer.next_job()).answer(b"{}")
            assert (await asking).status == 200
            assert not stage.agent.closed.is_set()
            await job.send(b"2")
            await job.finish()
            assert await response.read() == b"2"
            await stage.agent.closed.wait()
            assert job.done.is_set(), "its end was acknowledged before the close"
            assert stage.agent.socket.close_code == 4001
            assert len(stage.coordinator.agents()) == 1


@in_virtual_time
async def test_retired_process_that_loses_its_link_may_come_back_and_stays_retired() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"1")
        async with stage.another("two") as newer:
            await stage.agent.lose_link()
            await until(lambda: bool(stage.coordinator.parked()))
            assert "retired" in repr(stage.coordinator)
            await stage.agent.redial()
            asking = stage.ask()
            await (await newer.next_job()).answer(b"{}")
            assert (await asking).status == 200
            await job.finish()
            assert await response.read() == b""
            await stage.agent.closed.wait()
            assert stage.agent.socket.close_code == 4001


@in_virtual_time
async def test_retired_session_that_comes_back_alone_gets_jobs_again() -> None:
    async with staged() as stage:
        await stage.streaming(b"1")
        async with stage.another("two"):
            await stage.agent.lose_link()
        await until(lambda: not stage.coordinator.agents())
        await stage.agent.redial()
        assert [agent.retired for agent in stage.coordinator.agents()] == [False]
        stage.ask().add_done_callback(lambda _: None)
        await (await stage.agent.next_job()).answer(b"{}")


@in_virtual_time
async def test_third_process_closes_the_oldest() -> None:
    async with staged() as stage:
        _, response = await stage.streaming(b"1")
        async with stage.another("two") as second:
            asking = stage.ask()
            job = await second.next_job()
            async with stage.another("three"):
                await stage.agent.closed.wait()
                assert b"backend_unreachable" in await response.read()
                assert [agent.retired for agent in stage.coordinator.agents()] == [False, True]
                await job.answer(b"{}")
                assert (await asking).status == 200


@in_virtual_time
async def test_same_process_that_dials_without_its_session_has_forgotten_its_jobs() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"1")
        closed = stage.agent.closed
        await stage.agent.redial(resume=False)
        assert job.forgotten
        assert b"backend_unreachable" in await response.read()
        await closed.wait()
        assert len(stage.coordinator.agents()) == 1


@in_virtual_time
async def test_process_that_was_restarted_has_forgotten_the_jobs_of_the_one_before() -> None:
    async with staged() as stage:
        _, response = await stage.streaming(b"1")
        await stage.agent.lose_link()
        await until(lambda: bool(stage.coordinator.parked()))
        async with stage.another("two"):
            before = asyncio.get_running_loop().time()
            assert b"backend_unreachable" in await response.read()
            assert asyncio.get_running_loop().time() - before < 1, "at once"
            assert stage.coordinator.parked() == []


@in_virtual_time
async def test_restart_does_not_end_the_lost_session_of_a_retired_process() -> None:
    async with staged() as stage:
        job, response = await stage.streaming(b"1")
        async with stage.another("two"):
            await stage.agent.lose_link()
            await until(lambda: bool(stage.coordinator.parked()))
        async with stage.another("three"):
            await stage.agent.redial()
            await job.finish()
            assert await response.read() == b""


@in_virtual_time
async def test_agent_that_may_come_back_needs_no_free_seat() -> None:
    async with staged(replace(QUIET, max_agents=1)) as stage:
        job, response = await stage.streaming(b"1")
        await stage.agent.lose_link()
        await until(lambda: bool(stage.coordinator.parked()))
        async with ScriptedAgent(stage.coordinator.connect_url) as other:
            assert other.rejected is None
            await stage.agent.redial()
            await job.finish()
            assert await response.read() == b""
