"""A lost link and what becomes of its jobs, with a coordinator that remembers them or does not."""

import asyncio

import pytest
from msgspec.structs import replace

from agent.config import LimitsConfig
from agent.link.resumption import MAX_RESUME_S
from agent.service import EXIT_OK
from protocol.frames import Draining, Hello, JobResult, LiveJob, Rejected
from protocol.limits import MIN_WINDOW_BYTES
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.scripted_coordinator import AgentAtCoordinator, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now

LONG_MS = 3_600_000


def keeping(window_bytes: int = 1 << 20, resume_ms: int = 60_000) -> ScriptedCoordinator:
    reply = welcome(resume_ms=resume_ms, window_bytes=window_bytes)
    coordinator = ScriptedCoordinator(lambda _: reply)
    coordinator.resumes = True
    return coordinator


async def streaming(
    peer: AgentAtCoordinator, backend: ScriptedBackend, data: bytes = b"before "
) -> ScriptedRun:
    """A job of which the coordinator has some bytes."""
    job = new_job(deadline_ms=LONG_MS)
    await peer.give(job)
    run = await backend.next_run()
    run.start()
    run.send(data)
    await peer.wait_for_bytes(job.job_id, len(data))
    return run


async def cut(peer: AgentAtCoordinator, agent: RunningAgent) -> None:
    peer.cut()
    while agent.service.uplink.connected.is_set():  # noqa: ASYNC110
        # There is an event for being connected, none for being so no more.
        await asyncio.sleep(0)


@in_virtual_time
async def test_a_stream_goes_on_where_it_stood() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        run = await streaming(peer, backend)
        await cut(peer, agent)
        run.send(b"between ")
        again = await agent.connected()
        hello = await again.next(Hello)
        assert hello.session_id == b"s" * 16
        assert hello.live_jobs == [LiveJob(run.job.job_id, 0, 7)]
        run.send(b"after")
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        assert bytes(again.data[run.job.job_id]) == b"before between after"
        assert len(backend.runs) == 1


@in_virtual_time
async def test_an_end_that_was_not_acknowledged_is_told_again() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        run = await streaming(peer, backend)
        await cut(peer, agent)
        run.finish()
        again = await agent.connected()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        await agent.service.outbox.wait_until_acknowledged()


@in_virtual_time
async def test_bytes_that_were_lost_on_the_way_are_sent_again() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        run = await streaming(peer, backend)
        peer.stop_reading()
        run.send(b"x" * 5000)
        await asyncio.sleep(1)
        await cut(peer, agent)
        again = await agent.connected()
        assert (await again.next(Hello)).live_jobs == [LiveJob(run.job.job_id, 0, 5007)]
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        assert bytes(again.data[run.job.job_id]) == b"before " + b"x" * 5000


@in_virtual_time
async def test_while_the_link_is_down_a_job_goes_on_until_its_window_is_full() -> None:
    backend = ScriptedBackend()
    async with (
        keeping(MIN_WINDOW_BYTES) as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        run = await streaming(peer, backend)
        await cut(peer, agent)
        run.send(b"x" * (MIN_WINDOW_BYTES - 8))
        assert run.pauses == 0
        run.send(b"y")
        assert run.pauses == 1
        again = await agent.connected()
        await again.wait_for_bytes(run.job.job_id, MIN_WINDOW_BYTES)
        await run.resumed.wait()


@in_virtual_time
async def test_jobs_that_the_coordinator_does_not_name_are_cancelled() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        wanted = await streaming(peer, backend)
        unwanted = await streaming(peer, backend)
        del peer.session.streams[unwanted.job.job_id]
        await cut(peer, agent)
        again = await agent.connected()
        await unwanted.cancelled.wait()
        wanted.finish()
        assert isinstance(await again.end(wanted.job.job_id), JobResult)
        assert again.ends(unwanted.job.job_id) == []


@in_virtual_time
async def test_a_coordinator_that_knows_nothing_has_every_orphan_cancelled() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        runs = [await streaming(peer, backend) for _ in range(3)]
        coordinator.resumes = False
        await cut(peer, agent)
        again = await agent.connected()
        for run in runs:
            await run.cancelled.wait()
        fresh = new_job()
        await again.give(fresh)
        (await backend.next_run()).answer(b"x")
        assert isinstance(await again.end(fresh.job_id), JobResult)
        await agent.service.outbox.wait_until_acknowledged()


@pytest.mark.parametrize(("resume_ms", "after_s"), [(0, 0), (20_000, 20), (2**53, MAX_RESUME_S)])
@in_virtual_time
async def test_jobs_are_given_up_when_nobody_resumes_them_in_time(
    resume_ms: int, after_s: float
) -> None:
    backend = ScriptedBackend()
    async with (
        keeping(resume_ms=resume_ms) as coordinator,
        RunningAgent(coordinator, backend, jitter=0.5) as agent,
    ):
        peer = await agent.connected()
        run = await streaming(peer, backend)
        coordinator.refusals.extend([(500, {})] * 10_000)
        began = now()
        await cut(peer, agent)
        await run.cancelled.wait()
        assert now() - began == pytest.approx(after_s, abs=1)
        coordinator.refusals.clear()
        again = await agent.connected()
        hello = await again.next(Hello)
        assert (hello.session_id, hello.live_jobs) == (None, [])


@in_virtual_time
async def test_a_job_that_arrives_again_on_the_next_link_runs_once() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        run = await streaming(peer, backend)
        await cut(peer, agent)
        again = await agent.connected()
        await again.send(run.job)
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        await again.send(run.job)
        await again.settle()
        assert len(again.ends(run.job.job_id)) == len(backend.runs) == 1


@in_virtual_time
async def test_offsets_that_were_not_offered_do_not_end_the_jobs() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend, jitter=0.5) as agent:
        peer = await agent.connected()
        run = await streaming(peer, backend)
        good, coordinator.answer = coordinator.answer, lambda _: None
        await cut(peer, agent)
        liar = await coordinator.next_agent()
        await liar.next(Hello)
        await liar.send(replace(welcome(), resumed={run.job.job_id: 8}))  # only 7 were sent
        await liar.closed.wait()
        assert liar.socket.close_code == 1002
        coordinator.answer = good
        coordinator.agents.append(peer)  # the one to resume from
        again = await agent.connected()
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)


@in_virtual_time
async def test_a_drain_without_a_link_waits_for_it_and_sees_the_ends_acknowledged() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend, jitter=0.5) as agent:
        peer = await agent.connected()
        run = await streaming(peer, backend)
        coordinator.refusals.extend([(500, {})] * 4)
        await cut(peer, agent)
        agent.service.stop()
        await asyncio.sleep(1)
        run.finish()
        again = await agent.connected()
        left = (await again.next(Draining)).deadline_ms
        assert 0 < left < 300_000, "what is left of the time, not all of it"
        assert isinstance(await again.end(run.job.job_id), JobResult)
        assert await agent.task == EXIT_OK


@in_virtual_time
async def test_a_drain_whose_link_never_comes_back_ends_in_time() -> None:
    backend = ScriptedBackend()
    limits = LimitsConfig(drain_timeout_s=30.0)
    async with keeping() as coordinator:
        config = agent_config(coordinator.url, limits=limits)
        async with RunningAgent(coordinator, backend, config=config, jitter=0.5) as agent:
            peer = await agent.connected()
            run = await streaming(peer, backend)
            coordinator.refusals.extend([(500, {})] * 10_000)
            await cut(peer, agent)
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_OK
            assert run.cancelled.is_set()
            assert now() - began <= 60


@in_virtual_time
async def test_an_agent_that_is_turned_away_for_good_cancels_what_it_kept() -> None:
    backend = ScriptedBackend()
    async with keeping() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        run = await streaming(peer, backend)
        coordinator.answer = lambda _: Rejected("not_enrolled", "go away")
        began = now()
        await cut(peer, agent)
        await run.cancelled.wait()
        assert await agent.task != EXIT_OK
        assert now() - began < 10
