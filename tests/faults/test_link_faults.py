"""What happens to the agent and its jobs when the link to the coordinator fails.

The scripted coordinator sets `resume_ms` to 0. So no session is resumed, and a lost link
cancels its jobs.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from provider_agent.adapters.base import BackendSettings, Unreachable, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.agent.service import EXIT_OK
from provider_agent.protocol.frames import Capabilities, Hello, JobResult
from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.server import Fault
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time


def backend_for(server: FakeOpenAICompatible) -> OpenAICompatibleBackend:
    formats = (WireFormat.OPENAI, WireFormat.ANTHROPIC)
    return OpenAICompatibleBackend(
        BackendSettings(kind=server.kind, url=server.url, formats=formats)
    )


async def cut(peer: AgentConnection) -> None:
    peer.cut()


async def stop_reading(peer: AgentConnection) -> None:
    peer.stop_reading()


async def send_garbage(peer: AgentConnection) -> None:
    await peer.send_raw(b"\xc1")


async def close(peer: AgentConnection) -> None:
    await peer.close(1001)


Failure = Callable[[AgentConnection], Awaitable[None]]

FAILURES: list[Failure] = [cut, stop_reading, send_garbage, close]


@pytest.mark.parametrize("fail", FAILURES)
@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK])
@in_virtual_time
async def test_lost_link_closes_the_upstream_connection_of_its_job(
    fail: Failure, fault: Fault
) -> None:
    async with (
        ScriptedCoordinator() as coordinator,
        FakeOpenAICompatible() as server,
        RunningAgent(coordinator, backend_for(server)) as agent,
    ):
        peer = await agent.connected()
        server.script_jobs(fault)
        job = new_job(MODEL, deadline_ms=3_600_000)
        await peer.send_jobs(job)
        recorded = await server.wait_for_job()
        if fault is Fault.HANG_AFTER_FIRST_CHUNK:
            await peer.wait_for_bytes(job.job_id, 1)
        await fail(peer)
        await recorded.disconnected.wait()
        again = await agent.connected()
        assert agent.service.jobs.in_flight == 0
        fresh = new_job(MODEL)
        await again.send_jobs(fresh)
        assert isinstance(await again.end(fresh.job_id), JobResult)
        assert again.ends(job.job_id) == [], "an end of the abandoned job was sent"


@pytest.mark.parametrize("fail", FAILURES)
@in_virtual_time
async def test_lost_link_cancels_the_second_attempt_and_no_third_starts(fail: Failure) -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, first, second) as agent,
    ):
        peer = await agent.connected()
        await peer.send_jobs(new_job(deadline_ms=3_600_000))
        (await first.next_run()).fail(Unreachable("refused"))
        run = await second.next_run()
        await fail(peer)
        await run.cancelled.wait()
        await agent.connected()
        jobs = agent.service.jobs
        assert (jobs.in_flight, agent.service.busy_ids) == (0, frozenset())
        assert len(first.runs) + len(second.runs) == 2, "a third attempt was started"


@in_virtual_time
async def test_agent_reconnects_to_a_restarted_coordinator() -> None:
    first = ScriptedCoordinator()
    async with first, RunningAgent(first, ScriptedBackend(), jitter=0.5) as agent:
        await (await agent.connected()).next(Capabilities)
        await first.stop()
        await asyncio.sleep(100)
        second = ScriptedCoordinator()
        second.port = first.port
        async with second:
            peer = await second.next_connection()
            await peer.next(Hello)
            assert (await peer.next(Capabilities)).revision == 2
            agent.service.stop()
            assert await agent.task == EXIT_OK


@in_virtual_time
async def test_agent_connects_after_many_refused_upgrades() -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.refusals.extend([(status, {}) for status in (500, 502, 404, 503, 429, 403)])
        async with RunningAgent(coordinator, ScriptedBackend()) as agent:
            peer = await agent.connected()
            assert len(coordinator.upgrades) == 7
            assert (await peer.next(Capabilities)).models


@in_virtual_time
async def test_cancel_of_a_job_of_an_earlier_session_is_ignored() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            old = new_job()
            await peer.send_jobs(old)
            await backend.next_run()
            peer.cut()
            again = await agent.connected()
            # `cancel` sends nothing for a job that was not started on this link. So start `old` and
            # discard its frames: the agent receives only a `Cancel`, for a job it does not know.
            again.protocol.start_job(old)
            again.protocol.to_send.clear()
            await again.cancel(old.job_id)
            job = new_job()
            await again.send_jobs(job)
            (await backend.next_run()).answer(b"x")
            assert isinstance(await again.end(job.job_id), JobResult)


@pytest.mark.parametrize("seed", range(8))
@in_virtual_time
async def test_jobs_end_at_most_once_when_links_break_repeatedly(seed: int) -> None:
    """Check that no job has two ends, no response has a gap, and no job remains."""
    rng = random.Random(seed)
    backend = ScriptedBackend(max_concurrent=8)
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        for _ in range(6):
            peer = await agent.connected()
            jobs = [new_job() for _ in range(rng.randrange(1, 6))]
            for job in jobs:
                await peer.send_jobs(job)
                _run_randomly(rng, await backend.next_run())
                if rng.random() < 0.3:
                    await peer.cancel(job.job_id)
            if rng.random() < 0.5:
                await peer.settle()
            await rng.choice([cut, close, send_garbage])(peer)
            await peer.closed.wait()
            assert all(len(peer.ends(job.job_id)) <= 1 for job in jobs)
        await agent.connected()
        assert agent.service.jobs.in_flight == 0
        assert "channels=0" in repr(agent.service)
        assert all(run.outcome.done() for run in backend.runs)


def _run_randomly(rng: random.Random, run: ScriptedRun) -> None:
    match rng.choice(["answer", "part", "fail", "nothing"]):
        case "answer":
            run.answer(bytes(rng.randrange(1, 50_000)))
        case "part":
            run.start()
            run.send(bytes(rng.randrange(1, 50_000)))
        case "fail":
            run.fail(RuntimeError("a defect"))
