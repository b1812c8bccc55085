"""Stopping an agent in each of its phases: it ends in time, with the documented exit code."""

import asyncio

import pytest

from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.jobs.drain import FORCED_FLUSH_S
from provider_agent.agent.service import EXIT_FORCED, EXIT_OK, EXIT_UNDELIVERED
from provider_agent.agent.telemetry.status import readiness
from provider_agent.protocol.frames import Drain, Draining, JobError, JobResult
from provider_agent.protocol.limits import REPLACED
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now


@in_virtual_time
async def test_agent_stops_at_once_during_its_first_health_checks() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend()
        backend.gate.clear()
        async with RunningAgent(coordinator, backend) as agent:
            await asyncio.sleep(1)
            assert coordinator.upgrades == []
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_OK
            assert now() == began
            assert backend.closed


@in_virtual_time
async def test_agent_stops_at_once_while_it_waits_for_the_challenge() -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.sends_challenge = False
        async with RunningAgent(coordinator, ScriptedBackend()) as agent:
            peer = await coordinator.next_connection()
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_OK
            assert now() == began
            await peer.closed.wait()
            assert peer.socket.close_code == 1000


@in_virtual_time
async def test_agent_stops_while_it_waits_for_welcome() -> None:
    async with (
        ScriptedCoordinator(lambda _: None) as coordinator,
        RunningAgent(coordinator, ScriptedBackend()) as agent,
    ):
        peer = await coordinator.next_connection()
        await peer.settle()
        agent.service.stop()
        assert await agent.task == EXIT_OK
        await peer.closed.wait()


@in_virtual_time
async def test_agent_stops_at_once_while_its_upgrade_request_is_unanswered() -> None:
    accepted, closed = asyncio.Event(), asyncio.Event()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await reader.read()
        writer.close()
        closed.set()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    coordinator = ScriptedCoordinator()
    coordinator.port = server.sockets[0].getsockname()[1]
    async with RunningAgent(coordinator, ScriptedBackend()) as agent:
        await accepted.wait()
        began = now()
        agent.service.stop()
        assert await agent.task == EXIT_OK
        assert now() == began
    await closed.wait()
    server.close()
    await server.wait_closed()


@in_virtual_time
async def test_running_job_finishes_when_the_agent_stops_while_the_coordinator_drains() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job()
            await peer.send_jobs(job)
            run = await backend.next_run()
            await peer.send(Drain("restart", 30_000))
            await peer.settle()
            assert readiness(agent.service.status()) == [
                "coordinator draining: it is stopping and sends no new jobs"
            ]
            agent.service.stop()
            await asyncio.sleep(20)
            run.answer(b"x")
            assert isinstance(await peer.end(job.job_id), JobResult)
            assert await agent.task == EXIT_OK


@in_virtual_time
async def test_a_second_stop_cancels_the_jobs_while_the_link_is_down() -> None:
    async with ScriptedCoordinator(lambda _: welcome(resume_ms=60_000)) as coordinator:
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend, jitter=0.5) as agent:
            peer = await agent.connected()
            await peer.send_jobs(new_job(deadline_ms=3_600_000))
            run = await backend.next_run()
            coordinator.refusals.extend([(500, {})] * 1000)
            peer.cut()
            await peer.closed.wait()
            agent.service.stop()
            await asyncio.sleep(1)
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_FORCED
            assert run.cancelled.is_set()
            assert now() - began == pytest.approx(FORCED_FLUSH_S), (
                "an immediate stop took more than the last wait for acknowledgements"
            )


@in_virtual_time
async def test_an_unacknowledged_end_does_not_extend_the_drain_to_its_limit() -> None:
    limits = LimitsConfig(drain_timeout_s=300.0)
    async with ScriptedCoordinator(lambda _: welcome(resume_ms=20_000)) as coordinator:
        config = agent_config(coordinator.url, limits=limits)
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend, config=config, jitter=0.5) as agent:
            peer = await agent.connected()
            peer.acknowledges = False
            job = new_job()
            await peer.send_jobs(job)
            (await backend.next_run()).answer(b"x")
            await peer.end(job.job_id)
            coordinator.refusals.extend([(500, {})] * 1000)
            peer.cut()
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_UNDELIVERED
            assert now() - began < 25, "the session expires after 20 s"


@pytest.mark.parametrize("link", ["slow", "stalled"])
@in_virtual_time
async def test_drain_delivers_every_response_over_a_bad_link(link: str) -> None:
    # In an earlier version, a stalled link lost all 8 running jobs, and the exit code was still 0.
    async with ScriptedCoordinator(lambda _: welcome(resume_ms=60_000)) as coordinator:
        coordinator.resumes = True
        backend = ScriptedBackend(max_concurrent=8)
        async with RunningAgent(coordinator, backend, jitter=0.5) as agent:
            peer = await agent.connected()
            jobs = [new_job() for _ in range(8)]
            await peer.send_jobs(*jobs)
            runs = [await backend.next_run() for _ in jobs]
            peer.stop_reading()
            agent.service.stop()
            for run in runs:
                run.answer(b"x" * 900_000)
            await asyncio.sleep(25)
            if link == "slow":
                peer.socket.transport.resume_reading()
            else:
                peer = await agent.connected()  # after the watchdog has aborted the stalled link
            for job in jobs:
                assert isinstance(await peer.end(job.job_id), JobResult)
                assert len(peer.data[job.job_id]) == 900_000
            assert await agent.task == EXIT_OK


@in_virtual_time
async def test_responses_that_exceed_the_drain_timeout_are_cut_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = LimitsConfig(drain_timeout_s=10.0)
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, limits=limits)
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            jobs = [new_job() for _ in range(8)]
            await peer.send_jobs(*jobs)
            runs = [await backend.next_run() for _ in jobs]
            peer.stop_reading()
            for run in runs:
                run.answer(b"x" * 900_000)
            agent.service.stop()
            await asyncio.sleep(12)
            peer.socket.transport.resume_reading()
            ends = [await peer.end(job.job_id) for job in jobs]
            assert await agent.task == EXIT_UNDELIVERED
            cut = [end for end in ends if isinstance(end, JobError)]
            assert cut, "the kernel's buffers held every response"
            assert {end.code for end in cut} == {"draining"}
            (logged,) = [one for one in caplog.records if one.message == "jobs not delivered"]
            assert vars(logged)["fields"] == {
                "stopped": 0,
                "cut": len(cut),
                "lost": 0,
                "unacknowledged": 0,
            }


@in_virtual_time
async def test_replacement_during_a_drain_is_not_an_error() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job()
            await peer.send_jobs(job)
            run = await backend.next_run()
            agent.service.stop()
            await peer.next(Draining)
            run.answer(b"x")
            await peer.end(job.job_id)
            await peer.close(REPLACED)
            assert await agent.task == EXIT_OK
