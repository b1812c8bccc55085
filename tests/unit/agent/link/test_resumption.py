"""Jobs after a lost link, with a coordinator that resumes them or does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.jobs.drain import FLUSH_S
from provider_agent.agent.link.resumption import MAX_RESUME_S
from provider_agent.agent.service import EXIT_OK, EXIT_UNDELIVERED
from provider_agent.protocol.frames import Draining, Hello, JobResult, LiveJob, Rejected, ResumedJob
from provider_agent.protocol.limits import MAX_INTEGER, MIN_WINDOW_BYTES, REPLACED
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now

LONG_MS = 3_600_000
"""A deadline that no test reaches."""

FIRST = b"before "
"""The first bytes of each response; the coordinator has received them when a test begins."""


def resuming_coordinator(
    window_bytes: int = 1 << 20, resume_ms: int = 60_000
) -> ScriptedCoordinator:
    reply = welcome(resume_ms=resume_ms, window_bytes=window_bytes)
    coordinator = ScriptedCoordinator(lambda _: reply)
    coordinator.resumes = True
    return coordinator


async def start_stream(peer: AgentConnection, backend: ScriptedBackend) -> ScriptedRun:
    """Start a job, and return when the coordinator has received `FIRST`."""
    job = new_job(deadline_ms=LONG_MS)
    await peer.send_jobs(job)
    run = await backend.next_run()
    run.start()
    run.send(FIRST)
    await peer.wait_for_bytes(job.job_id, len(FIRST))
    return run


class ResumptionHarness(NamedTuple):
    """A connected agent with one streaming job."""

    coordinator: ScriptedCoordinator
    agent: RunningAgent
    backend: ScriptedBackend
    peer: AgentConnection
    run: ScriptedRun

    async def cut(self) -> None:
        """Cut the link, and return when the agent has detected this."""
        self.peer.cut()
        while self.agent.service.uplink.connected.is_set():  # noqa: ASYNC110
            # The agent has no event for a lost link, and `peer.closed` belongs to the coordinator.
            await asyncio.sleep(0)

    async def cut_and_refuse(self) -> None:
        """Cut the link, and refuse the next 10,000 upgrades."""
        self.coordinator.refusals.extend([(500, {})] * 10_000)
        await self.cut()


def live_job(run: ScriptedRun, *, next_offset: int) -> LiveJob:
    """Return the entry of `Hello.live_jobs` for a job whose request has arrived completely."""
    request_offset = len(run.job.request)
    return LiveJob(run.job.job_id, 0, next_offset, request_offset=request_offset)


@asynccontextmanager
async def resumption_harness(
    coordinator: ScriptedCoordinator | None = None,
    *,
    jitter: float = 0.0,
    limits: LimitsConfig | None = None,
) -> AsyncIterator[ResumptionHarness]:
    backend = ScriptedBackend()
    async with coordinator or resuming_coordinator() as coordinator:
        config = agent_config(coordinator.url, limits=limits or LimitsConfig())
        async with RunningAgent(coordinator, backend, config=config, jitter=jitter) as agent:
            peer = await agent.connected()
            yield ResumptionHarness(
                coordinator, agent, backend, peer, await start_stream(peer, backend)
            )


@in_virtual_time
async def test_stream_resumes_at_its_offset() -> None:
    async with resumption_harness() as harness:
        run = harness.run
        await harness.cut()
        run.send(b"between ")
        next_peer = await harness.agent.connected()
        hello = await next_peer.next(Hello)
        assert hello.session_id == b"s" * 16
        assert hello.live_jobs == [live_job(run, next_offset=len(FIRST))]
        run.send(b"after")
        run.finish()
        assert isinstance(await next_peer.end(run.job.job_id), JobResult)
        assert bytes(next_peer.data[run.job.job_id]) == FIRST + b"between after"
        assert len(harness.backend.runs) == 1


@in_virtual_time
async def test_end_during_a_lost_link_is_sent_on_the_next_one() -> None:
    async with resumption_harness() as harness:
        run = harness.run
        await harness.cut()
        run.finish()
        next_peer = await harness.agent.connected()
        assert isinstance(await next_peer.end(run.job.job_id), JobResult)
        await harness.agent.service.outbox.wait_until_acknowledged()


@in_virtual_time
async def test_lost_bytes_are_sent_again() -> None:
    async with resumption_harness() as harness:
        run = harness.run
        harness.peer.stop_reading()
        run.send(b"x" * 5000)
        await asyncio.sleep(1)
        await harness.cut()
        next_peer = await harness.agent.connected()
        hello = await next_peer.next(Hello)
        assert hello.live_jobs == [live_job(run, next_offset=len(FIRST) + 5000)]
        run.finish()
        assert isinstance(await next_peer.end(run.job.job_id), JobResult)
        assert bytes(next_peer.data[run.job.job_id]) == FIRST + b"x" * 5000


@in_virtual_time
async def test_job_continues_without_a_link_until_its_window_is_full() -> None:
    async with resumption_harness(resuming_coordinator(MIN_WINDOW_BYTES)) as harness:
        run = harness.run
        await harness.cut()
        run.send(b"x" * (MIN_WINDOW_BYTES - len(FIRST) - 1))
        assert run.pauses == 0
        run.send(b"y")
        assert run.pauses == 1
        next_peer = await harness.agent.connected()
        await next_peer.wait_for_bytes(run.job.job_id, MIN_WINDOW_BYTES)
        await run.resumed.wait()


@in_virtual_time
async def test_jobs_that_the_coordinator_does_not_resume_are_cancelled() -> None:
    async with resumption_harness() as harness:
        wanted, unwanted = harness.run, await start_stream(harness.peer, harness.backend)
        del harness.peer.protocol.streams[unwanted.job.job_id]
        await harness.cut()
        next_peer = await harness.agent.connected()
        await unwanted.cancelled.wait()
        wanted.finish()
        assert isinstance(await next_peer.end(wanted.job.job_id), JobResult)
        assert next_peer.ends(unwanted.job.job_id) == []


@in_virtual_time
async def test_new_session_cancels_all_jobs_of_the_old_one() -> None:
    async with resumption_harness() as harness:
        runs = [harness.run, *[await start_stream(harness.peer, harness.backend) for _ in range(2)]]
        harness.coordinator.resumes = False
        await harness.cut()
        next_peer = await harness.agent.connected()
        for run in runs:
            await run.cancelled.wait()
        fresh = new_job()
        await next_peer.send_jobs(fresh)
        (await harness.backend.next_run()).answer(b"x")
        assert isinstance(await next_peer.end(fresh.job_id), JobResult)
        await harness.agent.service.outbox.wait_until_acknowledged()


@pytest.mark.parametrize(
    ("resume_ms", "after_s"), [(0, 0), (20_000, 20), (MAX_INTEGER, MAX_RESUME_S)]
)
@in_virtual_time
async def test_jobs_are_cancelled_when_the_session_expires(resume_ms: int, after_s: float) -> None:
    async with resumption_harness(resuming_coordinator(resume_ms=resume_ms), jitter=0.5) as harness:
        run = harness.run
        began = now()
        await harness.cut_and_refuse()
        await run.cancelled.wait()
        assert now() - began == pytest.approx(after_s, abs=1)
        harness.coordinator.refusals.clear()
        next_peer = await harness.agent.connected()
        hello = await next_peer.next(Hello)
        assert (hello.session_id, hello.live_jobs) == (None, [])


@in_virtual_time
async def test_job_that_arrives_again_on_the_next_link_runs_once() -> None:
    async with resumption_harness() as harness:
        run = harness.run
        await harness.cut()
        next_peer = await harness.agent.connected()
        await next_peer.send(run.job)
        run.finish()
        assert isinstance(await next_peer.end(run.job.job_id), JobResult)
        await next_peer.send(run.job)
        await next_peer.settle()
        assert len(next_peer.ends(run.job.job_id)) == len(harness.backend.runs) == 1


@in_virtual_time
async def test_jobs_survive_a_welcome_with_an_offset_beyond_the_sent_bytes() -> None:
    async with resumption_harness(jitter=0.5) as harness:
        run = harness.run
        answer, harness.coordinator.answer = harness.coordinator.answer, lambda _: None
        await harness.cut()
        hostile = await harness.coordinator.next_connection()
        await hostile.next(Hello)
        resumed = [ResumedJob(run.job.job_id, offset=len(FIRST) + 1)]
        await hostile.send(replace(welcome(), resumed=resumed))
        await hostile.closed.wait()
        assert hostile.socket.close_code == 1002
        harness.coordinator.answer = answer
        # The coordinator resumes the session of the last entry of `connections`, which must not be
        # `hostile`.
        harness.coordinator.connections.append(harness.peer)
        next_peer = await harness.agent.connected()
        run.finish()
        assert isinstance(await next_peer.end(run.job.job_id), JobResult)


@in_virtual_time
async def test_late_hello_of_an_abandoned_handshake_does_not_stop_the_agent() -> None:
    # A proxy can deliver a `Hello` after the agent has reconnected. The coordinator takes it for a
    # newer connection, and closes the current one with 4001. In an earlier version, the agent then
    # exited with 78.
    async with resumption_harness(jitter=0.5) as harness:
        run, answer = harness.run, harness.coordinator.answer
        harness.coordinator.answer = lambda _: None
        await harness.cut()
        abandoned = await harness.coordinator.next_connection()
        await abandoned.next(Hello)
        abandoned.cut()
        harness.coordinator.answer = answer
        # The coordinator resumes the session of the last entry of `connections`, which must not be
        # `abandoned`.
        harness.coordinator.connections.append(harness.peer)
        replaced = await harness.agent.connected()
        await asyncio.sleep(4)
        await replaced.close(REPLACED)
        next_peer = await harness.agent.connected()
        run.finish()
        assert isinstance(await next_peer.end(run.job.job_id), JobResult)


@in_virtual_time
async def test_drain_without_a_link_waits_for_the_next_link_and_for_acknowledgements() -> None:
    async with resumption_harness(jitter=0.5) as harness:
        run = harness.run
        harness.coordinator.refusals.extend([(500, {})] * 4)
        await harness.cut()
        harness.agent.service.stop()
        await asyncio.sleep(1)
        run.finish()
        next_peer = await harness.agent.connected()
        remaining_ms = (await next_peer.next(Draining)).deadline_ms
        assert 0 < remaining_ms < 300_000, "less than the whole timeout"
        assert isinstance(await next_peer.end(run.job.job_id), JobResult)
        assert await harness.agent.task == EXIT_OK


@in_virtual_time
async def test_drain_without_a_link_ends_after_its_timeout() -> None:
    async with resumption_harness(jitter=0.5, limits=LimitsConfig(drain_timeout_s=30.0)) as harness:
        await harness.cut_and_refuse()
        began = now()
        harness.agent.service.stop()
        assert await harness.agent.task == EXIT_UNDELIVERED
        assert harness.run.cancelled.is_set()
        # After the timeout, the agent waits for acknowledgements, which cannot arrive.
        assert 30.0 <= now() - began <= 30.0 + FLUSH_S


@in_virtual_time
async def test_final_rejection_cancels_the_jobs_of_the_session() -> None:
    async with resumption_harness() as harness:
        run = harness.run
        harness.coordinator.answer = lambda _: Rejected("not_enrolled", "no such agent")
        began = now()
        await harness.cut()
        await run.cancelled.wait()
        assert await harness.agent.task != EXIT_OK
        assert now() - began < 10
