"""A lost link and what becomes of its jobs, with a coordinator that remembers them or does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.link.resumption import MAX_RESUME_S
from provider_agent.agent.service import EXIT_OK
from provider_agent.protocol.frames import Draining, Hello, JobResult, LiveJob, Rejected
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
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


class Play(NamedTuple):
    """A job that streams, and whoever has to do with it."""

    coordinator: ScriptedCoordinator
    agent: RunningAgent
    backend: ScriptedBackend
    peer: AgentAtCoordinator
    run: ScriptedRun

    async def cut(self) -> None:
        """Lose the link; returns when the agent has noticed."""
        self.peer.cut()
        while self.agent.service.uplink.connected.is_set():  # noqa: ASYNC110
            # There is an event for being connected, none for being so no more.
            await asyncio.sleep(0)

    async def shut(self) -> None:
        """Lose the link, and find nobody in for a long time."""
        self.coordinator.refusals.extend([(500, {})] * 10_000)
        await self.cut()


@asynccontextmanager
async def play(
    coordinator: ScriptedCoordinator | None = None,
    *,
    jitter: float = 0.0,
    limits: LimitsConfig | None = None,
) -> AsyncIterator[Play]:
    backend = ScriptedBackend()
    async with coordinator or keeping() as coordinator:
        config = agent_config(coordinator.url, limits=limits or LimitsConfig())
        async with RunningAgent(coordinator, backend, config=config, jitter=jitter) as agent:
            peer = await agent.connected()
            yield Play(coordinator, agent, backend, peer, await streaming(peer, backend))


@in_virtual_time
async def test_a_stream_goes_on_where_it_stood() -> None:
    async with play() as scene:
        run = scene.run
        await scene.cut()
        run.send(b"between ")
        again = await scene.agent.connected()
        hello = await again.next(Hello)
        assert hello.session_id == b"s" * 16
        assert hello.live_jobs == [LiveJob(run.job.job_id, 0, 7)]
        run.send(b"after")
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        assert bytes(again.data[run.job.job_id]) == b"before between after"
        assert len(scene.backend.runs) == 1


@in_virtual_time
async def test_an_end_that_was_not_acknowledged_is_told_again() -> None:
    async with play() as scene:
        run = scene.run
        await scene.cut()
        run.finish()
        again = await scene.agent.connected()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        await scene.agent.service.outbox.wait_until_acknowledged()


@in_virtual_time
async def test_bytes_that_were_lost_on_the_way_are_sent_again() -> None:
    async with play() as scene:
        run = scene.run
        scene.peer.stop_reading()
        run.send(b"x" * 5000)
        await asyncio.sleep(1)
        await scene.cut()
        again = await scene.agent.connected()
        assert (await again.next(Hello)).live_jobs == [LiveJob(run.job.job_id, 0, 5007)]
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        assert bytes(again.data[run.job.job_id]) == b"before " + b"x" * 5000


@in_virtual_time
async def test_while_the_link_is_down_a_job_goes_on_until_its_window_is_full() -> None:
    async with play(keeping(MIN_WINDOW_BYTES)) as scene:
        run = scene.run
        await scene.cut()
        run.send(b"x" * (MIN_WINDOW_BYTES - 8))
        assert run.pauses == 0
        run.send(b"y")
        assert run.pauses == 1
        again = await scene.agent.connected()
        await again.wait_for_bytes(run.job.job_id, MIN_WINDOW_BYTES)
        await run.resumed.wait()


@in_virtual_time
async def test_jobs_that_the_coordinator_does_not_name_are_cancelled() -> None:
    async with play() as scene:
        wanted, unwanted = scene.run, await streaming(scene.peer, scene.backend)
        del scene.peer.session.streams[unwanted.job.job_id]
        await scene.cut()
        again = await scene.agent.connected()
        await unwanted.cancelled.wait()
        wanted.finish()
        assert isinstance(await again.end(wanted.job.job_id), JobResult)
        assert again.ends(unwanted.job.job_id) == []


@in_virtual_time
async def test_a_coordinator_that_knows_nothing_has_every_orphan_cancelled() -> None:
    async with play() as scene:
        runs = [scene.run, *[await streaming(scene.peer, scene.backend) for _ in range(2)]]
        scene.coordinator.resumes = False
        await scene.cut()
        again = await scene.agent.connected()
        for run in runs:
            await run.cancelled.wait()
        fresh = new_job()
        await again.give(fresh)
        (await scene.backend.next_run()).answer(b"x")
        assert isinstance(await again.end(fresh.job_id), JobResult)
        await scene.agent.service.outbox.wait_until_acknowledged()


@pytest.mark.parametrize(("resume_ms", "after_s"), [(0, 0), (20_000, 20), (2**53, MAX_RESUME_S)])
@in_virtual_time
async def test_jobs_are_given_up_when_nobody_resumes_them_in_time(
    resume_ms: int, after_s: float
) -> None:
    async with play(keeping(resume_ms=resume_ms), jitter=0.5) as scene:
        run = scene.run
        began = now()
        await scene.shut()
        await run.cancelled.wait()
        assert now() - began == pytest.approx(after_s, abs=1)
        scene.coordinator.refusals.clear()
        again = await scene.agent.connected()
        hello = await again.next(Hello)
        assert (hello.session_id, hello.live_jobs) == (None, [])


@in_virtual_time
async def test_a_job_that_arrives_again_on_the_next_link_runs_once() -> None:
    async with play() as scene:
        run = scene.run
        await scene.cut()
        again = await scene.agent.connected()
        await again.send(run.job)
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)
        await again.send(run.job)
        await again.settle()
        assert len(again.ends(run.job.job_id)) == len(scene.backend.runs) == 1


@in_virtual_time
async def test_offsets_that_were_not_offered_do_not_end_the_jobs() -> None:
    async with play(jitter=0.5) as scene:
        run = scene.run
        good, scene.coordinator.answer = scene.coordinator.answer, lambda _: None
        await scene.cut()
        liar = await scene.coordinator.next_agent()
        await liar.next(Hello)
        await liar.send(replace(welcome(), resumed={run.job.job_id: 8}))  # only 7 were sent
        await liar.closed.wait()
        assert liar.socket.close_code == 1002
        scene.coordinator.answer = good
        scene.coordinator.agents.append(scene.peer)  # the one to resume from
        again = await scene.agent.connected()
        run.finish()
        assert isinstance(await again.end(run.job.job_id), JobResult)


@in_virtual_time
async def test_a_drain_without_a_link_waits_for_it_and_sees_the_ends_acknowledged() -> None:
    async with play(jitter=0.5) as scene:
        run = scene.run
        scene.coordinator.refusals.extend([(500, {})] * 4)
        await scene.cut()
        scene.agent.service.stop()
        await asyncio.sleep(1)
        run.finish()
        again = await scene.agent.connected()
        left = (await again.next(Draining)).deadline_ms
        assert 0 < left < 300_000, "what is left of the time, not all of it"
        assert isinstance(await again.end(run.job.job_id), JobResult)
        assert await scene.agent.task == EXIT_OK


@in_virtual_time
async def test_a_drain_whose_link_never_comes_back_ends_in_time() -> None:
    async with play(jitter=0.5, limits=LimitsConfig(drain_timeout_s=30.0)) as scene:
        await scene.shut()
        began = now()
        scene.agent.service.stop()
        assert await scene.agent.task == EXIT_OK
        assert scene.run.cancelled.is_set()
        assert now() - began <= 60


@in_virtual_time
async def test_an_agent_that_is_turned_away_for_good_cancels_what_it_kept() -> None:
    async with play() as scene:
        run = scene.run
        scene.coordinator.answer = lambda _: Rejected("not_enrolled", "go away")
        began = now()
        await scene.cut()
        await run.cancelled.wait()
        assert await scene.agent.task != EXIT_OK
        assert now() - began < 10
